package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// deltaState is a worker's scratch memory for a head of the gated delta rule. Rows are padded to whole vectors with zeros.
type deltaState struct {
	matrix     []float32 // [key dimension][value dimension]
	key, query []float32 // of length 1, query over the root of the dimension
	decayed    []float32 // one of them, times the decay
	delta, sum []float32 // of value dimensions
}

// alloc makes the memory that a model needs, or with dry set only counts its bytes.
func (d *deltaState) alloc(c *model.Config, dry bool) (bytes int64) {
	if c.DeltaValueHeads == 0 {
		return 0
	}
	keys, values := buffer.RoundUp(c.DeltaKeyDim, vec.Lanes), buffer.RoundUp(c.DeltaValueDim, vec.Lanes)
	bytes = buffer.Reserve(&d.matrix, keys*values, dry)
	for _, x := range []*[]float32{&d.key, &d.query, &d.decayed} {
		bytes += buffer.Reserve(x, keys, dry)
	}
	return bytes + buffer.Reserve(&d.delta, values, dry) + buffer.Reserve(&d.sum, values, dry)
}

// delta computes a value head of the gated delta rule for all tokens, one after the other.
func (b *Backend) delta(w *worker, head int) error {
	r, n, c := &b.run, &b.run.fused.node, &b.prog.Config
	keys, values := c.DeltaKeyDim, c.DeltaValueDim
	stride, size := len(w.delta), b.prog.StateFloats(n)
	own := func(place int32) []float32 { return b.stateAt(place, size)[head*keys*values:][:keys*values] }
	for t := range r.tokens {
		switch from := r.from[t]; from {
		case sameState:
		case emptyState:
			clear(w.matrix)
		default:
			state := own(from)
			for i := range keys {
				copy(w.matrix[i*stride:][:values], state[i*values:])
			}
		}
		gate := float64(b.row(n.B, t)[head] + r.fused.bias[head])
		decay := float32(math.Exp(float64(r.fused.vector[head]) * softplus(gate)))
		beta := float32(sigmoid(float64(b.row(n.C, t)[head])))
		in := b.row(n.A, t)
		w.step(b.row(n.Dst, t)[head*values:][:values], in[head%c.DeltaKeyHeads*keys:], in[(c.DeltaKeyHeads+head%c.DeltaKeyHeads)*keys:],
			in[2*c.DeltaKeyHeads*keys+head*values:], keys, decay, beta)
		if to := r.to[t]; to != sameState {
			state := own(to)
			for i := range keys {
				copy(state[i*values:][:values], w.matrix[i*stride:])
			}
		}
	}
	return nil
}

// step takes a token: S becomes decay·S + k·δᵀ with δ = β·(v − decay·Sᵀ·k), and out = Sᵀ·q, which is decay·Sᵀ·q + (k·q)·δ of
// the S before.
func (w *worker) step(out, q, k, v []float32, keys int, decay, beta float32) {
	unit(w.query[:keys], q, 1/math.Sqrt(float64(keys)))
	unit(w.key[:keys], k, 1)
	stride, both := len(w.delta), 0.0
	for i, x := range w.key[:keys] {
		both += float64(x) * float64(w.query[i])
		w.decayed[i] = x * decay
	}
	clear(w.sum)
	w.k.Weighted(w.sum, w.decayed, w.matrix, stride)
	for j := range out {
		w.delta[j] = beta * (v[j] - w.sum[j])
	}
	for i, x := range w.query[:keys] {
		w.decayed[i] = x * decay
	}
	clear(w.sum)
	w.k.Weighted(w.sum, w.decayed, w.matrix, stride)
	for j := range out {
		out[j] = w.sum[j] + float32(float32(both)*w.delta[j])
	}
	w.k.Mix(w.matrix, w.key[:keys], w.delta, decay)
}

// unit sets dst to x of length `length`.
func unit(dst, x []float32, length float64) {
	x = x[:len(dst)]
	f := float32(length / math.Sqrt(sumSquares(x)+model.NormEpsDelta))
	for i, v := range x {
		dst[i] = v * f
	}
}

// softplus returns ln(1 + exp(x)).
func softplus(x float64) float64 {
	const linear = 30 // from here on it is x
	if x > linear {
		return x
	}
	return math.Log1p(math.Exp(x))
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// gateHeads multiplies a token's heads by the sigmoids of gates.
func (b *Backend) gateHeads(_ *worker, item int) error {
	n, t := &b.run.fused.node, b.run.lo+item
	dst, gates := b.row(n.Dst, t), b.row(n.A, t)
	dim := len(dst) / n.Heads
	for h := range n.Heads {
		head := dst[h*dim:][:dim]
		for i, g := range gates[(2*h+1)*dim:][:dim] {
			head[i] *= float32(sigmoid(float64(g)))
		}
	}
	return nil
}
