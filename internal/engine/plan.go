package engine

// plan chooses the tokens of the next step: of every sequence the next one with what is proposed after it, and of prompts,
// the oldest first, as much as the budget has room for.
func (e *Engine) plan() {
	decoding := 0
	for _, s := range e.active {
		e.adoptMore(s)
		if s.visit == nil && s.cached >= s.needed() {
			decoding++
		}
	}
	budget := e.maxBatch - decoding
	if decoding > 0 {
		budget = min(prefillChunk, (budget+1)/2)
	}
	proposals := e.maxBatch - decoding - budget
	if e.pool.recurrent() {
		e.spare = e.pool.spare() - len(e.active) // each takes one for its next state
	}
	for i := 0; i < len(e.active); i++ { // preemption shortens it from its end
		s := e.active[i]
		s.prefill, s.rows, s.proposal = 0, 0, nil
		budget -= e.planSequence(s, budget)
		if s.rows > 0 && s.visit == nil {
			e.propose(s, decoding, proposals)
			proposals -= len(s.proposal)
		}
	}
	e.fillBatch()
}

// planSequence chooses what s computes next, of which at most budget tokens of a prompt or an evaluation, and returns how
// many those are.
func (e *Engine) planSequence(s *sequence, budget int) (used int) {
	missing := s.needed() - s.cached
	if missing > 0 {
		n := min(missing, budget)
		if n <= 0 || !e.room(s, s.cached+n) {
			return 0
		}
		if s.prefill = n; n < missing || n == budget {
			return n
		}
		used = n
	}
	n := 1
	if s.visit != nil {
		n = min(len(s.tokens)-s.cached-s.prefill, max(1, maxLogits/e.NVocab()), budget-used)
	}
	if n > 0 && e.room(s, s.cached+s.prefill+n) {
		s.rows = n
	}
	if missing > 0 || s.visit != nil {
		used += s.rows
	}
	return used
}

// adoptMore gives s pages that another sequence with the same beginning has filled since.
func (e *Engine) adoptMore(s *sequence) {
	t := &s.table
	if s.req.NoReuse || s.cached >= s.needed() || len(t.pages) != t.committed || s.cached != t.committed*PageTokens {
		return
	}
	n := e.pool.adopt(t, s.tokens[:s.needed()])
	if e.pool.recurrent() {
		if n = e.pool.backToState(t, s.cached); n > s.cached {
			e.setState(s, t.last.state)
		}
	}
	if s.decoding.IsZero() && s.res.Preemptions == 0 {
		s.res.CachedTokens += n - s.cached
	}
	s.cached = n
}

// room makes s hold n positions. Younger sequences make room for it if need be, and s itself if it is the youngest: then room
// returns false.
func (e *Engine) room(s *sequence, n int) bool {
	for !e.pool.grow(&s.table, n) {
		youngest := e.active[len(e.active)-1]
		e.preempt(youngest)
		if youngest == s {
			return false
		}
	}
	return true
}

// fillBatch makes the batch of what was planned: prompts without logits first. The last sequence with both is one run, the
// first with logits.
func (e *Engine) fillBatch() {
	b := &e.batch
	b.Tokens, b.Runs, e.wanted = b.Tokens[:0], b.Runs[:0], e.wanted[:0]
	var both *sequence
	for _, s := range e.active {
		if s.prefill > 0 && s.rows > 0 {
			both = s
		}
	}
	for _, s := range e.active {
		if s.prefill > 0 && s != both {
			e.addRun(s, s.cached, s.prefill, 0)
		}
	}
	if both != nil {
		e.addRun(both, both.cached, both.prefill+both.rows, both.rows)
		e.wanted = append(e.wanted, both)
	}
	for _, s := range e.active {
		if s.rows > 0 && s != both {
			e.addRun(s, s.cached+s.prefill, s.rows, s.rows)
			e.wanted = append(e.wanted, s)
		}
	}
}

// addRun adds n tokens of s from position pos on, which may reach into what is proposed.
func (e *Engine) addRun(s *sequence, pos, n, rows int) {
	b := &e.batch
	known := s.tokens[pos:min(pos+n, len(s.tokens))]
	b.Tokens = append(b.Tokens, known...)
	b.Tokens = append(b.Tokens, s.proposal[:n-len(known)]...)
	b.Runs = append(b.Runs, Run{Seq: s.slot, Pos: pos, N: n, Rows: rows, Pages: s.table.pages})
	e.planStates(s, &b.Runs[len(b.Runs)-1], n-len(known))
}
