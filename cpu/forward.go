package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const numOps = model.OpAdd + 1

// current is what the workers need to know about the operation in progress. The functions are made once, so that starting a job
// allocates nothing.
type current struct {
	tokens []int32
	pos    int  // of token 0
	many   bool // token t is at pos of text t, and not at pos + t of text 0
	rows   int  // logits wanted
	stage  *stage
	lo, hi int // tokens of the stage
	logits int // row of logits that belongs to the first token with logits
	active []product

	quantize func(worker int)
	work     [numOps]func(worker int)
	perItem  [numOps]func(w *worker, item int) error
}

// Forward implements engine.Backend. Longer inputs than MaxBatch are split.
func (b *Backend) Forward(ctx context.Context, tokens []int32, pos, rows int) ([]float32, error) {
	if rows < 0 || rows > len(tokens) {
		return nil, fmt.Errorf("cpu: logits of %d tokens wanted, %d given", rows, len(tokens))
	}
	if err := b.begin(tokens, rows); err != nil {
		return nil, err
	}
	if pos < 0 || len(tokens) == 0 || pos > b.nCtx-len(tokens) {
		return nil, fmt.Errorf("cpu: %d tokens at position %d do not fit a context of %d", len(tokens), pos, b.nCtx)
	}
	b.run.many = false
	skip := len(tokens) - rows // tokens without logits
	for first := 0; first < len(tokens); first += b.maxBatch {
		n := min(b.maxBatch, len(tokens)-first)
		if err := b.batch(ctx, tokens[first:first+n], pos+first, max(0, skip-first), max(0, first-skip)); err != nil {
			return nil, err
		}
	}
	return b.logits[:rows*b.prog.Config.NVocab], nil
}

// ForwardTexts implements engine.TextsBackend.
func (b *Backend) ForwardTexts(ctx context.Context, tokens []int32, pos int) ([]float32, error) {
	if most := min(b.texts, b.maxBatch); len(tokens) == 0 || len(tokens) > most || pos < 0 || pos >= b.nCtx {
		return nil, fmt.Errorf("cpu: position %d of %d texts, there is room for %d tokens of %d", pos, len(tokens), b.nCtx, most)
	}
	if err := b.begin(tokens, len(tokens)); err != nil {
		return nil, err
	}
	b.run.many = true
	if err := b.batch(ctx, tokens, pos, 0, 0); err != nil {
		return nil, err
	}
	return b.logits[:len(tokens)*b.prog.Config.NVocab], nil
}

// begin checks tokens and makes room for the logits of `rows` of them.
func (b *Backend) begin(tokens []int32, rows int) error {
	if b.workers == nil {
		return errors.New("cpu: Forward before Load")
	}
	vocab := b.prog.Config.NVocab
	for i, t := range tokens {
		if t < 0 || int(t) >= vocab {
			return fmt.Errorf("cpu: token %d is %d, the vocabulary has %d entries", i, t, vocab)
		}
	}
	if len(b.logits) < rows*vocab {
		b.logits = make([]float32, rows*vocab)
	}
	return nil
}

// place returns the position of token t in its text, and where in the cache that text begins.
func (b *Backend) place(t int) (pos, text int) {
	if b.run.many {
		return b.run.pos, t * b.cache.text
	}
	return b.run.pos + t, 0
}

// batch runs the program for up to maxBatch tokens. Logits are wanted from token `wanted` on and go to row `row` of b.logits and those behind.
func (b *Backend) batch(ctx context.Context, tokens []int32, pos, wanted, row int) error {
	r := &b.run
	r.tokens, r.pos, r.logits = tokens, pos, row
	for t := range tokens {
		pos, _ := b.place(t)
		b.rope.prepare(t, pos)
	}
	for i := range b.stages {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &b.stages[i]
		r.stage, r.lo, r.hi = s, b.firstToken(&s.node, wanted), len(tokens)
		start := time.Time{}
		if b.profiled {
			start = time.Now()
		}
		if err := b.stage(wanted); err != nil {
			return err
		}
		if b.profiled {
			b.profile.add(s, time.Since(start))
		}
	}
	return nil
}

func (b *Backend) firstToken(n *model.Node, wanted int) int {
	if n.Last {
		return min(wanted, len(b.run.tokens))
	}
	return 0
}

// stage runs the current stage.
func (b *Backend) stage(wanted int) error {
	r := &b.run
	switch r.stage.node.Op {
	case model.OpMatMul:
		return b.multiply(wanted)
	case model.OpAttention:
		n := &r.stage.node
		for t := range r.tokens {
			pos, text := b.place(t)
			b.cache.store(n.Layer, text+pos, b.row(n.B, t), b.row(n.C, t))
		}
		return b.parallel(model.OpAttention)
	}
	if r.hi-r.lo >= parallelTokens || r.stage.node.Op == model.OpEmbed && r.hi-r.lo > 1 {
		return b.parallel(r.stage.node.Op)
	}
	for t := r.lo; t < r.hi; t++ {
		if err := r.perItem[r.stage.node.Op](b.workers[0], t-r.lo); err != nil {
			return err
		}
	}
	return nil
}

// parallelTokens is from how many tokens on cheap operations use all threads.
const parallelTokens = 8

func (b *Backend) parallel(op model.Op) error {
	b.pool.run(b.run.work[op])
	for _, w := range b.workers {
		if err := w.err; err != nil {
			w.err = nil
			return err
		}
	}
	return nil
}

