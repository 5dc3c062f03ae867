package engine

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// A model with a recurrent state cannot go back to an earlier position of a sequence, unless the state after that position has
// been kept. A backend has places for states. A sequence writes to a place that nobody else has; prefixes of the tree keep
// places, from which any number of sequences go on.

// place is a place for a state, numbered from 1; 0 = none.
type place int32

// slot is the backend's number.
func (p place) slot() int32 { return int32(p) - 1 }

// stateAfter is a state that is kept, and how many tokens of the sequence it follows.
type stateAfter struct {
	tokens int
	at     place
}

// sequenceStates is what a sequence has of the places.
type sequenceStates struct {
	now    place   // after the tokens that the sequence has in the cache; 0 at its beginning
	trail  []place // of the step in progress: after its last token without proposals, and after each proposed one
	first  int     // tokens that the first of trail follows
	kept   []stateAfter
	saves  []StateSave
	wanted [2]int // numbers of tokens after which the state is worth a place, if places are few
}

// StatePlaces returns how many places for states of sequences the options ask for: 0 for models without a state.
func (o *LoadOptions) StatePlaces(prog *model.Program) int {
	if !prog.Recurrent() {
		return 0
	}
	if o.States > 0 {
		return o.States
	}
	// Two of each sequence are in use during a step. Up to half of the cache's size goes to states of prefixes, and at least one
	// of each sequence; more than one of each page, and what speculation passes through, is of no use.
	const share, most = 2, 1 + maxProposal
	c := &prog.Config
	const keysAndValues, halfBytes, floatBytes = 2, 2, 4
	pageBytes := int64(prog.Count(model.OpAttention)) * keysAndValues * halfBytes * PageTokens * int64(c.NKVHeads*c.HeadDim)
	sequences, pages := max(o.Sequences, 1), o.Pages()
	fit := int64(pages) * pageBytes / share / (floatBytes * int64(StateFloats(prog)))
	return 2*sequences + max(1+sequences, int(min(fit, int64(pages+most))))
}

// StateFloats returns the float32 values of all states of a sequence.
func StateFloats(prog *model.Program) (n int) {
	for i := range prog.Nodes {
		n += prog.StateFloats(&prog.Nodes[i])
	}
	return n
}

// recurrent reports whether sequences have states.
func (p *pool) recurrent() bool { return len(p.stateRefs) > 0 }

// spare returns how many places are free or only the tree has.
func (p *pool) spare() int {
	n := len(p.freeStates)
	for _, x := range p.nodes {
		if x != nil && x.state != 0 && p.stateRefs[x.state.slot()] == 1 {
			n++
		}
	}
	return n
}

// newState returns a place for a state. If none is free, the least recently used prefix whose state nobody reads gives its place.
func (p *pool) newState() place {
	if len(p.freeStates) == 0 {
		var oldest *prefix
		for _, x := range p.nodes {
			if x != nil && x.state != 0 && p.stateRefs[x.state.slot()] == 1 && (oldest == nil || x.time < oldest.time) {
				oldest = x
			}
		}
		if oldest == nil {
			return 0
		}
		p.dropState(oldest.state)
		oldest.state = 0
	}
	s := p.freeStates[len(p.freeStates)-1]
	p.freeStates = p.freeStates[:len(p.freeStates)-1]
	return p.shareState(s)
}

// shareState notes one more user of a place.
func (p *pool) shareState(s place) place {
	if s != 0 {
		p.stateRefs[s.slot()]++
	}
	return s
}

// dropState notes one user less.
func (p *pool) dropState(s place) {
	if s == 0 {
		return
	}
	if p.stateRefs[s.slot()]--; p.stateRefs[s.slot()] == 0 {
		p.freeStates = append(p.freeStates, s)
	}
}

// keepState lets a prefix keep a state, unless it has one.
func (p *pool) keepState(x *prefix, s place) {
	if x.state == 0 {
		x.state = p.shareState(s)
	}
}

// backToState takes pages from t until its last one has a state, but not those of its first `least` positions, and returns the
// positions left.
func (p *pool) backToState(t *table, least int) int {
	for t.committed*PageTokens > least && t.last.state == 0 {
		p.unref(t.pages[t.committed-1])
		t.committed--
		t.pages = t.pages[:t.committed]
		t.last = t.last.parent
	}
	return t.committed * PageTokens
}

