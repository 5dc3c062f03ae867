package calibrate

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// untied is a small model with an output matrix of its own, whose text has every token once.
func untied(t *testing.T) (*model.Program, *random, []int32) {
	cfg := &model.Config{Architecture: "llama", NVocab: 40, NEmbd: 24, NLayers: 2, NHeads: 6, NKVHeads: 2, HeadDim: 4, NFF: 40,
		NCtx: 64, NormEps: 1e-5, RopeBase: 1e4, RopeDim: 4}
	p, err := model.Build(cfg, func(name string) bool { return !strings.HasSuffix(name, ".bias") && name != "rope_freqs.weight" })
	require.NoError(t, err)
	w := &random{cols: map[string]int{}, w: map[string][]float32{}}
	require.NoError(t, w.Rows("output.weight", 0, 64, make([]float32, 64*24)))
	for i := range w.w["output.weight"] {
		w.w["output.weight"][i] *= 0.2 // so that predictions are not certain
	}
	return p, w, []int32{5, 1, 39, 7, 20}
}

// predictions returns the probabilities of the tokens after each of the text.
func predictions(t *testing.T, p *model.Program, w *random, text []int32) [][]float64 {
	r, err := newRunner(p, w, [][]int32{text})
	require.NoError(t, err)
	r.bufs[model.BufX] = r.streams[0]
	for _, nodes := range r.layers() {
		require.NoError(t, r.load(nodes))
		for k := range nodes {
			require.NoError(t, r.node(&nodes[k], text))
		}
	}
	out := make([][]float64, len(text))
	for i := range text {
		out[i] = make([]float64, p.Config.NVocab)
		sum := 0.0
		for v := range out[i] {
			dot := 0.0
			for j := range 24 {
				dot += float64(r.bufs[model.BufNorm][i*24+j]) * float64(w.w["output.weight"][v*24+j])
			}
			out[i][v] = math.Exp(dot)
			sum += out[i][v]
		}
		for v := range out[i] {
			out[i][v] /= sum
		}
	}
	return out
}

// The derivatives by the embeddings pass through everything in the model: they agree with differences.
func TestDerivativesAreDifferences(t *testing.T) {
	p, w, text := untied(t)
	got, err := Differentiate(context.Background(), p, w, [][]int32{text}, func(int64, int64) {})
	require.NoError(t, err)
	var labels []int
	for i, probs := range predictions(t, p, w, text) {
		f := make([]float32, len(probs))
		for v, x := range probs {
			f[v] = float32(x)
		}
		labels = append(labels, draw(f, rand.New(rand.NewPCG(0, uint64(i))).Float64()))
	}
	logProb := func() (sum float64) {
		for i, probs := range predictions(t, p, w, text) {
			sum += math.Log(probs[labels[i]])
		}
		return sum
	}
	const step = 4e-3
	for c := range 24 {
		want := 0.0
		for _, token := range text {
			x := &w.w["token_embd.weight"][int(token)*24+c]
			old := *x
			*x = old + step
			d := logProb()
			*x = old - step
			d -= logProb()
			*x = old
			want += (d / (2 * step)) * (d / (2 * step)) / float64(len(text))
		}
		require.InEpsilon(t, want, got.Embedding[c], 0.03, "column %d", c)
	}
	for i, f := range got.Rows["output.weight"] {
		want := 0.0
		for _, probs := range predictions(t, p, w, text) {
			want += probs[i] * (1 - probs[i]) / float64(len(text))
		}
		require.InEpsilon(t, want, f, 1e-3)
	}
	require.Len(t, got.Rows, 1+2*7)
	require.Len(t, got.Rows["blk.1.attn_v.weight"], 8)
}

// Results do not depend on the number of threads.
func TestDerivativesAreTheSameOnOneCore(t *testing.T) {
	p, w, text := untied(t)
	run := func(threads int) *Sensitivity {
		r, err := newRunner(p, w, [][]int32{text, text[1:]})
		require.NoError(t, err)
		r.scratch = make([]linalg.Scratch, threads)
		s, err := r.differentiate(context.Background(), [][]int32{text, text[1:]}, func(int64, int64) {})
		require.NoError(t, err)
		return s
	}
	require.Equal(t, run(1), run(3))
}

func TestDifferentiateFails(t *testing.T) {
	p, w, text := untied(t)
	ignore := func(int64, int64) {}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Differentiate(ctx, p, w, [][]int32{text}, ignore)
	require.ErrorIs(t, err, context.Canceled)
	w.fail = "output.weight"
	_, err = Differentiate(context.Background(), p, w, [][]int32{text}, ignore)
	require.ErrorContains(t, err, "cannot be read")
	_, err = Differentiate(context.Background(), p, w, nil, ignore)
	require.Error(t, err)
	require.False(t, errors.Is(err, context.Canceled))
}
