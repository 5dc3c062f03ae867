package gpu

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func logistic(x float32) float64 { return 1 / (1 + math.Exp(-float64(x))) }

// wholeDeltaRule follows the definition in float64 for one token of a head: S is [len(k)][len(v)].
func wholeDeltaRule(s []float32, q, k, v []float32, decay, beta float64) (out []float32) {
	unit := func(x []float32) []float64 {
		sum, u := float64(model.NormEpsDelta), make([]float64, len(x))
		for _, a := range x {
			sum += float64(a) * float64(a)
		}
		for i, a := range x {
			u[i] = float64(a) / math.Sqrt(sum)
		}
		return u
	}
	qs, ks := unit(q), unit(k)
	for j := range v {
		read := 0.0
		for i := range ks {
			read += decay * float64(s[i*len(v)+j]) * ks[i]
		}
		sum := 0.0
		for i := range ks {
			x := decay*float64(s[i*len(v)+j]) + ks[i]*beta*(float64(v[j])-read)
			s[i*len(v)+j] = float32(x)
			sum += x * qs[i] / math.Sqrt(float64(len(ks)))
		}
		out = append(out, float32(sum))
	}
	return out
}

// The delta rule of sequences in a batch starts from their states, within the batch too, and keeps those that are asked for;
// heads and columns may be fewer than those of blocks.
func TestDeltaRuleOfManySequences(t *testing.T) {
	const tokens, places = 12, 5
	for _, c := range []model.Config{
		{DeltaKeyHeads: 2, DeltaValueHeads: 4, DeltaKeyDim: 16, DeltaValueDim: 16},
		{DeltaKeyHeads: 1, DeltaValueHeads: 1, DeltaKeyDim: 7, DeltaValueDim: 33},
		{DeltaKeyHeads: 2, DeltaValueHeads: 2, DeltaKeyDim: deltaKeys, DeltaValueDim: 128},
	} {
		c.NLayers, c.Layers, c.ConvKernel = 1, "d", 2
		keys, values, heads := c.DeltaKeyDim, c.DeltaValueDim, c.DeltaValueHeads
		r := newRig(t)
		prog := &model.Program{Config: c}
		prog.Nodes = []model.Node{{Op: model.OpConv, Dst: model.BufMix, A: model.BufIn, Kernel: 2},
			{Op: model.OpDelta, Dst: model.BufDelta, A: model.BufMix, B: model.BufAlpha, C: model.BufBeta}}
		n := &prog.Nodes[1]
		require.NoError(t, checkDelta(prog, n))
		p, states := statesPass(r, prog, places, tokens)
		rng := testRand()
		width, first, own := prog.Width(model.BufMix), prog.StateFloats(&prog.Nodes[0]), prog.StateFloats(n)
		x, alpha, beta := normals(rng, tokens*width), normals(rng, tokens*heads), normals(rng, tokens*heads)
		decays, biases := normals(rng, heads), normals(rng, heads)
		alpha[0] = 40 // exp of it plus 1 is not a sum of float32
		for i := range 2 * c.DeltaKeyHeads * keys {
			x[i] *= 1e-3 // so short that what is added to squared lengths matters
		}
		for i := range decays {
			decays[i] = -decays[i] * decays[i]
		}
		p.buffers[n.A], p.buffers[n.B], p.buffers[n.C] = up(r, x), up(r, alpha), up(r, beta)
		p.buffers[n.Dst] = room[float32](r, tokens*heads*values)
		runs := mixedRuns()
		r.ok(p.placeStates(engine.Batch{Runs: runs}))
		a := &deltaAction{node: n, decays: up(r, decays), bias: up(r, biases), state: p.states.dev + driver.DevicePtr(4*first)}
		r.ok(a.run(p, tokenRange{0, tokens}))
		want, wantStates := make([]float32, 0, tokens*heads*values), slices.Clone(states)
		followStates(runs, wantStates, p.states.place, first, own, func(token int, s []float32) {
			in := x[token*width:]
			for h := range heads {
				key := h % c.DeltaKeyHeads
				d := math.Exp(float64(decays[h]) * math.Log1p(math.Exp(float64(alpha[token*heads+h]+biases[h]))))
				want = append(want, wholeDeltaRule(s[h*keys*values:][:keys*values], in[key*keys:][:keys],
					in[(c.DeltaKeyHeads+key)*keys:][:keys], in[2*c.DeltaKeyHeads*keys+h*values:][:values], d,
					logistic(beta[token*heads+h]))...)
			}
		})
		requireClose(t, want, down[float32](r, p.buffers[n.Dst], len(want)), 1e-11, "%+v", c)
		got := down[float32](r, p.states.dev, len(states))
		requireClose(t, wantStates, got, 1e-11, "states of %+v", c)
		for place := range places { // the convolution's part, and a place that nothing is kept in
			at := place * p.states.place
			require.Equal(t, states[at:at+first], got[at:at+first])
		}
		require.Equal(t, states[p.states.place:2*p.states.place], got[p.states.place:2*p.states.place])
		require.NotEqual(t, states, got)
	}
}

// Heads are multiplied by the sigmoids of their gates; of wider parts the first halves are normalized, and the rest stays.
func TestGatesBesideQueries(t *testing.T) {
	const tokens, heads, dim, eps = 3, 2, 40, 1e-5
	r := newRig(t)
	rng := testRand()
	x, both, w := normals(rng, tokens*heads*dim), normals(rng, 2*tokens*heads*dim), normals(rng, dim)
	dev, bothDev, y := up(r, x), up(r, both), room[float32](r, len(x))
	r.ok(r.GateHeads(driver.D2(heads, tokens), kernels.GateHeadsArgs{X: dev, Gates: bothDev, Dim: dim}))
	r.ok(r.NormHeads(driver.D2(heads, tokens), kernels.NormHeadsArgs{X: bothDev, Y: y, Weight: up(r, w), Dim: dim, Stride: 2 * dim,
		Eps: eps}))
	gated, normed := make([]float32, len(x)), make([]float32, len(x))
	for h := range tokens * heads {
		sum := 0.0
		for _, q := range both[2*h*dim:][:dim] {
			sum += float64(q) * float64(q)
		}
		for i := range dim {
			gated[h*dim+i] = float32(float64(x[h*dim+i]) * logistic(both[(2*h+1)*dim+i]))
			normed[h*dim+i] = float32(float64(both[2*h*dim+i]) / math.Sqrt(sum/dim+eps) * float64(w[i]))
		}
	}
	requireClose(t, gated, down[float32](r, dev, len(x)), 1e-12, "gates")
	requireClose(t, normed, down[float32](r, y, len(x)), 1e-12, "norms")
	require.Equal(t, both, down[float32](r, bothDev, len(both)))
}

// What the kernel cannot do is refused before anything is allocated.
func TestDeltaRulesOfMoreKeysAreRefused(t *testing.T) {
	prog := &model.Program{Config: model.Config{Layers: "d", DeltaKeyHeads: 1, DeltaValueHeads: 1, DeltaKeyDim: deltaKeys + 1,
		DeltaValueDim: 8, NHeads: 2, HeadDim: 8}}
	require.ErrorContains(t, checkDelta(prog, &model.Node{Op: model.OpDelta, Dst: model.BufDelta}), "--device cpu")
	gates := &model.Node{Op: model.OpGateHeads, Dst: model.BufAttn, A: model.BufQueryGate, Heads: 3}
	require.ErrorContains(t, checkGateHeads(prog, gates), "3 heads")
}
