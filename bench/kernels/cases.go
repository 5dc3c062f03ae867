package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// shape is a matrix of some model.
type shape struct {
	model      string
	rows, cols int
}

func (s shape) String() string { return fmt.Sprintf("%s, %d × %d", s.model, s.rows, s.cols) }

func (o *options) shapes() []shape {
	if o.device == "emu" {
		return []shape{{"tiny", 40, 576}}
	}
	return []shape{
		{"SmolLM2-135M", 576, 576}, {"SmolLM2-135M", 1536, 576}, {"SmolLM2-135M", 576, 1536},
		{"SmolLM2-1.7B, Llama-3.2-1B", 2048, 2048}, {"SmolLM2-1.7B, Llama-3.2-1B", 8192, 2048},
		{"SmolLM2-1.7B, Llama-3.2-1B", 2048, 8192},
		{"phi3-mini", 3072, 3072}, {"phi3-mini", 8192, 3072}, {"phi3-mini", 3072, 8192},
		{"mistral-7B", 4096, 4096}, {"mistral-7B", 14336, 4096}, {"mistral-7B", 4096, 14336},
	}
}

// coding is how random bell-shaped codes are made and coded.
type coding struct {
	name    string
	levels  int
	lowBits int
	sigma   float64 // of the codes, before they are rounded
	block   bool    // scales for blocks of 32 columns instead of rows
}

// setting is one way to store a matrix and to multiply with it.
type setting struct {
	coding       coding
	maxLen       int // limit of code lengths
	rowsPerGroup int // rows of a chunk; 0 = as chosen when models are compressed
	plan         engine.Plan
	tokens       int
}

var codings = [...]coding{
	{"3.2 bits", 16, 0, 2.2, false},
	{"2.2 bits", 16, 0, 1.1, false},
	{"4.2 bits", 16, 1, 4.4, false},
	{"6.2 bits", 16, 3, 17.6, false},
	{"3.2 bits, blocks", 16, 0, 2.2, true},
}

// settings lists what is compared on each shape.
func (o *options) settings() []setting {
	var all []setting
	plans := []engine.Plan{engine.PlanFused, engine.PlanResident}
	for _, c := range codings {
		for _, p := range plans {
			all = append(all, setting{c, huffman.MaxCodeLen, 0, p, 1})
		}
	}
	batches := []int{4, 8, 64}
	if o.full {
		batches = []int{2, 3, 4, 5, 6, 7, 8, 16, 64, 256}
	}
	if o.device == "emu" {
		batches = []int{3, 9}
	}
	for _, n := range batches {
		for _, p := range plans {
			all = append(all, setting{codings[0], huffman.MaxCodeLen, 0, p, n})
		}
	}
	lengths, rows := []int{9, 10, 11}, []int{4, 8, 16, 32, 64}
	if !o.full {
		lengths, rows = []int{10}, []int{8, 32}
	}
	for _, l := range lengths {
		all = append(all, setting{codings[0], l, 0, engine.PlanFused, 1})
	}
	for _, r := range rows {
		all = append(all, setting{codings[0], huffman.MaxCodeLen, r, engine.PlanFused, 1})
	}
	return all
}

// matrix makes codes and scales of a shape. The same seed gives the same matrix.
func (c *coding) matrix(s shape) *codec.Matrix {
	rng := rand.New(rand.NewPCG(uint64(s.rows), uint64(s.cols)))
	n := c.levels << c.lowBits
	m := &codec.Matrix{Rows: s.rows, Cols: s.cols, Codes: make([]int32, s.rows*s.cols)}
	m.Coding = format.Coding{Levels: c.levels, LowBits: c.lowBits, Zero: -int32(n / 2)}
	for i := range m.Codes {
		m.Codes[i] = int32(max(0, min(n-1, int(math.Round(rng.NormFloat64()*c.sigma))+n/2)))
	}
	const block = 32
	if c.block {
		m.Scale = format.Scale{Kind: format.ScaleBlock, Block: block, Super: block}
		m.D = halves(rng, s.rows*s.cols/block)
	} else {
		m.Scale = format.Scale{Kind: format.ScaleRow, Scale: 0.01}
		m.RowScale = halves(rng, s.rows)
	}
	return m
}

// halves returns n random float16 scales around 1.
func halves(rng *rand.Rand, n int) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = float16.Fromfloat32(0.5 + rng.Float32()).Bits()
	}
	return v
}

// weights returns rows of the matrix as numbers.
func weights(m *codec.Matrix, row int) []float32 {
	w := make([]float32, m.Cols)
	for j := range w {
		q := float32(m.Codes[row*m.Cols+j] + m.Coding.Zero)
		if m.Scale.Kind == format.ScaleRow {
			w[j] = m.Scale.Scale * float16.Frombits(m.RowScale[row]).Float32() * q
		} else {
			w[j] = float16.Frombits(m.D[(row*m.Cols+j)/m.Scale.Block]).Float32() * q
		}
	}
	return w
}

// errImpossible says that a setting does not go with a matrix: it has too many symbols for the length limit, or rows for a chunk.
var errImpossible = errors.New("impossible setting")

// write codes m and stores it as tensor "w" of a new file in dir.
func (s *setting) write(dir string, m *codec.Matrix) (string, error) {
	sized := *m
	hist := make([]uint64, sized.Coding.Levels*sized.Coding.Levels)
	for i := 0; i+1 < len(sized.Codes); i += 2 { // columns are even
		hist[int(sized.Codes[i])>>sized.Coding.LowBits*sized.Coding.Levels+int(sized.Codes[i+1])>>sized.Coding.LowBits]++
	}
	table, err := huffman.Build(hist, sized.Coding.Levels, s.maxLen)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errImpossible, err)
	}
	if sized.Coding.RowsPerGroup = s.rowsPerGroup; s.rowsPerGroup == 0 {
		bits, _ := table.Bits(hist)
		sized.Coding.RowsPerGroup = format.ChooseRowsPerGroup(m.Rows, m.Cols, float64(bits)/float64(len(m.Codes)))
	}
	c, err := sized.Encode([]*huffman.Table{table})
	if err != nil {
		return "", fmt.Errorf("%w: %w", errImpossible, err)
	}
	path := filepath.Join(dir, "matrix.ellm")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	w, err := format.Create(path)
	if err != nil {
		return "", err
	}
	defer w.Abort()
	if err := w.Coded("w", c); err != nil {
		return "", err
	}
	_, err = w.Finish(&format.Meta{Producer: "bench/kernels", Config: []byte("{}")}, []*huffman.Table{table})
	return path, err
}
