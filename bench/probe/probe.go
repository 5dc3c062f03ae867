package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

const (
	nCtx      = 512
	minChunks = 2 // of text; fewer say nothing
	// Fine is by how many bits all other matrices are finer than the probed ones. (Much finer ones would not fit the 8 bits that
	// products are fast with.)
	Fine = 3
)

// probe is one run.
type probe struct {
	chunks int
	kappa  float64
	dir    string // for temporary files

	src    source.Model
	tokens []int32
}

// measure returns the offsets that are best for the model at path, by the text in another file.
func (p *probe) measure(ctx context.Context, path, text string) (quant.Offsets, error) {
	var err error
	if p.src, err = source.Open(path); err != nil {
		return nil, err
	}
	defer p.src.Close()
	b, err := os.ReadFile(text)
	if err != nil {
		return nil, err
	}
	ref := filepath.Join(p.dir, "reference.logits")
	if err := p.reference(ctx, string(b), ref); err != nil {
		return nil, err
	}
	sizes, err := p.sizes()
	if err != nil {
		return nil, err
	}
	harm := map[string]float64{}
	floor, err := p.divergence(ctx, "", sizes, ref)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "everything fine: KLD %.5f\n", floor)
	for _, key := range slices.Sorted(maps.Keys(sizes)) {
		x, err := p.divergence(ctx, key, sizes, ref)
		if err != nil {
			return nil, err
		}
		// The other matrices' part of the floor is nearly all of it.
		harm[key] = max(x-floor, floor/100)
		fmt.Fprintf(os.Stderr, "%-12s %11.0f weights, KLD %.5f\n", key, sizes[key], x)
	}
	return solve(sizes, harm), nil
}

// sizes returns the number of weights of every type of matrix, and of first and last layer.
func (p *probe) sizes() (map[string]float64, error) {
	cfg, err := p.src.Config()
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	tied := true
	for _, t := range p.src.Tensors() {
		if t.Vector {
			continue
		}
		n := float64(t.Rows) * float64(t.Cols)
		kind := strings.TrimSuffix(t.Name, ".weight")
		tied = tied && kind != "output"
		if rest, ok := strings.CutPrefix(kind, "blk."); ok {
			layer, k, _ := strings.Cut(rest, ".")
			kind = k
			switch layer {
			case "0":
				out[quant.First] += n
			case strconv.Itoa(cfg.NLayers - 1):
				out[quant.Last] += n
			}
		}
		out[kind] += n
	}
	if tied {
		out[quant.Tied] = out["token_embd"]
		delete(out, "token_embd")
	}
	return out, nil
}

// divergence compresses the model so that one type of matrix, or layer, is quantized coarsely.
func (p *probe) divergence(ctx context.Context, key string, sizes map[string]float64, ref string) (float64, error) {
	o := quant.Offsets{}
	for k := range sizes {
		o[k] = Fine
	}
	o[quant.First], o[quant.Last] = 0, 0
	if key != "" {
		o[key] -= Fine
	}
	file := filepath.Join(p.dir, "probe.ellm")
	defer os.Remove(file)
	opt := convert.Options{Tuning: convert.Tuning{Offsets: o, Kappa: p.kappa}}
	if _, err := convert.Compress(ctx, p.src, file, opt, nil); err != nil {
		return 0, err
	}
	logits, err := eval.OpenLogits(ref)
	if err != nil {
		return 0, err
	}
	defer logits.Close()
	kld := 0.0
	err = p.with(ctx, file, func(s *engine.Engine) error {
		r, err := eval.KLD(ctx, s, eval.NewFileReference(logits), p.tokens, eval.KLDOptions{NCtx: nCtx})
		kld = r.KLD.Value
		return err
	})
	return kld, err
}

// reference writes the unquantized model's predictions for the text.
func (p *probe) reference(ctx context.Context, text, out string) error {
	file := filepath.Join(p.dir, "reference.ellm")
	defer os.Remove(file)
	if _, err := convert.Compress(ctx, p.src, file, convert.Options{Scheme: convert.SchemeBF16}, nil); err != nil {
		return err
	}
	return p.with(ctx, file, func(s *engine.Engine) error {
		ids := s.Tokenizer().Encode(text, true, false)
		if len(ids) < minChunks*nCtx {
			return fmt.Errorf("the text has %d tokens, at least %d are needed", len(ids), minChunks*nCtx)
		}
		p.tokens = ids[:min(len(ids)/nCtx, p.chunks)*nCtx]
		w, err := eval.CreateLogits(out)
		if err != nil {
			return err
		}
		_, err = eval.Perplexity(ctx, s, p.tokens, eval.PerplexityOptions{NCtx: nCtx, Save: w})
		return errors.Join(err, w.Finish())
	})
}

// with calls f with the model in file, on the CPU.
func (p *probe) with(ctx context.Context, file string, f func(*engine.Engine) error) error {
	r, err := format.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	b := cpu.New()
	defer b.Close()
	s, err := engine.New(ctx, r, b, engine.LoadOptions{NCtx: nCtx})
	if err != nil {
		return err
	}
	return f(s)
}

// solve distributes bits: divergences add up, and each falls to a quarter with one more bit per weight of its matrices. Their sum
// is smallest for a given size when all have the same divergence per weight (reverse water-filling), so a type gets ½·log2 of
// what it has above the average.
func solve(sizes, harm map[string]float64) quant.Offsets {
	weights, mean, layers := 0.0, 0.0, 0.0
	for k, n := range sizes {
		if k == quant.First || k == quant.Last {
			continue
		}
		weights += n
		mean += n * math.Log2(harm[k]/n)
		if k != quant.Tied && k != "token_embd" && k != "output" {
			layers += harm[k]
		}
	}
	mean /= weights
	o := quant.Offsets{}
	total := 0.0
	for k, n := range sizes {
		if k != quant.First && k != quant.Last {
			o[k] = round((math.Log2(harm[k]/n) - mean) / 2)
			continue
		}
		total = layers * n / layerWeights(sizes)
		o[k] = round(math.Log2(harm[k]/total) / 2)
	}
	return o
}

// layerWeights returns the number of weights in all layers.
func layerWeights(sizes map[string]float64) float64 {
	total := 0.0
	for k, n := range sizes {
		switch k {
		case quant.First, quant.Last, quant.Tied, "token_embd", "output":
		default:
			total += n
		}
	}
	return total
}

func round(x float64) float64 { return math.Round(100*x) / 100 }
