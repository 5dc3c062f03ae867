package cpu

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// tiny is a random model: its file, its program and all weights as float64.
type tiny struct {
	file    *format.Reader
	prog    *model.Program
	weights map[string][]float64 // natural row order
}

type tinyOptions struct {
	arch      string
	tied      bool
	ropeFreqs bool
	recipe    int // index into recipes, for the first matrix; the others take those that follow and fit
}

// newTiny writes a model of 2 layers, with dimensions that are no powers of two, and a different coding for every matrix.
func newTiny(t testing.TB, o tinyOptions) *tiny {
	cfg := model.Config{
		Architecture: o.arch, NVocab: 97, NEmbd: 72, NLayers: 2, NHeads: 6, NKVHeads: 2, HeadDim: 20, NFF: 192, NCtx: 512,
		NormEps: 1e-5, RopeBase: 10000, RopeDim: 16, RopeScale: 2,
	}
	m := &tiny{weights: map[string][]float64{}}
	has := func(name string) bool {
		return (o.arch == "qwen2" || !strings.HasSuffix(name, ".bias")) && (name != "output.weight" || !o.tied) &&
			(name != "rope_freqs.weight" || o.ropeFreqs)
	}
	prog, err := model.Build(&cfg, has)
	require.NoError(t, err)
	m.prog = prog
	path := filepath.Join(t.TempDir(), "tiny.ellm")
	w, err := format.Create(path)
	require.NoError(t, err)
	b := &tinyBuilder{t: t, m: m, w: w, rng: rand.New(rand.NewPCG(11, uint64(o.recipe))), recipe: o.recipe}
	for _, n := range prog.Nodes {
		switch n.Op {
		case model.OpEmbed:
			b.matrix(n.Weight, cfg.NVocab, cfg.NEmbd, 1)
		case model.OpMatMul:
			b.matrix(n.Weight, prog.Width(n.Dst), prog.Width(n.A), 1/math.Sqrt(float64(prog.Width(n.A))))
			if n.Bias != "" {
				b.vector(n.Bias, prog.Width(n.Dst), 0, 0.3)
			}
		case model.OpRMSNorm:
			b.vector(n.Weight, prog.Width(n.A), 1, 0.2)
		}
	}
	if o.ropeFreqs {
		b.vector("rope_freqs.weight", cfg.RopeDim/2, 2, 0.5)
	}
	config, err := json.Marshal(cfg)
	require.NoError(t, err)
	_, err = w.Finish(&format.Meta{Config: config}, b.tables)
	require.NoError(t, err)
	m.file, err = format.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { m.file.Close() })
	return m
}

type tinyBuilder struct {
	t      testing.TB
	m      *tiny
	w      *format.Writer
	rng    *rand.Rand
	recipe int
	tables []*huffman.Table
}

// matrix writes a matrix whose weights have about the given spread.
func (b *tinyBuilder) matrix(name string, rows, cols int, spread float64) {
	if _, done := b.m.weights[name]; done {
		return
	}
	r := cputest.Recipes[b.recipe%len(cputest.Recipes)]
	for b.recipe++; r.Every > 0 && cols%r.Every != 0; b.recipe++ {
		r = cputest.Recipes[b.recipe%len(cputest.Recipes)]
	}
	c, tables := r.Encode(b.t, b.rng, rows, cols)
	for i := range c.ChunkTable {
		c.ChunkTable[i] += uint8(len(b.tables))
	}
	b.tables = append(b.tables, tables...)
	// Rescale to the wanted spread, as far as the coding has a scale to do it with.
	weights, err := codec.Decode(c, b.tables)
	require.NoError(b.t, err)
	rms := 0.0
	for _, v := range weights {
		rms += float64(v) * float64(v) / float64(len(weights))
	}
	f := float32(spread / math.Sqrt(rms))
	switch c.Scale.Kind {
	case format.ScaleTensor, format.ScaleRow:
		c.Scale.Scale *= f
		c.Scale.Min *= f
	case format.ScaleBlock:
		scaleHalves(c.D, f)
		scaleHalves(c.DMin, f)
	default:
		c.ColScale = make([]float32, cols)
		for i := range c.ColScale {
			c.ColScale[i] = f
		}
	}
	weights, err = codec.Decode(c, b.tables)
	require.NoError(b.t, err)
	require.NoError(b.t, b.w.Coded(name, c))
	b.m.weights[name] = widen(weights)
}

func scaleHalves(v []uint16, f float32) {
	for i, h := range v {
		v[i] = float16.Fromfloat32(float16.Frombits(h).Float32() * f).Bits()
	}
}