// enterStates ends what enter does for a sequence whose table has the known pages of its tokens: it goes on from the last of them
// with a state, and will keep the state where the known pages ended.
func (e *Engine) enterStates(s *sequence) {
	if !e.pool.recurrent() {
		return
	}
	s.states.wanted = [2]int{s.cached, s.needed() / PageTokens * PageTokens}
	s.cached = e.pool.backToState(&s.table, 0)
	if s.cached > 0 {
		s.states.now = e.pool.shareState(s.table.last.state)
	}
}

// setState lets s go on from a prefix's state.
func (e *Engine) setState(s *sequence, from place) {
	e.pool.shareState(from)
	e.pool.dropState(s.states.now)
	s.states.now = from
}

// worthKeeping tells whether the state after n tokens of s is worth a place of its own.
func (e *Engine) worthKeeping(s *sequence, n int) bool {
	switch {
	case n%PageTokens != 0 || s.req.NoReuse:
		return false
	case len(e.pool.stateRefs) > len(e.pool.refs): // there are enough for every page
		return true
	}
	return n > 0 && slices.Contains(s.states.wanted[:], n)
}

// planStates says which states a run reads and writes, of which the last tokens are proposed.
func (e *Engine) planStates(s *sequence, r *Run, proposed int) {
	st, p := &s.states, e.pool
	if !p.recurrent() {
		return
	}
	r.State = st.now.slot()
	again := len(st.trail) > 0 // an earlier run of this step has come so far
	if again {
		r.State = st.trail[0].slot()
	}
	first, end := len(st.saves), r.Pos+r.N-proposed
	for n := r.Pos/PageTokens*PageTokens + PageTokens; n < end; n += PageTokens {
		if e.spare > 0 && e.worthKeeping(s, n) {
			e.spare--
			at := p.newState()
			st.kept = append(st.kept, stateAfter{n, at})
			st.saves = append(st.saves, StateSave{After: n - r.Pos, Slot: at.slot()})
		}
	}
	if !again {
		at := st.now
		if at != 0 && p.stateRefs[at.slot()] == 1 && proposed == 0 {
			p.shareState(at) // written in place
		} else {
			at = p.newState()
		}
		st.trail = append(st.trail, at)
	}
	st.first = end
	st.saves = append(st.saves, StateSave{After: r.N - proposed, Slot: st.trail[0].slot()})
	for i := range proposed {
		at := p.newState()
		st.trail = append(st.trail, at)
		st.saves = append(st.saves, StateSave{After: r.N - proposed + 1 + i, Slot: at.slot()})
	}
	r.Saves = st.saves[first:]
}

// settleStates takes over the states of a step, after which s has s.cached tokens in the cache.
func (e *Engine) settleStates(s *sequence) {
	st, p := &s.states, e.pool
	if len(st.trail) == 0 {
		return
	}
	e.setState(s, st.trail[s.cached-st.first])
	e.forgetStep(s)
	if e.worthKeeping(s, s.cached) {
		st.kept = append(st.kept, stateAfter{s.cached, p.shareState(st.now)})
	}
}

// forgetStep gives back the states of a step but the present one and those kept.
func (e *Engine) forgetStep(s *sequence) {
	for _, at := range s.states.trail {
		e.pool.dropState(at)
	}
	s.states.trail, s.states.saves = s.states.trail[:0], s.states.saves[:0]
}

// forgetStates gives back all states of s.
func (e *Engine) forgetStates(s *sequence) {
	e.forgetStep(s)
	for _, k := range s.states.kept {
		e.pool.dropState(k.at)
	}
	s.states.kept = s.states.kept[:0]
	e.pool.dropState(s.states.now)
	s.states.now = 0
}

// commit tells the tree which pages of s are full.
func (e *Engine) commit(s *sequence) {
	e.pool.commit(&s.table, s.tokens[:s.cached], s.states.kept)
	for _, k := range s.states.kept {
		e.pool.dropState(k.at)
	}
	s.states.kept = s.states.kept[:0]
}

// release gives back the pages and states of s; the tree remembers them.
func (e *Engine) release(s *sequence) {
	e.forgetStep(s)
	kept := s.states.kept
	if s.states.now != 0 {
		kept = append(kept, stateAfter{s.cached, s.states.now})
	}
	e.pool.release(&s.table, s.tokens[:s.cached], kept)
	e.forgetStates(s)
	s.cached = 0
}
