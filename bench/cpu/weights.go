package main

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"

	"github.com/klauspost/compress/huff0"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// sample is a matrix of bell-shaped integers as this project codes it and as huff0 does.
type sample struct {
	entropy float64 // of the integers, bits per weight
	weights int

	coded  *format.Coded
	tables []*huffman.Table
	rate   float64 // bits per weight in the container's form

	table    []byte // huff0's, one for all blocks
	blocks   [][]byte
	lengths  []int // integers of each block
	huffRate float64
}

// sampleRows and sampleCols are the shape of a sample: 4 M weights with the columns of a whole tile, more than the caches of one
// core hold when decoded.
const (
	sampleRows = 2048
	sampleCols = 2048
)

// huffBlock is the integers per block of huff0: large, so that its jump tables and starts do not count.
const huffBlock = 64 << 10

// newSample draws normal numbers, rounded to a grid on which their entropy is about `entropy` bits.
func newSample(entropy float64, rows, cols int) (*sample, error) {
	rng := rand.New(rand.NewPCG(7, uint64(entropy*1000)))
	// h(σ) = log2(σ·√(2πe)) for a grid of step 1.
	sigma := math.Exp2(entropy) / math.Sqrt(2*math.Pi*math.E)
	m := &codec.Matrix{Rows: rows, Cols: cols, Codes: make([]int32, rows*cols), Scale: format.Scale{Kind: format.ScaleTensor,
		Scale: 1}}
	symbols := make([]byte, len(m.Codes))
	for i := range m.Codes {
		q := min(max(math.Round(rng.NormFloat64()*sigma), -127), 127)
		m.Codes[i], symbols[i] = int32(q), byte(int(q)+128)
	}
	s := &sample{weights: len(m.Codes)}
	s.entropy = codec.Entropy(countBytes(symbols))
	if err := s.code(m); err != nil {
		return nil, err
	}
	return s, s.codeHuff0(symbols)
}

func countBytes(b []byte) []uint32 {
	hist := make([]uint32, 256)
	for _, v := range b {
		hist[v]++
	}
	return hist
}

func (s *sample) code(m *codec.Matrix) (err error) {
	m.Coding, _, _ = codec.Choose(m.Codes, m.Cols, codec.Candidates(m.Codes), false)
	base := codec.Base(&m.Coding)
	for i := range m.Codes {
		m.Codes[i] -= base
	}
	if s.coded, s.tables, err = codec.EncodeMatrix(m); err != nil {
		return err
	}
	c := s.coded
	words := len(c.Stream) + len(c.Low) + len(c.ChunkOffset) + len(c.Outliers) + len(c.OutlierStart)
	s.rate = float64(32*words+16*len(c.MainWords)+8*len(c.LaneTail)+8*len(c.ChunkTable)) / float64(s.weights)
	return nil
}

func (s *sample) codeHuff0(symbols []byte) error {
	enc := &huff0.Scratch{Reuse: huff0.ReusePolicyMust}
	hist := [256]uint32(countBytes(symbols))
	if err := enc.BuildCTable(&hist); err != nil {
		return err
	}
	var err error
	if s.table, err = enc.AppendTable(nil); err != nil {
		return err
	}
	size := len(s.table)
	for first := 0; first < len(symbols); first += huffBlock {
		part := symbols[first:min(first+huffBlock, len(symbols))]
		out, _, err := huff0.Compress4X(part, enc)
		if err != nil {
			return fmt.Errorf("huff0: block at %d: %w", first, err)
		}
		s.blocks, s.lengths = append(s.blocks, append([]byte{}, out...)), append(s.lengths, len(part))
		size += len(out)
	}
	s.huffRate = 8 * float64(size) / float64(s.weights)
	return nil
}

// huff0 returns a function that decodes all blocks, one into the other's place.
func (s *sample) huff0() (func() error, error) {
	scratch, _, err := huff0.ReadTable(s.table, nil)
	if err != nil {
		return nil, err
	}
	dec, dst := scratch.Decoder(), make([]byte, huffBlock)
	return func() error {
		for i, b := range s.blocks {
			n := s.lengths[i]
			if _, err := dec.Decompress4X(dst[:0:n], b); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// decoder returns a function that decodes all chunks, one into the other's place.
func (s *sample) decoder(i isa.ISA) (func() error, error) {
	m, err := decode.New(s.coded, decode.NewTables(s.tables), i)
	if err != nil {
		return nil, err
	}
	c := s.coded
	stride := c.StepsPerTile() * format.StepCols
	buf := make([]byte, c.Coding.RowsPerGroup*stride)
	return func() error {
		for g := range c.Groups() {
			for k := range c.Tiles() {
				m.Chunk(g, k, buf, stride)
			}
		}
		return nil
	}, nil
}

// fused returns a function that multiplies the matrix with one vector, decoding every chunk into the first-level cache.
func (s *sample) fused(i isa.ISA, products dot.Kernels) (func() error, error) {
	m, err := decode.New(s.coded, decode.NewTables(s.tables), i)
	if err != nil {
		return nil, err
	}
	c := s.coded
	stride := c.StepsPerTile() * format.StepCols
	buf := make([]byte, c.Coding.RowsPerGroup*stride)
	x := quantized(products, c.Steps())
	out := make([]int32, 2*c.Coding.RowsPerGroup)
	width := bits.Len(uint(c.Coding.Levels<<c.Coding.LowBits - 1))
	return func() error {
		for g := range c.Groups() {
			for k := range c.Tiles() {
				m.Chunk(g, k, buf, stride)
				rows := dot.Rows{Width: max(7, width), Below: width, Nibble: buf, NibbleStride: stride, Count: c.GroupRows(g),
					Steps: c.TileSteps(k)}
				products.Dot(out, &rows, x[k*c.StepsPerTile()*2*format.StepCols:])
			}
		}
		return nil
	}, nil
}

// quantized returns a vector of activations for package dot.
func quantized(k dot.Kernels, steps int) []int8 {
	rng := rand.New(rand.NewPCG(9, 9))
	x := make([]float32, steps*dot.StepCols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	q := make([]int8, 2*len(x))
	for at := 0; at < len(x); at += dot.MaxSteps * dot.StepCols { // a tile at a time
		k.Quantize(q[2*at:], x[at:min(len(x), at+dot.MaxSteps*dot.StepCols)])
	}
	return q
}
