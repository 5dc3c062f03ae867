package cpu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// current is what the workers need to know about the operation in progress. The functions are made once, so that starting a job
// allocates nothing.
type current struct {
	tokens  []int32
	pos     []int        // of each token in its sequence
	rows    []int        // of the cache, where each token's keys and values go
	from    []int32      // where each token's state before it is: a place, emptyState, or sameState
	to      []int32      // where the state after each token goes: a place, or sameState
	spans   []tokenRange // into which attention divides the batch
	fused   *fusedNode
	wanted  int          // first token with logits
	lo, hi  int          // tokens of the node
	attends []tokenRange // those of spans that have some of these
	active  []product.Product

	quantize func(worker int)
	store    func(worker int)
	work     [model.NumOps]func(worker int)
	perItem  [model.NumOps]func(w *worker, item int) error
}

// tokenRange are n consecutive tokens of one run, from token `first` of the batch on.
type tokenRange struct {
	first, n int
	pages    []int32 // page table of their sequence
}

// Forward implements engine.Backend.
func (b *Backend) Forward(ctx context.Context, batch engine.Batch) ([]float32, error) {
	if b.workers == nil {
		return nil, errors.New("cpu: Forward before Load")
	}
	vocab := b.prog.Config.NVocab
	limits := engine.BatchLimits{Tokens: b.maxBatch, Context: b.nCtx, Sequences: b.slots, Pages: b.pages, Vocab: vocab,
		States: b.plan.States}
	if err := batch.Check(limits); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	rows := batch.Rows()
	if len(b.logits) < rows*vocab {
		b.logits = make([]float32, rows*vocab)
	}
	for _, c := range batch.Copies {
		b.cache.copyPage(int(c.From), int(c.To))
	}
	b.run.place(&batch)
	for t, pos := range b.run.pos {
		for k := range b.ropes {
			b.ropes[k].prepare(t, pos)
		}
	}
	b.run.wanted = len(batch.Tokens) - rows
	if err := b.file.Guard(func() error { return b.runNodes(ctx, b.run.wanted) }); err != nil {
		return nil, err
	}
	return b.logits[:rows*vocab], nil
}

// Hidden implements engine.HiddenStates.
func (b *Backend) Hidden(row int) []float32 {
	for i := range b.prog.Nodes {
		if n := &b.prog.Nodes[i]; n.Dst == model.BufLogits {
			return b.row(n.A, b.run.wanted+row)
		}
	}
	return nil
}

// place takes over a batch.
func (r *current) place(b *engine.Batch) {
	r.tokens, r.pos, r.rows, r.spans = b.Tokens, r.pos[:0], r.rows[:0], r.spans[:0]
	r.from, r.to = r.from[:0], r.to[:0]
	for i := range b.Runs {
		run := &b.Runs[i]
		for j := range run.N {
			pos := run.Pos + j
			if j%attentionTokens == 0 {
				r.spans = append(r.spans, tokenRange{len(r.pos), min(attentionTokens, run.N-j), run.Pages})
			}
			r.pos = append(r.pos, pos)
			r.rows = append(r.rows, cacheRow(run.Pages, pos))
			r.from, r.to = append(r.from, sameState), append(r.to, sameState)
		}
		first := len(r.pos) - run.N
		if r.from[first] = run.State; run.Pos == 0 {
			r.from[first] = emptyState
		}
		for _, s := range run.Saves {
			r.to[first+s.After-1] = s.Slot
		}
	}
}

