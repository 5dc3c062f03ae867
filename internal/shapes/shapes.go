// Package shapes makes stand-ins of models from their hyperparameters: random bell-shaped weights, coded, in the shapes of
// published models. They serve to plan and to predict, without a file; they cannot be run, since only the sizes of what they hold
// are those of a model.
package shapes

import (
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// shape is a model's published hyperparameters. Heads are of embd / heads dimensions.
type shape struct {
	arch                                         string
	vocab, embd, layers, heads, kvHeads, ff, ctx int
	tied                                         bool   // the head is the embedding
	kinds                                        string // model.Config.Layers
}

func shapes() map[string]shape {
	return map[string]shape{
		"smollm2-135m":   {"llama", 49152, 576, 30, 9, 3, 1536, 8192, true, ""},
		"smollm2-1.7b":   {"llama", 49152, 2048, 24, 32, 32, 8192, 8192, true, ""},
		"tinyllama-1.1b": {"llama", 32000, 2048, 22, 32, 4, 5632, 2048, false, ""},
		"llama-3.2-1b":   {"llama", 128256, 2048, 16, 32, 8, 8192, 131072, true, ""},
		"llama-3.2-3b":   {"llama", 128256, 3072, 28, 24, 8, 8192, 131072, true, ""},
		"llama-3.1-8b":   {"llama", 128256, 4096, 32, 32, 8, 14336, 131072, false, ""},
		"mistral-7b":     {"llama", 32000, 4096, 32, 32, 8, 14336, 32768, false, ""},
		"qwen2.5-0.5b":   {"qwen2", 151936, 896, 24, 14, 2, 4864, 32768, true, ""},
		"qwen2.5-1.5b":   {"qwen2", 151936, 1536, 28, 12, 2, 8960, 32768, true, ""},
		"qwen2.5-7b":     {"qwen2", 152064, 3584, 28, 28, 4, 18944, 32768, false, ""},
		"lfm2-1.2b":      {"lfm2", 65536, 2048, 16, 32, 8, 8192, 128000, true, "ccaccaccacacacac"},
	}
}

// Names returns the known shapes.
func Names() []string {
	var names []string
	for n := range shapes() {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

const (
	// MinBits and MaxBits bound the bits per weight of a stand-in.
	MinBits, MaxBits = 1.5, 8
	passes           = 12    // of the search for the weights' spread
	closeEnough      = 0.003 // bits per weight
	tolerance        = 0.05  // likewise
)

// Model returns a stand-in of the named model whose tensors take about `bits` per weight in all, and its program.
func Model(name string, bits float64) (*format.Reader, *model.Program, error) {
	s, ok := shapes()[name]
	if !ok {
		return nil, nil, fmt.Errorf("there is no shape %q; there are %s", name, strings.Join(Names(), ", "))
	}
	cfg := model.Config{Architecture: s.arch, Name: name, NVocab: s.vocab, NEmbd: s.embd, NLayers: s.layers, NHeads: s.heads,
		NKVHeads: s.kvHeads, HeadDim: s.embd / s.heads,
		NFF: s.ff, NCtx: s.ctx, NormEps: 1e-5, RopeBase: 10000, RopeDim: s.embd / s.heads, Layers: s.kinds}
	if s.kinds != "" {
		cfg.ConvKernel = 3
	}
	prog, err := model.Build(&cfg, func(t string) bool {
		return t != model.RopeFreqs && (t != model.Output || !s.tied) && (s.arch == "qwen2" || !strings.HasSuffix(t, ".bias"))
	})
	if err != nil {
		return nil, nil, err
	}
	r, err := StandIn(name, prog, bits)
	return r, prog, err
}

// StandIn returns random weights of about `bits` per weight in the shapes of a program.
func StandIn(name string, prog *model.Program, bits float64) (*format.Reader, error) {
	if !(bits >= MinBits && bits <= MaxBits) {
		return nil, fmt.Errorf("shape %s: %g bits per weight, expected %g to %g", name, bits, float64(MinBits), float64(MaxBits))
	}
	lo, hi, best := spread(bits-1), spread(bits+1), math.Inf(1)
	var r *format.Reader
	for range passes {
		sigma := math.Sqrt(lo * hi)
		tensors, tables, err := tensorsOf(prog, sigma)
		if err != nil {
			return nil, fmt.Errorf("shape %s: %w", name, err)
		}
		missed := bitsPerWeight(tensors) - bits
		if math.Abs(missed) < best {
			best = math.Abs(missed)
			if r, err = assemble(fmt.Sprintf("%s at %g bits", name, bits), &prog.Config, tensors, tables); err != nil {
				return nil, err
			}
		}
		switch {
		case best < closeEnough:
			return r, nil
		case missed > 0:
			hi = sigma
		default:
			lo = sigma
		}
	}
	if best > tolerance { // sizes jump where another alphabet becomes the best
		return nil, fmt.Errorf("shape %s: no spread of the weights gives %g bits", name, bits)
	}
	return r, nil
}

func bitsPerWeight(tensors []*format.Tensor) float64 {
	bytes, weights := int64(0), int64(0)
	for _, t := range tensors {
		bytes, weights = bytes+t.Bytes, weights+int64(t.Rows)*int64(t.Cols)
	}
	return 8 * float64(bytes) / float64(weights)
}

func assemble(name string, cfg *model.Config, tensors []*format.Tensor, tables []*huffman.Table) (*format.Reader, error) {
	js, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	return format.Assemble(name, &format.Meta{Producer: "shapes", Scheme: "shape", Config: js}, tables, tensors), nil
}

// tensorsOf returns the tensors that prog needs. Those of the same shape share their codes.
func tensorsOf(prog *model.Program, sigma float64) (all []*format.Tensor, tables []*huffman.Table, err error) {
	coded := map[[2]int]*format.Coded{}
	for _, s := range prog.Tensors() {
		t := &format.Tensor{Name: s.Name, Rows: s.Rows, Cols: s.Cols}
		if s.Vector() {
			t.Raw = &format.Raw{Rows: 1, Cols: s.Cols, DType: format.F32, Data: make([]byte, 4*s.Cols)}
		} else {
			shape := [2]int{s.Rows, s.Cols}
			if coded[shape] == nil {
				var own []*huffman.Table
				if coded[shape], own, err = matrix(s.Rows, s.Cols, sigma, len(tables)); err != nil {
					return nil, nil, err
				}
				tables = append(tables, own...)
			}
			t.Coded = coded[shape]
		}
		t.Bytes = t.Size()
		all = append(all, t)
	}
	return all, tables, nil
}
