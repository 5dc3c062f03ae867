package convert

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// How a model is run without any text.
const (
	syntheticTokens = 128
	// Tokenizers number their tokens roughly by frequency, and frequencies follow the law of Zipf and Mandelbrot: token i has the
	// probability c/(i + zipfOffset).
	zipfOffset = 100
)

// syntheticExponent returns what foldMeans needs. What random tokens tell about real activations is least for the inputs of
// ffn_down: logarithms of E[x²] correlate by 0.2 for Qwen2.5-Coder-1.5B and 0.6 for SmolLM2-135M there, by 0.7 to 0.9 where the
// input comes from a norm. What is only estimated gets smaller exponents than what was seen (columns.go).
func syntheticExponent(in *model.Input) float64 {
	if matrixType(in.Weights[0]) == "ffn_down" {
		return 0.15
	}
	return 0.22
}

// synthesize rescales the source's columns by the activations that random tokens cause. Which elements of an activation are large
// depends on the weights more than on the text, above all where it comes from a norm.
func (j *job) synthesize() error {
	prog, err := j.program()
	if err != nil {
		return err
	}
	meanSq, err := j.estimateMeanSquares(prog)
	if err != nil {
		return err
	}
	j.fold = foldMeans(prog, func(w string) []float32 { return meanSq[w] }, syntheticExponent)
	j.src = newFoldedSource(j.src, j.fold)
	return nil
}

// estimateMeanSquares returns E[x²] of the columns of all matrices over random tokens.
func (j *job) estimateMeanSquares(prog *model.Program) (map[string][]float32, error) {
	text, err := j.syntheticText()
	if err != nil {
		return nil, err
	}
	meanSq, err := calibrate.MeanSquares(j.ctx, prog, j.sourceWeights(), [][]int32{text},
		func(done, total int64) { j.progress("activations", done, total) })
	if err != nil {
		return nil, fmt.Errorf("running the model over random tokens: %w", err)
	}
	return meanSq, nil
}

// GuessMeanSquares returns the mean squares that Compress chooses the steps of columns by if it has nothing to calibrate with:
// matrix → columns.
func GuessMeanSquares(ctx context.Context, src source.Model) (map[string][]float32, error) {
	j, err := newJob(ctx, src, Options{}, nil)
	if err != nil {
		return nil, err
	}
	prog, err := j.program()
	if err != nil {
		return nil, err
	}
	return j.estimateMeanSquares(prog)
}

// syntheticText returns random tokens, always the same.
func (j *job) syntheticText() ([]int32, error) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]int32, syntheticTokens)
	for i := range text {
		text[i] = RandomToken(rng, j.config.NVocab)
	}
	tok, err := j.src.Tokenizer()
	if err == nil && tok != nil && tok.AddBOS() {
		text[0] = tok.BOS()
	}
	return text, err
}

// RandomToken draws a token of a vocabulary of n, those with small numbers more often.
func RandomToken(rng *rand.Rand, n int) int32 {
	most := float64(n)/zipfOffset + 1
	return min(int32(zipfOffset*(math.Pow(most, rng.Float64())-1)), int32(n-1))
}

// matrixType returns the type of a matrix, its GGUF name without layer and suffix: "ffn_down" for "blk.0.ffn_down.weight".
func matrixType(name string) string {
	parts := strings.Split(name, ".")
	return parts[max(0, len(parts)-2)]
}
