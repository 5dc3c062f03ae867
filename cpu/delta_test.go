package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func deltaWorker(k *vec.Kernels, keys, values int) *worker {
	w := &worker{}
	w.k = k
	w.deltaState.alloc(&model.Config{DeltaKeyHeads: 1, DeltaValueHeads: 1, DeltaKeyDim: keys, DeltaValueDim: values}, false)
	return w
}

func randoms(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 9))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// The delta rule is what its definition says, token after token, in every instruction set and for heads that fill no vectors.
func TestDeltaRuleIsItsDefinition(t *testing.T) {
	const tokens = 40
	for _, k := range append(vec.Available(), vec.Generic()) {
		for _, dim := range [][2]int{{16, 16}, {24, 20}, {128, 128}} {
			keys, values := dim[0], dim[1]
			w := deltaWorker(k, keys, values)
			state := make([]float64, keys*values)
			for i := range tokens {
				q, key, v := randoms(keys, uint64(3*i)), randoms(keys, uint64(3*i+1)), randoms(values, uint64(3*i+2))
				decay, beta := 0.5+0.5*float64(i)/tokens, 1/(1+float64(i%3))
				out := make([]float32, values)
				w.step(out, q, key, v, keys, float32(decay), float32(beta))
				lengths := [2]float64{}
				for c := range keys {
					lengths[0] += float64(q[c]) * float64(q[c])
					lengths[1] += float64(key[c]) * float64(key[c])
				}
				for j := range values {
					read, want := 0.0, 0.0
					for c := range keys {
						state[c*values+j] *= decay
						read += state[c*values+j] * float64(key[c]) / math.Sqrt(lengths[1])
					}
					for c := range keys {
						state[c*values+j] += float64(key[c]) / math.Sqrt(lengths[1]) * beta * (float64(v[j]) - read)
						want += state[c*values+j] * float64(q[c]) / math.Sqrt(lengths[0]*float64(keys))
					}
					require.InDelta(t, want, out[j], 1e-5, "%s, %d × %d, token %d", k.Name, keys, values, i)
				}
			}
		}
	}
}

func BenchmarkDeltaRule(b *testing.B) {
	const dim = 128
	w := deltaWorker(vec.Best(), dim, dim)
	q, k, v, out := randoms(dim, 1), randoms(dim, 2), randoms(dim, 3), make([]float32, dim)
	for b.Loop() {
		w.step(out, q, k, v, dim, 0.9, 0.5)
	}
}