// runNodes runs the program. Logits are wanted from token `wanted` on.
func (b *Backend) runNodes(ctx context.Context, wanted int) error {
	r := &b.run
	for i := range b.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &b.nodes[i]
		r.fused, r.lo, r.hi = s, b.firstToken(&s.node, wanted), len(r.tokens)
		start := time.Time{}
		if b.profiled {
			start = time.Now()
		}
		if err := b.runNode(wanted); err != nil {
			return err
		}
		if b.profiled {
			b.profile.add(s.entry, time.Since(start), s.readBytes())
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

// runNode runs the current node.
func (b *Backend) runNode(wanted int) error {
	r := &b.run
	switch r.fused.node.Op {
	case model.OpMatMul:
		return b.multiply(wanted)
	case model.OpAttention:
		n := &r.fused.node
		for t, row := range r.rows {
			keys, values := b.row(n.B, t), b.row(n.C, t)
			if !finite(keys) || !finite(values) {
				return fmt.Errorf("cpu: keys or values of layer %d at position %d are not finite numbers (\"ellm-gpu verify\" tells "+
					"whether the file is damaged; else the model is unusable)", n.Layer, r.pos[t])
			}
			b.cache.store(r.fused.cache, row, keys, values)
		}
		r.attends = spansFrom(r.spans, r.lo)
		return b.parallel(model.OpAttention)
	case model.OpShortConv, model.OpConv, model.OpDelta:
		return b.runItems()
	}
	if b.shared(r.hi-r.lo, r.fused.node.Dst) || r.fused.node.Op == model.OpEmbed && r.hi-r.lo > 1 {
		return b.parallel(r.fused.node.Op)
	}
	for t := r.lo; t < r.hi; t++ {
		if err := r.perItem[r.fused.node.Op](b.workers[0], t-r.lo); err != nil {
			return err
		}
	}
	return nil
}

// runItems runs the parts of an operation that takes all tokens of each together.
func (b *Backend) runItems() error {
	r := &b.run
	large := r.fused.node.Op == model.OpDelta && b.prog.StateFloats(&r.fused.node) >= sharedFloats // for one token, too
	if large || b.shared(r.hi-r.lo, r.fused.node.Dst) {
		return b.parallel(r.fused.node.Op)
	}
	for i := range b.items() {
		if err := r.perItem[r.fused.node.Op](b.workers[0], i); err != nil {
			return err
		}
	}
	return nil
}

// finite tells whether x holds finite numbers only.
func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

// sharedFloats is from how many numbers on cheap operations use all threads: a few microseconds' work.
const sharedFloats = 16 << 10

// shared reports whether an operation with the rows of some tokens uses all threads.
func (b *Backend) shared(tokens int, rows model.Buffer) bool {
	return tokens > 1 && tokens*b.prog.Width(rows) >= sharedFloats
}

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

// bind makes the functions that workers run: each takes items of the node until none is left.
func (r *current) bind(b *Backend) {
	r.perItem = [...]func(w *worker, item int) error{
		model.OpEmbed: b.embed, model.OpRMSNorm: b.rmsNorm, model.OpMatMul: b.product, model.OpRoPE: b.rotate,
		model.OpAttention: b.attend, model.OpGLU: b.gate, model.OpAdd: b.add, model.OpShortConv: b.shortConv,
		model.OpConv: b.shortConv, model.OpDelta: b.delta, model.OpGateHeads: b.gateHeads,
	}
	r.quantize = func(w int) {
		n := r.hi - r.lo
		for {
			i, ok := b.pool.item(n)
			if !ok {
				return
			}
			b.quantizeToken(b.workers[w], i)
		}
	}
	r.store = func(int) {
		for {
			t, ok := b.pool.item(len(r.rows))
			if !ok {
				return
			}
			b.store(t)
		}
	}
	for op, item := range r.perItem {
		r.work[op] = func(w int) {
			n := b.items()
			most := b.mostItems()
			for {
				i, end := b.pool.batch(n, most)
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

// mostItems returns how many items a worker takes at most at a time. Row blocks of products with one token may take about as long
// as asking for the next; those with several fetch the next block's weights meanwhile.
func (b *Backend) mostItems() int {
	if b.run.fused.node.Op != model.OpMatMul {
		return 1
	}
	return 16
}

// items returns the number of independent parts of the current node.
func (b *Backend) items() int {
	r := &b.run
	tokens := r.hi - r.lo
	switch r.fused.node.Op {
	case model.OpMatMul:
		return b.productBlocks()
	case model.OpAttention:
		return len(r.attends) * b.headGroups()
	case model.OpDelta:
		return b.prog.Config.DeltaValueHeads
	case model.OpShortConv, model.OpConv:
		return (b.prog.Width(r.fused.node.Dst) + convChannels - 1) / convChannels
	}
	return tokens
}

// store puts token t's keys and values of the current node's layer into the cache.
func (b *Backend) store(t int) {
	n := &b.run.fused.node
	b.cache.store(b.run.fused.cache, b.run.rows[t], b.row(n.B, t), b.row(n.C, t))
}

// spansFrom returns the spans that hold tokens from lo on. Earlier tokens of the first of them are left out by attend.
func spansFrom(spans []tokenRange, lo int) []tokenRange {
	for len(spans) > 0 && spans[0].first+spans[0].n <= lo {
		spans = spans[1:]
	}
	return spans
}

// headGroups returns into how many parts the query heads are divided: the groups that share keys and values, or single heads
// where there are too few groups for the threads.
func (b *Backend) headGroups() int {
	c := &b.prog.Config
	if len(b.run.attends) == 1 && b.run.hi-b.run.lo == 1 && c.NKVHeads < b.pool.n {
		return c.NHeads
	}
	return c.NKVHeads
}

func (b *Backend) attend(w *worker, item int) error {
	r, n, c := &b.run, &b.run.fused.node, &b.prog.Config
	groups := b.headGroups()
	heads := c.NHeads / groups
	head0 := item % groups * heads
	s := r.attends[item/groups]
	first := max(s.first, r.lo)
	stride := b.stride(n.A)
	w.attend(&b.cache, &attentionItem{
		node: n, cache: b.run.fused.cache, kvHead: head0 / (c.NHeads / c.NKVHeads), head0: head0, heads: heads,
		q: b.bufs[n.A][first*stride:], out: b.bufs[n.Dst][first*stride:], stride: stride,
		tokens: s.first + s.n - first, pages: s.pages, pos: r.pos[first],
	})
	return nil
}