// row returns token t's row of a buffer.
func (b *Backend) row(buf model.Buffer, t int) []float32 {
	return b.bufs[buf][t*b.stride(buf):][:b.prog.Width(buf)]
}

// bind makes the functions that workers run: each takes items of the stage until none is left.
func (r *current) bind(b *Backend) {
	r.perItem = [...]func(w *worker, item int) error{
		model.OpEmbed: b.embed, model.OpRMSNorm: b.rmsNorm, model.OpMatMul: b.product, model.OpRoPE: b.rotate,
		model.OpAttention: b.attend, model.OpSwiGLU: b.swiGLU, model.OpAdd: b.add,
	}
	r.quantize = func(w int) {
		n := r.hi - r.lo
		for {
			i, ok := b.pool.unit(n)
			if !ok {
				return
			}
			b.quantizeToken(b.workers[w], i)
		}
	}
	for op, item := range r.perItem {
		r.work[op] = func(w int) {
			n := b.items()
			most := b.span()
			for {
				i, end := b.pool.span(n, most)
				if i >= end {
					return
				}
				for ; i < end; i++ {
					if err := item(b.workers[w], i); err != nil {
						b.workers[w].err = err
						return
					}
				}
			}
		}
	}
}

// span returns how many items a worker takes at most at a time. Units of products with one token may take about as long as asking for the next.
func (b *Backend) span() int {
	if b.run.stage.node.Op != model.OpMatMul || len(b.run.tokens) > 1 {
		return 1
	}
	return 16
}

// items returns the number of independent parts of the current stage.
func (b *Backend) items() int {
	r := &b.run
	tokens := r.hi - r.lo
	switch r.stage.node.Op {
	case model.OpMatMul:
		return b.productUnits()
	case model.OpAttention:
		most := r.attentionTokens()
		return (tokens + most - 1) / most * b.headGroups()
	}
	return tokens
}

func (b *Backend) embed(w *worker, item int) error {
	n, t := &b.run.stage.node, b.run.lo+item
	w.embedding(b.run.stage.matrix, int(b.run.tokens[t]), b.row(n.Dst, t))
	return nil
}

func (b *Backend) rmsNorm(_ *worker, item int) error {
	s, t := b.run.stage, b.run.lo+item
	x, dst := b.row(s.node.A, t), b.row(s.node.Dst, t)
	f := float32(1 / math.Sqrt(sumSquares(x)/float64(len(x))+float64(b.prog.Config.NormEps)))
	for i, v := range x {
		dst[i] = v * f * s.vector[i]
	}
	return nil
}

// sumSquares sums in four chains, which the processor can overlap.
func sumSquares(x []float32) float64 {
	var s0, s1, s2, s3 float64
	for ; len(x) >= 4; x = x[4:] {
		s0 += float64(x[0]) * float64(x[0])
		s1 += float64(x[1]) * float64(x[1])
		s2 += float64(x[2]) * float64(x[2])
		s3 += float64(x[3]) * float64(x[3])
	}
	for _, f := range x {
		s0 += float64(f) * float64(f)
	}
	return (s0 + s1) + (s2 + s3)
}

func (b *Backend) rotate(_ *worker, item int) error {
	t := b.run.lo + item
	b.rope.rotate(b.row(b.run.stage.node.Dst, t), t, b.prog.Config.HeadDim, b.prog.RopeNeox)
	return nil
}

func (b *Backend) swiGLU(w *worker, item int) error {
	n, t := &b.run.stage.node, b.run.lo+item
	stride := b.stride(n.Dst) // whole vectors: the padding stays 0, because silu(0) · 0 = 0
	w.k.swiglu(b.bufs[n.Dst][t*stride:][:stride], b.bufs[n.A][t*stride:][:stride], b.bufs[n.B][t*stride:][:stride])
	return nil
}

func (b *Backend) add(_ *worker, item int) error {
	n, t := &b.run.stage.node, b.run.lo+item
	dst, a := b.row(n.Dst, t), b.row(n.A, t)
	a = a[:len(dst)]
	for i := range dst {
		dst[i] += a[i]
	}
	return nil
}

// headGroups returns into how many parts the query heads are divided: the groups that share keys and values, or single heads where there are too few groups
// for the threads.
func (b *Backend) headGroups() int {
	c := &b.prog.Config
	if b.run.hi-b.run.lo == 1 && c.NKVHeads < b.pool.n {
		return c.NHeads
	}
	return c.NKVHeads
}

// attentionTokens is how many tokens a worker's unit of attention has: those of one text.
func (r *current) attentionTokens() int {
	if r.many {
		return 1
	}
	return attentionTokens
}

func (b *Backend) attend(w *worker, item int) error {
	r, n, c := &b.run, &b.run.stage.node, &b.prog.Config
	groups := b.headGroups()
	heads := c.NHeads / groups
	head0 := item % groups * heads
	most := r.attentionTokens()
	first := r.lo + item/groups*most
	tokens := min(most, r.hi-first)
	pos, text := b.place(first)
	stride := b.stride(n.A)
	w.attend(&b.cache, n.Layer, head0/(c.NHeads/c.NKVHeads), head0, heads, b.bufs[n.A][first*stride:], b.bufs[n.Dst][first*stride:], stride, tokens, text, pos)
	return nil
}
