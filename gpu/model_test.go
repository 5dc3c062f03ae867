package gpu

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// tinyModel is a random model together with its decoded weights.
type tinyModel struct {
	file    *format.Reader
	prog    *model.Program
	weights map[string][][]float32 // [row][col]; vectors have one row
}

// newTinyModel makes a model whose matrices are of every kind of coding.
func newTinyModel(t *testing.T, arch string) *tinyModel { return newModel(t, arch, 2, tinyKinds()) }

func tinyKinds() []spec {
	row := format.Scale{Kind: format.ScaleRow, Scale: 0.03}
	return []spec{
		{rowsPerGroup: 16, levels: 15, zero: -7, scale: row, outliers: 4},
		{rowsPerGroup: 8, levels: 16, zero: -8, scale: q8, rowOrder: true},
		{rowsPerGroup: 5, levels: 9, lowBits: 1, zero: -8, scale: row, colScale: true},
		{rowsPerGroup: 128, levels: 16, scale: format.Scale{Kind: format.ScaleTensor, Scale: 0.02, Min: -0.15}},
		{rowsPerGroup: 32, levels: 12, lowBits: 8, zero: 112, float: format.FloatBF16, scale: noScale},
		{rowsPerGroup: 32, levels: 32, lowBits: 5, zero: -512, scale: format.Scale{Kind: format.ScaleRow, Scale: 0.0005}},
	}
}

// newUniformModel makes a model whose matrices are all of one kind, as compress makes them.
func newUniformModel(t *testing.T, arch string, layers int) *tinyModel {
	return newModel(t, arch, layers, []spec{{rowsPerGroup: 16, levels: 15, zero: -7, scale: format.Scale{Kind: format.ScaleRow,
		Scale: 0.03}}})
}

// newModel makes a model whose matrices are of the given kinds in turn.
func newModel(t *testing.T, arch string, layers int, kinds []spec) *tinyModel {
	cfg := &model.Config{Architecture: arch, NVocab: 301, NEmbd: 128, NLayers: layers, NHeads: 4, NKVHeads: 2, HeadDim: 32, NFF: 320,
		NCtx:    64,
		NormEps: 1e-5, RopeBase: 10000, RopeDim: 32}
	prog, err := model.Build(cfg, func(name string) bool {
		return name != "rope_freqs.weight" && (arch == "qwen2" || name != "output.weight" && !strings.HasSuffix(name, ".bias"))
	})
	require.NoError(t, err)
	b := newBuilder(t, 11)
	m := &tinyModel{prog: prog, weights: map[string][][]float32{}}
	coded, raw := map[string]*format.Coded{}, map[string]*format.Raw{}
	vector := func(name string, n int, around float32) {
		v := make([]float32, n)
		for i := range v {
			v[i] = around + float32(b.rng.NormFloat64())/8
		}
		raw[name], m.weights[name] = rawOf(1, n, format.F32, v), [][]float32{v}
	}
	for i, n := range prog.Nodes {
		if n.Bias != "" {
			vector(n.Bias, prog.Width(n.Dst), 0)
		}
		if n.Weight == "" || m.weights[n.Weight] != nil {
			continue
		}
		if n.Op == model.OpRMSNorm {
			vector(n.Weight, prog.Width(n.Dst), 1)
			continue
		}
		s := kinds[i%len(kinds)]
		s.rows, s.cols = prog.Width(n.Dst), prog.Width(n.A)
		if n.Op == model.OpEmbed {
			s.rows, s.cols = cfg.NVocab, cfg.NEmbd
		}
		r := b.build(s)
		if s.scale.Kind == format.ScaleBlock { // q8's random scales are small
			for j := range r.coded.D {
				r.coded.D[j] += 5 << 10 // ·2⁵
			}
			r.values = valuesOf(r.coded, r.codes)
		}
		coded[n.Weight], m.weights[n.Weight] = r.coded, r.values
	}
	m.file = writeModel(t, cfg, b.tables, coded, raw)
	return m
}

// logits is a plain forward pass in float64 over all tokens at once: the definition of what every backend computes. Keys and
// values are rounded to half precision, as caches hold them.
func (m *tinyModel) logits(tokens []int32) [][]float32 {
	cfg := &m.prog.Config
	bufs := [model.NumBuffers][][]float64{}
	for b := range model.NumBuffers {
		for range tokens {
			bufs[b] = append(bufs[b], make([]float64, m.prog.Width(b)))
		}
	}
	for _, n := range m.prog.Nodes {
		w := m.weights[n.Weight]
		for t, tok := range tokens {
			dst, a, b := bufs[n.Dst][t], bufs[n.A][t], bufs[n.B][t]
			switch n.Op {
			case model.OpEmbed:
				for i, v := range w[tok] {
					dst[i] = float64(v)
				}
			case model.OpRMSNorm:
				sum := 0.0
				for _, v := range a {
					sum += v * v
				}
				for i, v := range a {
					dst[i] = v / math.Sqrt(sum/float64(len(a))+float64(cfg.NormEps)) * float64(w[0][i])
				}
			case model.OpMatMul:
				for i, row := range w {
					dst[i] = 0
					if n.Bias != "" {
						dst[i] = float64(m.weights[n.Bias][0][i])
					}
					for j, v := range row {
						dst[i] += float64(v) * a[j]
					}
				}
			case model.OpRoPE:
				m.rotate(dst, t)
			case model.OpAttention:
				m.attend(dst, a, bufs[n.B], bufs[n.C], t)
			case model.OpGLU:
				for i := range dst {
					dst[i] = a[i] / (1 + math.Exp(-a[i])) * b[i]
				}
			case model.OpAdd:
				for i := range dst {
					dst[i] += a[i]
				}
			}
		}
	}
	out := make([][]float32, len(tokens))
	for t, row := range bufs[model.BufLogits] {
		for _, v := range row {
			out[t] = append(out[t], float32(v))
		}
	}
	return out
}

func (m *tinyModel) rotate(x []float64, pos int) {
	cfg := &m.prog.Config
	for h := 0; h < len(x); h += cfg.HeadDim {
		for i := range cfg.RopeDim / 2 {
			a, b := h+2*i, h+2*i+1
			if m.prog.Ropes[0].Neox {
				a, b = h+i, h+i+cfg.RopeDim/2
			}
			sin, cos := math.Sincos(float64(pos) * math.Pow(float64(cfg.RopeBase), -2*float64(i)/float64(cfg.RopeDim)))
			x[a], x[b] = x[a]*cos-x[b]*sin, x[a]*sin+x[b]*cos
		}
	}
}

func (m *tinyModel) attend(dst, q []float64, keys, values [][]float64, t int) {
	cfg := &m.prog.Config
	d := cfg.HeadDim
	for h := range cfg.NHeads {
		kv := h / (cfg.NHeads / cfg.NKVHeads) * d
		scores, sum := make([]float64, t+1), 0.0
		for p := range scores {
			for i := range d {
				scores[p] += q[h*d+i] * float64(toHalf(float32(keys[p][kv+i])))
			}
			scores[p] = math.Exp(scores[p] / math.Sqrt(float64(d)))
			sum += scores[p]
		}
		for i := range d {
			dst[h*d+i] = 0
			for p, s := range scores {
				dst[h*d+i] += s / sum * float64(toHalf(float32(values[p][kv+i])))
			}
		}
	}
}

func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

func hasPrefixAny(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
