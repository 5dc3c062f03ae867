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
		return r.embed(n, text)
	case model.OpRMSNorm:
		weight := r.tensors[n.Weight]
		step := p.Width(n.A) / max(n.Heads, 1)
		for i := range t * max(n.Heads, 1) {
			rmsNorm(dst[i*len(weight):][:len(weight)], a[i*step:][:len(weight)], weight, n.Eps)
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
			r.ropes[n.Rope].rotate(dst[i*width:(i+1)*width], i, p.Config.HeadDim)
		}
	case model.OpAttention:
		r.attention(n, t)
	case model.OpGLU:
		r.gate(n, t)
	case model.OpShortConv:
		r.shortConv(n, t)
	case model.OpConv:
		r.conv(n, t)
	case model.OpDelta:
		r.delta(n, t)
	case model.OpGateHeads:
		r.gateHeads(n, t)
	case model.OpAdd:
		scale(a[:t*p.Width(n.Dst)], n.Scale)
		for i := range t * p.Width(n.Dst) {
			dst[i] += a[i]
		}
	default:
		return fmt.Errorf("calibration does not know operation %d", n.Op)
	}
	return nil
}

// embed looks up the rows of a text's tokens.
func (r *runner) embed(n *model.Node, text []int32) error {
	dst, width, vocab := r.bufs[n.Dst], r.prog.Width(n.Dst), r.prog.Config.NVocab
	for i, id := range text {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("token %d is outside the vocabulary of %d", id, vocab)
		}
		if err := r.w.Rows(n.Weight, int(id), int(id)+1, dst[i*width:(i+1)*width]); err != nil {
			return fmt.Errorf("tensor %s: %w", n.Weight, err)
		}
	}
	scale(dst[:len(text)*width], n.Scale)
	return nil
}

// gate is a gated linear unit of t vectors.
func (r *runner) gate(n *model.Node, t int) {
	width := r.prog.Width(n.B)
	r.parallel(t, func(k int, _ *linalg.Scratch) {
		b := r.bufs[n.B][k*width : (k+1)*width]
		from, to := r.bufs[n.A][k*width:][:len(b)], r.bufs[n.Dst][k*width:][:len(b)]
		for i, x := range b {
			g := from[i]
			to[i] = g / (1 + exp(-g*(n.Act.Linear+n.Act.Cubic*g*g))) * x
		}
	})
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
func (r *runner) attention(n *model.Node, t int) {
	c, dst, q, k, v := &r.prog.Config, r.bufs[n.Dst], r.bufs[n.A], r.bufs[n.B], r.bufs[n.C]
	qw, kw, dim := c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim, c.HeadDim
	r.parallel(c.NHeads, func(h int, s *linalg.Scratch) {
		kv := h / (c.NHeads / c.NKVHeads)
		scores := make([]float32, t*t)
		r.isa.MulAdd(linalg.RowMajor(scores, t), linalg.RowMajor(q, qw).From(0, h*dim), linalg.RowMajor(k, kw).From(0, kv*dim).T(),
			t, t, dim, s)
		for i := range t {
			attentionWeights(n, scores[i*t:(i+1)*t], i)
			clear(dst[i*qw+h*dim : i*qw+(h+1)*dim])
		}
		r.isa.MulAdd(linalg.RowMajor(dst, qw).From(0, h*dim), linalg.RowMajor(scores, t), linalg.RowMajor(v, kw).From(0, kv*dim),
			t, dim, t, s)
	})
}

// scale multiplies x by a node's factor, of which 0 stands for 1.
func scale(x []float32, factor float32) {
	if factor == 0 {
		return
	}
	for i := range x {
		x[i] *= factor
	}
}

// attentionWeights turns products of the query at position pos and the keys of a text into probabilities.
func attentionWeights(n *model.Node, x []float32, pos int) {
	first := 0
	if n.Window > 0 {
		first = max(0, pos-n.Window+1)
	}
	clear(x[:first])
	f := n.QueryScale(pos)
	if n.SoftCap > 0 {
		for i := first; i <= pos; i++ {
			x[i] = softCap(x[i]*f, n.SoftCap)
		}
		f = 1
	}
	softmax(x[first:], pos+1-first, f)
}

// softCap returns c·tanh(x/c).
func softCap(x, c float32) float32 { return float32(float64(c) * math.Tanh(float64(x/c))) }

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

// rope holds the rotations of every position by one position embedding.
type rope struct {
	n        int // per position
	neox     bool
	cos, sin []float32
}

// newRope computes the rotations of all positions.
func newRope(m *model.Rope, w Weights, positions int) (*rope, error) {
	n := m.Dim / 2
	var divisors []float32
	if name := m.DivisorsFor(positions); name != "" {
		divisors = make([]float32, n)
		if err := w.Rows(name, 0, 1, divisors); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
	}
	gain := m.Gain
	if gain == 0 {
		gain = 1
	}
	r := &rope{n: n, neox: m.Neox, cos: make([]float32, positions*n), sin: make([]float32, positions*n)}
	for i, f := range m.Frequencies(divisors) {
		for t := range positions {
			s, c := math.Sincos(float64(t) * f)
			r.cos[t*n+i], r.sin[t*n+i] = float32(c)*gain, float32(s)*gain
		}
	}
	return r, nil
}

// rotate rotates the heads of x, which stands at position t, in place.
func (r *rope) rotate(x []float32, t, headDim int) {
	cos, sin := r.cos[t*r.n:(t+1)*r.n], r.sin[t*r.n:(t+1)*r.n]
	for ; len(x) >= headDim; x = x[headDim:] {
		for i, c := range cos {
			j, k := 2*i, 2*i+1
			if r.neox {
				j, k = i, i+r.n
			}
			x[j], x[k] = x[j]*c-x[k]*sin[i], x[j]*sin[i]+x[k]*c
		}
	}
}
