package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
)

// prefillChunk is the most prompt tokens of a step in which other sequences decode: what a long prompt delays them by.
const prefillChunk = 64

// stepper is the state of the goroutine that runs steps.
type stepper struct {
	pool   *pool
	slots  []int       // that no sequence has
	active []*sequence // the oldest first
	batch  Batch
	wanted []*sequence // those with logits, in the order of the batch
	work   chan *sequence
	taken  sync.WaitGroup
	spare  int // places for states that the step may take beyond one of each sequence
	costs  costs
	draft  *drafter
}

// run takes steps until there is nothing to do.
func (e *Engine) run() {
	work := make(chan *sequence, len(e.slots))
	e.work = work
	defer close(work)
	for range min(len(e.slots), runtime.GOMAXPROCS(0)) - 1 {
		go func() {
			for s := range work {
				s.take(e)
				e.taken.Done()
			}
		}()
	}
	for e.admit() {
		e.step()
	}
}

// admit lets waiting sequences in while there are slots and pages. It reports whether there is anything to do, and otherwise
// ends the run.
func (e *Engine) admit() bool {
	for _, s := range slices.Clone(e.ended(e.active)) {
		e.finish(s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.forget {
		e.pool.reset()
		e.forget = false
	}
	for _, s := range e.ended(e.waiting) {
		e.finish(s)
	}
	e.waiting = slices.DeleteFunc(e.waiting, func(s *sequence) bool { return s.finished })
	n := 0
	for n < len(e.waiting) && len(e.slots) > 0 && e.enter(e.waiting[n]) {
		n++
	}
	e.waiting = slices.Delete(e.waiting, 0, n)
	e.stats.Running, e.stats.PagesUsed = len(e.active), e.pool.used
	e.running = len(e.active) > 0
	return e.running
}

// ended returns the sequences whose context has ended.
func (e *Engine) ended(all []*sequence) (ended []*sequence) {
	for _, s := range all {
		err := s.ctx.Err()
		if err == nil {
			continue
		}
		s.res.StopReason = StopCancelled
		if errors.Is(err, context.DeadlineExceeded) {
			s.res.StopReason = StopDeadline
		}
		s.finished = true
		ended = append(ended, s)
	}
	return ended
}

// enter gives s a slot and what the cache holds of its tokens, unless other sequences would have to leave for it.
func (e *Engine) enter(s *sequence) bool {
	known := s.tokens[:s.needed()]
	if s.req.NoReuse {
		known = nil
	}
	s.cached = e.pool.adopt(&s.table, known)
	if PagesFor(len(s.tokens)+1)-len(s.table.pages) > e.pool.available() && len(e.active) > 0 {
		e.pool.release(&s.table, s.tokens[:s.cached], nil)
		return false
	}
	e.enterStates(s)
	if n, c, state, ok := e.pool.adoptPart(&s.table, known); ok {
		s.cached = n
		e.setState(s, state)
		e.pool.dropState(state) // shared by adoptPart
		if c.From != c.To {
			e.batch.Copies = append(e.batch.Copies, c)
		}
	}
	if s.started.IsZero() {
		s.started = e.now()
		s.res.QueueTime = s.started.Sub(s.submitted)
		s.res.CachedTokens = s.cached
	}
	s.slot = e.slots[len(e.slots)-1]
	e.slots = e.slots[:len(e.slots)-1]
	e.active = append(e.active, s)
	return true
}

// step computes the next tokens of all active sequences.
func (e *Engine) step() {
	if len(e.active) == 1 && e.active[0].req.Speculate != SpeculateOff {
		e.measure(e.active[0])
	}
	e.plan()
	if len(e.active) == 0 || len(e.batch.Tokens) == 0 {
		return
	}
	start := e.now()
	logits, err := e.forward()
	if err != nil {
		e.fail(err)
		return
	}
	prompt := 0
	for _, s := range e.active {
		s.cached += s.prefill
		prompt += s.prefill
	}
	if prompt == 0 {
		e.costs.add(len(e.batch.Tokens), e.now().Sub(start))
	}
	e.take(logits)
	generated := 0
	for _, s := range e.active {
		e.settleStates(s)
	}
	for _, s := range e.wanted {
		generated += len(s.res.Tokens) - s.counted
		s.counted = len(s.res.Tokens)
		switch {
		case s.finished:
			e.finish(s)
		case s.cached == e.nCtx && s.visit == nil:
			e.shift(s)
		}
	}
	for _, s := range e.active {
		if s.cached/PageTokens > s.table.committed {
			e.commit(s)
		}
	}
	e.count(prompt, generated)
}

// count updates the statistics.
func (e *Engine) count(prompt, generated int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.Steps++
	e.stats.PromptTokens += int64(prompt)
	e.stats.Tokens += int64(generated)
}

// forward runs the batch. A single sequence's context can end it; those of several end between steps.
func (e *Engine) forward() (logits []float32, err error) {
	ctx := context.Background()
	if len(e.active) == 1 {
		ctx = e.active[0].ctx
	}
	err = fault.Guard(func() error {
		logits, err = e.backend.Forward(ctx, e.batch)
		return err
	})
	if want := e.batch.Rows() * e.NVocab(); err == nil && len(logits) != want {
		err = fmt.Errorf("backend returned %d logits, expected %d", len(logits), want)
	}
	e.batch.Copies = e.batch.Copies[:0]
	return logits, err
}

// fail ends all active sequences after a failed batch, of which nothing but full pages of earlier steps is kept.
func (e *Engine) fail(err error) {
	for _, s := range slices.Clone(e.active) {
		s.cached = s.table.committed * PageTokens
		e.forgetStates(s)
		s.err = err
		if s.ctx.Err() != nil {
			s.err = nil
			e.ended([]*sequence{s})
		}
		e.finish(s)
	}
}

// take lets the sequences choose their next tokens, on several cores where there are several sequences.
func (e *Engine) take(logits []float32) {
	at := 0
	for _, s := range e.wanted {
		s.row = at / e.NVocab()
		n := s.rows * e.NVocab()
		s.logits = logits[at : at+n]
		at += n
		if s.decoding.IsZero() {
			s.decoding = e.now()
		}
	}
	if len(e.wanted) == 1 {
		e.wanted[0].take(e)
		return
	}
	e.taken.Add(len(e.wanted))
	for _, s := range e.wanted {
		e.work <- s
	}
	for {
		select {
		case s := <-e.work:
			s.take(e)
			e.taken.Done()
			continue
		default:
		}
		break
	}
	e.taken.Wait()
}

// finish ends s and gives back what it has.
func (e *Engine) finish(s *sequence) {
	s.finished = true
	now := e.now()
	if s.decoding.IsZero() {
		s.decoding = now
	}
	if !s.started.IsZero() {
		s.res.PrefillTime, s.res.DecodeTime = s.decoding.Sub(s.started), now.Sub(s.decoding)
	}
	e.leave(s)
	if s.stream != nil && s.res.StopReason != StopString {
		s.text.text = append(s.text.text, s.stream.Flush()...)
		if s.text.check() {
			s.res.StopReason = StopString
		}
		s.text.flush()
	}
	s.publish(len(s.res.Steps), true)
}

// leave takes s out of the active sequences.
func (e *Engine) leave(s *sequence) {
	i := slices.Index(e.active, s)
	if i < 0 {
		return
	}
	e.active = slices.Delete(e.active, i, i+1)
	e.slots = append(e.slots, s.slot)
	e.release(s)
}

// preempt makes s wait again; its tokens are computed once more when there is room.
func (e *Engine) preempt(s *sequence) {
	e.leave(s)
	s.res.Preemptions++
	s.prefill, s.rows = 0, 0
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.Preemptions++
	e.waiting = slices.Insert(e.waiting, 0, s)
}

// shift drops the older half of what follows the first Keep tokens. The rest is computed again, at its new positions.
func (e *Engine) shift(s *sequence) {
	e.release(s)
	keep := min(max(s.req.Keep, 0), e.nCtx/2)
	s.tokens = slices.Delete(s.tokens, keep, keep+(len(s.tokens)-keep)/2)
	s.guess.ngrams = ngrams{}
	s.res.Shifts++
}
