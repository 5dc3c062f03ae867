package gpu

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

func isFinite(x float32) bool { return x-x == 0 }

// A key or value that is not a finite number reaches the output of every later token, wherever it stands: also an infinite key,
// whose score may be −∞, and in 8-bit caches, where the largest magnitude of a block is looked for.
func TestAttentionKeepsWhatIsNotFinite(t *testing.T) {
	r := newRig(t)
	inf := float32(math.Inf(1))
	for _, c := range []attentionCase{
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 37, tokens: 2, splits: 1},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 37, tokens: 1, splits: 2},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 37, tokens: 2, splits: 1, q8: true},
		{nHeads: 4, nKV: 2, dim: 64, rope: 64, past: 37, tokens: 9, splits: 1, tiles: true},
	} {
		for name, bad := range map[string]float32{"NaN": float32(math.NaN()), "+Inf": inf, "-Inf": -inf} {
			for _, of := range []string{"key", "value"} {
				rng := testRand()
				all, width, heads := c.past+c.tokens, c.nKV*c.dim, c.nHeads*c.dim
				q, k, v := normals(rng, all*heads), normals(rng, all*width), normals(rng, all*width)
				const pos, dim = 20, 3 // of the first KV head
				if of == "key" {
					k[pos*width+dim] = bad
				} else {
					v[pos*width+dim] = bad
				}
				p := c.pass(r, all)
				c.attend(r, p, 0, q[:c.past*heads], k[:c.past*width], v[:c.past*width])
				out := c.attend(r, p, c.past, q[c.past*heads:], k[c.past*width:], v[c.past*width:])
				what := fmt.Sprintf("%s, %s of %s", c, of, name)
				for i, x := range out {
					own := i%heads/c.dim < c.nHeads/c.nKV // its query group
					switch {
					case !own:
						require.True(t, isFinite(x), what)
					case of == "key" || i%c.dim == dim:
						require.False(t, isFinite(x), "%s: value %d is %g", what, i, x)
					}
				}
				r.ok(r.arena.reset())
			}
		}
	}
}

// A large but finite key is kept as the largest number of a float16 cache.
func TestLargeKeysAreBounded(t *testing.T) {
	r := newRig(t)
	c := attentionCase{nHeads: 1, nKV: 1, dim: 64, rope: 64, past: 0, tokens: 1, splits: 1}
	v := make([]float32, 64)
	v[0], v[1] = 1e6, -1e9
	out := c.attend(r, c.pass(r, 1), 0, make([]float32, 64), make([]float32, 64), v)
	require.Equal(t, []float32{65504, -65504, 0}, out[:3])
}

// Weights that are finite can lead out of the range of numbers. What comes of that is no answer, in any plan, at this token and
// all later ones.
func TestNumbersOutOfRangeGiveNoAnswer(t *testing.T) {
	for _, name := range []string{"blk.0.attn_norm.weight", "blk.1.attn_norm.weight", "blk.1.ffn_norm.weight",
		"output_norm.weight"} {
		for _, x := range []float32{3e38, -3e38} {
			m := newUniformModel(t, "llama", 2)
			tensor, ok := m.file.Tensor(name)
			require.True(t, ok)
			tensor.Raw.Data = bytes.Clone(tensor.Raw.Data)
			for i := range 2 {
				binary.LittleEndian.PutUint32(tensor.Raw.Data[16+4*i:], math.Float32bits(x))
			}
			for _, plan := range bothPlans {
				b, _ := loadTiny(t, m, plan)
				for step := range 2 {
					logits, err := b.Forward(context.Background(), engine.SingleRun(prompt(5), 5*step, 1))
					require.NoError(t, err)
					at, err := sample.Argmax(logits)
					if err == nil {
						require.False(t, isFinite(logits[at]), "%s of %g, %s: token %d with %g", name, x, plan, at, logits[at])
					}
				}
			}
		}
	}
}
