package engine

import "fmt"

// PageTokens is the number of consecutive positions of one sequence that a page of the KV cache holds.
const PageTokens = 64

// Run is a stretch of a batch: N tokens of one sequence from position Pos on. Logits are wanted of its last Rows tokens.
type Run struct {
	Seq  int // slot of the sequence, below LoadOptions.Sequences; state other than the KV cache belongs to it
	Pos  int // of the run's first token; cache entries of the sequence at positions ≥ Pos are overwritten
	N    int
	Rows int // 0 to N
	// Pages is the sequence's page table: page Pages[i] of the cache holds positions i·PageTokens up to the next page. It
	// covers at least Pos + N positions. Sequences may share pages that no run of the batch writes to.
	Pages []int32
	// State is the place of the sequence's state after its first Pos tokens, which may be written by an earlier run of the batch; at
	// position 0 the state is empty. Saves, in ascending order, are where it is kept. Models without a state do not look at either.
	State int32
	Saves []StateSave
}

// StateSave says that the state after the first After tokens of a run is to be kept at a place.
type StateSave struct {
	After int
	Slot  int32
}

// PageCopy says that page To is to become a copy of page From.
type PageCopy struct{ From, To int32 }

// Batch is what one Forward computes: the tokens of all runs, one run after the other. Tokens whose logits are wanted come
// last: only the first run with Rows > 0 may have N > Rows, and runs without logits come before it. A later run may continue
// an earlier one of the same sequence.
type Batch struct {
	Tokens []int32 // at most LoadOptions.MaxBatch
	Runs   []Run
	Copies []PageCopy // carried out before the runs
}

// Rows returns the number of tokens whose logits are wanted.
func (b *Batch) Rows() (rows int) {
	for i := range b.Runs {
		rows += b.Runs[i].Rows
	}
	return rows
}

// SingleRun returns a batch that continues one sequence alone: tokens from position pos on, with logits of the last rows of
// them. The sequence has slot 0, the first pages of the cache, and the first place for a state.
func SingleRun(tokens []int32, pos, rows int) Batch {
	pages := make([]int32, PagesFor(max(0, pos)+len(tokens)))
	for i := range pages {
		pages[i] = int32(i)
	}
	return Batch{Tokens: tokens, Runs: []Run{{Pos: pos, N: len(tokens), Rows: rows, Pages: pages,
		Saves: []StateSave{{After: len(tokens)}}}}}
}

// PagesFor returns how many pages hold n positions.
func PagesFor(n int) int { return (n + PageTokens - 1) / PageTokens }

// BatchLimits are the bounds that Check holds a batch to.
type BatchLimits struct {
	Tokens    int // of the batch
	Context   int // positions of one sequence
	Sequences int // slots
	Pages     int // of the cache
	Vocab     int
	States    int // places; 0 = the model has no state
}

// Check returns an error if b breaks a rule of Batch or a limit.
func (b *Batch) Check(l BatchLimits) error {
	if len(b.Tokens) == 0 || len(b.Tokens) > l.Tokens {
		return fmt.Errorf("a batch of %d tokens, expected 1 to %d", len(b.Tokens), l.Tokens)
	}
	for i, t := range b.Tokens {
		if t < 0 || int(t) >= l.Vocab {
			return fmt.Errorf("token %d is %d, the vocabulary has %d entries", i, t, l.Vocab)
		}
	}
	for _, c := range b.Copies {
		if c.From < 0 || c.To < 0 || int(c.From) >= l.Pages || int(c.To) >= l.Pages {
			return fmt.Errorf("copy of page %d to %d in a cache of %d pages", c.From, c.To, l.Pages)
		}
	}
	n, wanted := 0, false
	for i := range b.Runs {
		r := &b.Runs[i]
		if err := r.check(l); err != nil {
			return fmt.Errorf("run %d: %w", i, err)
		}
		if wanted && r.Rows < r.N {
			return fmt.Errorf("run %d has logits of %d of %d tokens after a run with logits", i, r.Rows, r.N)
		}
		wanted = wanted || r.Rows > 0
		n += r.N
	}
	if n != len(b.Tokens) {
		return fmt.Errorf("runs of %d tokens, %d given", n, len(b.Tokens))
	}
	return nil
}

func (r *Run) check(l BatchLimits) error {
	if r.N < 1 || r.Pos < 0 || r.Pos > l.Context-r.N {
		return fmt.Errorf("%d tokens at position %d do not fit a context of %d", r.N, r.Pos, l.Context)
	}
	if r.Rows < 0 || r.Rows > r.N {
		return fmt.Errorf("logits of %d of %d tokens", r.Rows, r.N)
	}
	if r.Seq < 0 || r.Seq >= l.Sequences {
		return fmt.Errorf("sequence %d of %d", r.Seq, l.Sequences)
	}
	if len(r.Pages) < PagesFor(r.Pos+r.N) {
		return fmt.Errorf("%d pages for %d positions, expected %d", len(r.Pages), r.Pos+r.N, PagesFor(r.Pos+r.N))
	}
	for _, p := range r.Pages[:PagesFor(r.Pos+r.N)] {
		if p < 0 || int(p) >= l.Pages {
			return fmt.Errorf("page %d in a cache of %d pages", p, l.Pages)
		}
	}
	return r.checkStates(l)
}

// checkStates returns an error if a place does not exist or saves are not in order.
func (r *Run) checkStates(l BatchLimits) error {
	if l.States == 0 {
		return nil
	}
	if r.Pos > 0 && (r.State < 0 || int(r.State) >= l.States) {
		return fmt.Errorf("state %d of %d", r.State, l.States)
	}
	last := 0
	for _, s := range r.Saves {
		if s.After <= last || s.After > r.N || s.Slot < 0 || int(s.Slot) >= l.States {
			return fmt.Errorf("state to keep after %d of %d tokens at place %d of %d", s.After, r.N, s.Slot, l.States)
		}
		last = s.After
	}
	return nil
}