// vector writes a raw vector.
func (b *tinyBuilder) vector(name string, n int, mean, spread float64) {
	data, v := []byte(nil), make([]float32, n)
	for i := range v {
		v[i] = float32(mean + spread*b.rng.NormFloat64())
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v[i]))
	}
	require.NoError(b.t, b.w.Raw(name, &format.Raw{Rows: 1, Cols: n, DType: format.F32, Data: data}))
	b.m.weights[name] = widen(v)
}

func widen(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, f := range v {
		out[i] = float64(f)
	}
	return out
}

// logits computes the logits of every token by the textbook, in float64 and with nothing shared or cached.
func (m *tiny) logits(tokens []int32) [][]float64 {
	c := &m.prog.Config
	x := make([][]float64, len(tokens))
	for t, id := range tokens {
		x[t] = append([]float64(nil), m.weights["token_embd.weight"][int(id)*c.NEmbd:][:c.NEmbd]...)
	}
	for l := range c.NLayers {
		name := func(s string) string { return fmt.Sprintf("blk.%d.%s", l, s) }
		q, k, v := make([][]float64, len(x)), make([][]float64, len(x)), make([][]float64, len(x))
		for t := range x {
			h := m.rmsNorm(x[t], name("attn_norm.weight"))
			q[t], k[t], v[t] = m.linear(h, name("attn_q")), m.linear(h, name("attn_k")), m.linear(h, name("attn_v"))
			m.rotate(q[t], t)
			m.rotate(k[t], t)
		}
		for t := range x {
			a := make([]float64, c.NHeads*c.HeadDim)
			for h := range c.NHeads {
				attendPlainly(a[h*c.HeadDim:][:c.HeadDim], q[t][h*c.HeadDim:], k[:t+1], v[:t+1], h/(c.NHeads/c.NKVHeads)*c.HeadDim)
			}
			addTo(x[t], m.linear(a, name("attn_output")))
		}
		for t := range x {
			h := m.rmsNorm(x[t], name("ffn_norm.weight"))
			gate, up := m.linear(h, name("ffn_gate")), m.linear(h, name("ffn_up"))
			for i, g := range gate {
				gate[i] = g / (1 + math.Exp(-g)) * up[i]
			}
			addTo(x[t], m.linear(gate, name("ffn_down")))
		}
	}
	out := make([][]float64, len(x))
	head := "output"
	if _, ok := m.weights["output.weight"]; !ok {
		head = "token_embd"
	}
	for t := range x {
		out[t] = m.linear(m.rmsNorm(x[t], "output_norm.weight"), head)
	}
	return out
}

func addTo(x, y []float64) {
	for i := range x {
		x[i] += y[i]
	}
}

func (m *tiny) rmsNorm(x []float64, weight string) []float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v / math.Sqrt(sum/float64(len(x))+float64(m.prog.Config.NormEps)) * m.weights[weight][i]
	}
	return out
}

func (m *tiny) linear(x []float64, name string) []float64 {
	w := m.weights[name+".weight"]
	out := make([]float64, len(w)/len(x))
	copy(out, m.weights[name+".bias"])
	for r := range out {
		for i, v := range x {
			out[r] += w[r*len(x)+i] * v
		}
	}
	return out
}

func (m *tiny) rotate(x []float64, pos int) {
	c := &m.prog.Config
	for h := 0; h < len(x); h += c.HeadDim {
		for i := range c.RopeDim / 2 {
			theta := float64(pos) / float64(c.RopeScale) * math.Pow(float64(c.RopeBase), -2*float64(i)/float64(c.RopeDim))
			if d := m.weights["rope_freqs.weight"]; d != nil {
				theta /= d[i]
			}
			a, b := h+2*i, h+2*i+1
			if m.prog.Ropes[0].Neox {
				a, b = h+i, h+i+c.RopeDim/2
			}
			s, cos := math.Sincos(theta)
			x[a], x[b] = x[a]*cos-x[b]*s, x[a]*s+x[b]*cos
		}
	}
}

// attendPlainly is attention of one query over all given keys; offset is where the head's part of keys and values begins.
func attendPlainly(out, q []float64, k, v [][]float64, offset int) {
	p, sum := make([]float64, len(k)), 0.0
	for j := range k {
		s := 0.0
		for i := range out {
			s += q[i] * k[j][offset+i]
		}
		p[j] = math.Exp(s / math.Sqrt(float64(len(out))))
		sum += p[j]
	}
	for j := range v {
		for i := range out {
			out[i] += p[j] / sum * v[j][offset+i]
		}
	}
}
