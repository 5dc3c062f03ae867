package calibrate

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// node executes one operation for the tokens of a text.
func (r *runner) node(n *model.Node, text []int32) error {
	p, t := r.prog, len(text)
	dst, a := r.bufs[n.Dst], r.bufs[n.A]
	switch n.Op {
	case model.OpEmbed:
		width := p.Width(n.Dst)
		for i, id := range text {
			if id < 0 || int(id) >= p.Config.NVocab {
				return fmt.Errorf("token %d is outside the vocabulary of %d", id, p.Config.NVocab)
			}
			if err := r.w.Rows(n.Weight, int(id), int(id)+1, dst[i*width:(i+1)*width]); err != nil {
				return fmt.Errorf("tensor %s: %w", n.Weight, err)
			}
		}
	case model.OpRMSNorm:
		width := p.Width(n.A)
		for i := range t {
			rmsNorm(dst[i*width:(i+1)*width], a[i*width:(i+1)*width], r.tensors[n.Weight], p.Config.NormEps)
		}
	case model.OpMatMul:
		if s := r.moments[n.Weight]; s != nil {
			r.gather(s, a, p.Width(n.A), t)
		}
		if n.Dst != model.BufLogits { // nobody looks at the logits
			r.multiply(dst, a, r.tensors[n.Weight], r.tensors[n.Bias], p.Width(n.A), p.Width(n.Dst), t)
		}
	case model.OpRoPE:
		width := p.Width(n.Dst)
		for i := range t {
			r.rope.rotate(dst[i*width:(i+1)*width], i, p.Config.HeadDim, p.RopeNeox)
		}
	case model.OpAttention:
		r.attention(dst, a, r.bufs[n.B], r.bufs[n.C], t)
	case model.OpSwiGLU:
		width := p.Width(n.B)
		r.parallel(t, func(k int, _ *linalg.Scratch) {
			b := r.bufs[n.B][k*width : (k+1)*width]
			from, to := a[k*width:][:len(b)], dst[k*width:][:len(b)]
			for i, x := range b {
				g := from[i]
				to[i] = g / (1 + exp(-g)) * x
			}
		})
	case model.OpAdd:
		for i := range t * p.Width(n.Dst) {
			dst[i] += a[i]
		}
	default:
		return fmt.Errorf("calibration does not know operation %d", n.Op)
	}
	return nil
}

func rmsNorm(dst, x, w []float32, eps float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	for i, v := range x {
		dst[i] = v * scale * w[i]
	}
}

// attention is causal attention of t queries over the t keys and values of the same text.
func (r *runner) attention(dst, q, k, v []float32, t int) {
	c := &r.prog.Config
	qw, kw, dim := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim, c.HeadDim
	r.parallel(c.NHeads, func(h int, s *linalg.Scratch) {
		kv := h / (c.NHeads / c.NKVHeads)
		scores := make([]float32, t*t)
		r.isa.MulAdd(linalg.RowMajor(scores, t), linalg.RowMajor(q, qw).From(0, h*dim), linalg.RowMajor(k, kw).From(0, kv*dim).T(), t, t, dim, s)
		for i := range t {
			softmax(scores[i*t:(i+1)*t], i+1, float32(1/math.Sqrt(float64(dim))))
			clear(dst[i*qw+h*dim : i*qw+(h+1)*dim])
		}
		r.isa.MulAdd(linalg.RowMajor(dst, qw).From(0, h*dim), linalg.RowMajor(scores, t), linalg.RowMajor(v, kw).From(0, kv*dim), t, dim, t, s)
	})
}

// softmax turns the first n scores into probabilities and the others into 0.
func softmax(x []float32, n int, scale float32) {
	top := x[0]
	for _, v := range x[:n] {
		top = max(top, v)
	}
	sum := 0.0
	for i, v := range x[:n] {
		x[i] = exp(scale * (v - top))
		sum += float64(x[i])
	}
	inv := float32(1 / sum)
	for i := range x[:n] {
		x[i] *= inv
	}
	clear(x[n:])
}

// rope holds the rotations of every position.
type rope struct {
	n        int // per position
	cos, sin []float32
}

// newRope computes the rotations: frequencies base^(−2i/dim), divided by the linear scale and by the model's own divisors (Llama 3).
func newRope(p *model.Program, w Weights, positions int) (*rope, error) {
	c := &p.Config
	n := c.RopeDim / 2
	divisors := make([]float32, n)
	for i := range divisors {
		divisors[i] = 1
	}
	if p.RopeFreqs != "" {
		if err := w.Rows(p.RopeFreqs, 0, 1, divisors); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", p.RopeFreqs, err)
		}
	}
	r := &rope{n: n, cos: make([]float32, positions*n), sin: make([]float32, positions*n)}
	for i, d := range divisors {
		f := math.Pow(float64(c.RopeBase), -2*float64(i)/float64(c.RopeDim)) / float64(d)
		if c.RopeScale > 0 {
			f /= float64(c.RopeScale)
		}
		for t := range positions {
			s, c := math.Sincos(float64(t) * f)
			r.cos[t*n+i], r.sin[t*n+i] = float32(c), float32(s)
		}
	}
	return r, nil
}

// rotate rotates the heads of x, which stands at position t, in place.
func (r *rope) rotate(x []float32, t, headDim int, neox bool) {
	cos, sin := r.cos[t*r.n:(t+1)*r.n], r.sin[t*r.n:(t+1)*r.n]
	for ; len(x) >= headDim; x = x[headDim:] {
		for i, c := range cos {
			j, k := 2*i, 2*i+1
			if neox {
				j, k = i, i+r.n
			}
			x[j], x[k] = x[j]*c-x[k]*sin[i], x[j]*sin[i]+x[k]*c
		}
	}
}
