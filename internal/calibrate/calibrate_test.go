package calibrate

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// random is a model of random weights.
type random struct {
	cols map[string]int
	w    map[string][]float32
	fail string
}

func (m *random) Rows(name string, r0, r1 int, dst []float32) error {
	if name == m.fail {
		return errors.New("cannot be read")
	}
	cols := len(dst) / (r1 - r0)
	if m.w[name] == nil {
		m.cols[name] = cols
		r := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)-8])))
		m.w[name] = make([]float32, 64*cols)
		for i := range m.w[name] {
			m.w[name][i] = float32(r.NormFloat64())
		}
	}
	copy(dst, m.w[name][r0*cols:r1*cols])
	return nil
}

func program(t *testing.T) *model.Program {
	cfg := &model.Config{Architecture: "llama", NVocab: 40, NEmbd: 24, NLayers: 2, NHeads: 6, NKVHeads: 2, HeadDim: 4, NFF: 40,
		NCtx: 64, NormEps: 1e-5, RopeBase: 1e4, RopeDim: 4}
	p, err := model.Build(cfg, func(name string) bool {
		return !strings.HasSuffix(name, ".bias") && name != "rope_freqs.weight" && name != "output.weight"
	})
	require.NoError(t, err)
	return p
}

// Texts are independent: moments of two are the sum of those of each, whatever their lengths.
func TestTextsAddUp(t *testing.T) {
	p, w := program(t), &random{cols: map[string]int{}, w: map[string][]float32{}}
	run := func(texts ...[]int32) (all []float64) {
		require.NoError(t, Run(context.Background(), p, w, texts, 0, func(in *model.Input, s []float32, tokens int) error {
			n := 0
			for _, x := range texts {
				n += len(x)
			}
			require.Equal(t, n, tokens)
			for i := range in.Width {
				for j := range i + 1 {
					all = append(all, float64(s[i*in.Width+j]))
				}
			}
			return nil
		}, nil))
		return all
	}
	a, b := []int32{1, 2, 3, 4, 5, 6, 7}, []int32{9, 8, 39}
	x, y, both := run(a), run(b), run(a, b)
	for i := range both {
		require.InDelta(t, both[i], x[i]+y[i], 1e-4*(math.Abs(x[i])+math.Abs(y[i])+1))
	}
}

func TestRunFails(t *testing.T) {
	p, w := program(t), &random{cols: map[string]int{}, w: map[string][]float32{}}
	ignore := func(*model.Input, []float32, int) error { return nil }
	require.ErrorContains(t, Run(context.Background(), p, w, nil, 0, ignore, nil), "no text")
	require.ErrorContains(t, Run(context.Background(), p, w, [][]int32{{40}}, 0, ignore, nil), "outside the vocabulary")
	stop := errors.New("stop")
	require.ErrorIs(t, Run(context.Background(), p, w, [][]int32{{1}}, 0,
		func(*model.Input, []float32, int) error { return stop }, nil), stop)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, Run(ctx, p, w, [][]int32{{1}}, 0, ignore, nil), context.Canceled)
	w.fail = "blk.1.ffn_up.weight"
	require.ErrorContains(t, Run(context.Background(), p, w, [][]int32{{1}}, 0, ignore, nil), "blk.1.ffn_up.weight")
	w.fail = ""
	w.w["blk.0.attn_norm.weight"][0] = float32(math.NaN())
	require.ErrorContains(t, Run(context.Background(), p, w, [][]int32{{1}}, 0, ignore, nil), "not a finite number")
}
