package calibrate

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Sensitivity says what errors of the outputs of every matrix do to the model's predictions, as E[g²] with g the derivative of
// the log probability of a token drawn from the model's own prediction: a small error e of the outputs raises the KL divergence
// by about ½·Σ E[(g·e)²] (Fisher information: Amari, Natural gradient works efficiently in learning, 1998).
type Sensitivity struct {
	Rows      map[string][]float64 `json:"rows"`      // of every product's matrix
	Embedding []float64            `json:"embedding"` // columns of the input embedding
}

// Differentiate finds the sensitivities. The residual streams of all layers are in memory: layers · tokens · n_embd floats.
func Differentiate(ctx context.Context, prog *model.Program, w Weights, texts [][]int32,
	progress func(done, total int64)) (*Sensitivity, error) {
	r, err := newRunner(prog, w, texts)
	if err != nil {
		return nil, err
	}
	return r.differentiate(ctx, texts, progress)
}

func (r *runner) differentiate(ctx context.Context, texts [][]int32, progress func(done, total int64)) (*Sensitivity, error) {
	b := &backward{runner: r, fisher: &Sensitivity{Rows: map[string][]float64{}, Embedding: make([]float64, r.prog.Config.NEmbd)}}
	for i := range b.grads {
		b.grads[i] = make([]float32, len(r.bufs[i]))
	}
	layers := r.layers()
	done, total := 0, int64(3*len(layers)*len(texts)) // the way back takes twice as long
	step := func(n int) error {
		done += n
		progress(int64(done), total)
		return ctx.Err()
	}
	saved := make([][][]float32, len(layers)) // residual streams before each layer
	for s, nodes := range layers {
		if err := r.load(nodes); err != nil {
			return nil, err
		}
		for i, t := range texts {
			saved[s] = append(saved[s], append([]float32{}, r.streams[i]...))
			r.bufs[model.BufX] = r.streams[i]
			for k := range nodes {
				if err := r.node(&nodes[k], t); err != nil {
					return nil, err
				}
			}
			if err := step(1); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range r.streams { // from here on: derivatives
		clear(s)
	}
	for s := len(layers) - 1; s >= 0; s-- {
		if err := r.load(layers[s]); err != nil {
			return nil, err
		}
		for i, t := range texts {
			r.bufs[model.BufX], b.grads[model.BufX] = saved[s][i], r.streams[i]
			if err := b.layer(layers[s], t, uint64(i)); err != nil {
				return nil, err
			}
			if err := step(2); err != nil {
				return nil, err
			}
		}
		saved[s] = nil
	}
	for _, f := range append(slices.Collect(maps.Values(b.fisher.Rows)), b.fisher.Embedding) {
		for i := range f {
			f[i] /= float64(r.tokens)
		}
	}
	return b.fisher, nil
}

// backward is the way back through a model.
type backward struct {
	*runner
	grads  [model.NumBuffers][]float32
	fisher *Sensitivity
}

// operands are the buffers that a node reads, as they are before it writes.
type operands struct{ a, b, c []float32 }

// layer executes the nodes once more and then goes back through them.
func (b *backward) layer(nodes []model.Node, text []int32, seed uint64) error {
	tape := make([]operands, len(nodes))
	for k := range nodes {
		n := &nodes[k]
		keep := func(buf model.Buffer) []float32 {
			return append([]float32{}, b.bufs[buf][:len(text)*b.prog.Width(buf)]...)
		}
		switch n.Op {
		case model.OpRMSNorm:
			tape[k].a = keep(n.A)
		case model.OpShortConv, model.OpConv:
			tape[k].a = keep(n.A)
		case model.OpGateHeads:
			tape[k] = operands{a: keep(n.A), b: keep(n.Dst)}
		case model.OpGLU:
			tape[k] = operands{a: keep(n.A), b: keep(n.B)}
		case model.OpAttention, model.OpDelta:
			tape[k] = operands{keep(n.A), keep(n.B), keep(n.C)}
		}
		if n.Op != model.OpEmbed {
			if err := b.node(n, text); err != nil {
				return err
			}
		}
	}
	for g := range b.grads {
		if model.Buffer(g) != model.BufX {
			clear(b.grads[g])
		}
	}
	for k := len(nodes) - 1; k >= 0; k-- {
		if nodes[k].Dst == model.BufLogits {
			if err := b.head(&nodes[k], len(text), seed); err != nil {
				return err
			}
			continue
		}
		if err := b.back(&nodes[k], &tape[k], len(text)); err != nil {
			return err
		}
	}
	return nil
}

// back turns the derivatives by what n wrote into derivatives by what it read.
func (b *backward) back(n *model.Node, o *operands, t int) error {
	p := b.prog
	width := p.Width(n.Dst)
	g, to := b.grads[n.Dst][:t*width], b.grads[n.A]
	switch n.Op {
	case model.OpEmbed:
		scale(g, n.Scale)
		b.gather(b.fisher.Embedding, g)
	case model.OpAdd:
		copy(to[:t*width], g) // what is added is used nowhere else
		scale(to[:t*width], n.Scale)
	case model.OpMatMul:
		b.gather(b.rowsOf(n.Weight, width), g)
		in, w := p.Width(n.A), linalg.RowMajor(b.tensors[n.Weight], p.Width(n.A))
		b.parallel((in+strip-1)/strip, func(k int, s *linalg.Scratch) {
			j := k * strip
			b.isa.MulAdd(linalg.RowMajor(to, in).From(0, j), linalg.RowMajor(g, width), w.From(0, j), t, min(strip, in-j), width, s)
		})
		clear(g)
	case model.OpRMSNorm:
		weight, from := b.tensors[n.Weight], append([]float32{}, g...)
		clear(g) // which may be `to`
		b.parallel(t, func(k int, _ *linalg.Scratch) {
			step := p.Width(n.A) / max(n.Heads, 1)
			for h := range width / len(weight) {
				i, at := k*p.Width(n.A)+h*step, k*width+h*len(weight)
				backNorm(to[i:][:len(weight)], o.a[i:][:len(weight)], from[at:][:len(weight)], weight, n.Eps)
			}
		})
	case model.OpRoPE:
		for i := range t {
			b.ropes[n.Rope].back(g[i*width:(i+1)*width], i, p.Config.HeadDim)
		}
	case model.OpAttention:
		b.backAttention(n, o, t)
		clear(g)
	case model.OpGLU:
		b.backGate(n, o, t)
	case model.OpShortConv:
		b.backShortConv(n, o, t)
	case model.OpConv:
		b.backConv(n, o, t)
	case model.OpDelta:
		b.backDelta(n, o, t)
	case model.OpGateHeads:
		b.backGateHeads(n, o, t)
	default:
		return fmt.Errorf("calibration does not know how to differentiate operation %d", n.Op)
	}
	return nil
}

// backGate writes the derivatives by both inputs of a gated linear unit. Dst may be A.
func (b *backward) backGate(n *model.Node, o *operands, t int) {
	width, g, to, up := b.prog.Width(n.Dst), b.grads[n.Dst], b.grads[n.A], b.grads[n.B]
	b.parallel(t, func(k int, _ *linalg.Scratch) {
		for i := k * width; i < (k+1)*width; i++ {
			a, d := o.a[i], g[i]
			y := a * (n.Act.Linear + n.Act.Cubic*a*a)
			slope := a * (n.Act.Linear + 3*n.Act.Cubic*a*a) // a·dy/da
			s := 1 / (1 + exp(-y))
			up[i] = d * a * s
			to[i] = d * o.b[i] * s * (1 + slope*(1-s))
		}
	})
}

// rowsOf returns the sums of a matrix.
func (b *backward) rowsOf(weight string, rows int) []float64 {
	if b.fisher.Rows[weight] == nil {
		b.fisher.Rows[weight] = make([]float64, rows)
	}
	return b.fisher.Rows[weight]
}

// gather adds the squares of vectors of derivatives to f.
func (b *backward) gather(f []float64, g []float32) {
	width := len(f)
	b.parallel((width+strip-1)/strip, func(k int, _ *linalg.Scratch) {
		j := k * strip
		part := f[j:min(width, j+strip)]
		for at := j; at < len(g); at += width {
			for i, x := range g[at : at+len(part)] {
				part[i] += float64(x) * float64(x)
			}
		}
	})
}

// backNorm adds the derivatives by x of x/rms(x)·w, given those by the result.
func backNorm(to, x, g, w []float32, eps float32) {
	sum, dot := 0.0, 0.0
	for i, v := range x {
		sum += float64(v) * float64(v)
		dot += float64(v) * float64(g[i]) * float64(w[i])
	}
	ms := sum/float64(len(x)) + float64(eps)
	scale := 1 / math.Sqrt(ms)
	along := dot / (ms * float64(len(x)))
	for i, v := range x {
		to[i] += float32(scale * (float64(g[i])*float64(w[i]) - along*float64(v)))
	}
}

// back is the transpose of rotate.
func (r *rope) back(x []float32, t, headDim int) {
	inverse := rope{n: r.n, neox: r.neox, cos: r.cos[t*r.n : (t+1)*r.n], sin: make([]float32, r.n)}
	for i, s := range r.sin[t*r.n : (t+1)*r.n] {
		inverse.sin[i] = -s
	}
	inverse.rotate(x, 0, headDim)
}

// backAttention writes the derivatives by queries, keys and values.
func (b *backward) backAttention(n *model.Node, o *operands, t int) {
	c := &b.prog.Config
	dim, qw, kw := c.HeadDim, c.NHeads*c.HeadDim, c.NKVHeads*c.HeadDim
	head := func(x []float32, width, h int) linalg.Matrix { return linalg.RowMajor(x, width).From(0, h*dim) }
	g := b.grads[n.Dst]
	shared := c.NHeads / c.NKVHeads
	b.parallel(c.NKVHeads, func(kv int, s *linalg.Scratch) {
		k, v := head(o.b, kw, kv), head(o.c, kw, kv)
		prob, d, raw := make([]float32, t*t), make([]float32, t*t), make([]float32, t*t)
		for h := kv * shared; h < (kv+1)*shared; h++ {
			q, out := head(o.a, qw, h), head(g, qw, h)
			clear(prob)
			clear(d)
			p, ds := linalg.RowMajor(prob, t), linalg.RowMajor(d, t)
			b.isa.MulAdd(p, q, k.T(), t, t, dim, s)
			for i := range t {
				copy(raw[i*t:(i+1)*t], prob[i*t:(i+1)*t])
				attentionWeights(n, prob[i*t:(i+1)*t], i)
			}
			b.isa.MulAdd(head(b.grads[n.C], kw, kv), p.T(), out, t, dim, t, s)
			b.isa.MulAdd(ds, out, v.T(), t, t, dim, s)
			for i := range t {
				backSoftmax(d[i*t:(i+1)*t], prob[i*t:(i+1)*t], n.QueryScale(i))
				backSoftCap(n, i, d[i*t:(i+1)*t], raw[i*t:(i+1)*t])
			}
			b.isa.MulAdd(head(b.grads[n.A], qw, h), ds, k, t, dim, t, s)
			b.isa.MulAdd(head(b.grads[n.B], kw, kv), ds.T(), q, t, dim, t, s)
		}
	})
}

// backSoftmax turns derivatives by probabilities p into those by scores.
func backSoftmax(d, p []float32, scale float32) {
	mean := 0.0
	for i, x := range p {
		mean += float64(x) * float64(d[i])
	}
	for i, x := range p {
		d[i] = x * (d[i] - float32(mean)) * scale
	}
}

// backSoftCap turns derivatives by bounded scores into those by products of the query at pos and keys.
func backSoftCap(n *model.Node, pos int, d, products []float32) {
	if n.SoftCap == 0 {
		return
	}
	for i, x := range products {
		y := softCap(x*n.QueryScale(pos), n.SoftCap) / n.SoftCap
		d[i] *= 1 - y*y
	}
}

const (
	headTokens = 128  // logits in memory: of this many tokens
	headRows   = 2048 // rows of the output matrix in memory
)

// head computes the predictions and their derivatives, for tokens drawn from them.
func (b *backward) head(n *model.Node, t int, seed uint64) error {
	vocab, width := b.prog.Width(n.Dst), b.prog.Width(n.A)
	f := b.rowsOf(n.Weight, vocab)
	x, to := linalg.RowMajor(b.bufs[n.A], width), linalg.RowMajor(b.grads[n.A], width)
	for t0 := 0; t0 < t; t0 += headTokens {
		count := min(headTokens, t-t0)
		logits := linalg.RowMajor(make([]float32, count*vocab), vocab)
		err := b.strips(n.Weight, vocab, width, func(v, rows int, w linalg.Matrix) {
			const part = 64
			b.parallel((rows+part-1)/part, func(k int, s *linalg.Scratch) {
				i := k * part
				b.isa.MulAdd(logits.From(0, v+i), x.From(t0, 0), w.From(i, 0).T(), count, min(part, rows-i), width, s)
			})
		})
		if err != nil {
			return err
		}
		slopes := make([]float32, count*vocab) // of the predicted scores by the product's
		b.parallel(count, func(k int, _ *linalg.Scratch) {
			scores := logits.Data[k*vocab : (k+1)*vocab]
			finishLogits(n, scores, slopes[k*vocab:(k+1)*vocab])
			softmax(scores, vocab, 1)
		})
		for k := range count {
			p := logits.Data[k*vocab : (k+1)*vocab]
			slope := slopes[k*vocab : (k+1)*vocab]
			for i, x := range p {
				f[i] += float64(slope[i]) * float64(slope[i]) * float64(x) * (1 - float64(x)) // the mean over all draws
			}
			p[draw(p, rand.New(rand.NewPCG(seed, uint64(t0+k))).Float64())]--
			for i := range p {
				p[i] *= slope[i]
			}
		}
		err = b.strips(n.Weight, vocab, width, func(v, rows int, w linalg.Matrix) {
			b.parallel((width+strip-1)/strip, func(k int, s *linalg.Scratch) {
				j := k * strip
				b.isa.MulAdd(to.From(t0, j), logits.From(0, v), w.From(0, j), count, min(strip, width-j), rows, s)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// finishLogits scales and bounds logits, and sets slopes to the derivatives.
func finishLogits(n *model.Node, x, slopes []float32) {
	factor := n.Scale
	if factor == 0 {
		factor = 1
	}
	for i := range x {
		x[i] *= factor
		slopes[i] = factor
		if n.SoftCap > 0 {
			x[i] = softCap(x[i], n.SoftCap)
			y := x[i] / n.SoftCap
			slopes[i] *= 1 - y*y
		}
	}
}

// strips calls f with some rows at a time of a matrix.
func (b *backward) strips(name string, rows, cols int, f func(r0, rows int, w linalg.Matrix)) error {
	for r0 := 0; r0 < rows; r0 += headRows {
		n := min(headRows, rows-r0)
		w, err := b.rows(name, r0, n, cols)
		if err != nil {
			return err
		}
		f(r0, n, linalg.RowMajor(w, cols))
	}
	return nil
}

// draw returns the index at which the sum of p reaches u.
func draw(p []float32, u float64) int {
	last := 0
	for i, x := range p {
		if x > 0 {
			last = i
		}
		if u -= float64(x); u < 0 {
			return i
		}
	}
	return last
}
