package engine

import "time"

// maxProposal is the most tokens that are proposed ahead for a sequence.
const maxProposal = 15

// Speculation must not cost more than this part of a sequence's time, however badly its tokens can be predicted.
const speculationLoss = 0.015

// guesser proposes a sequence's next tokens and learns how often it is right. A proposal is verified by choosing each token
// as if nothing had been proposed, and going on while the choice is what was proposed. For proposals that are certain this is
// the rejection sampling of Leviathan et al. (2023, arXiv 2211.17192) and Chen et al. (2023, arXiv 2302.01318), and it draws
// once per token: a seed gives the same text with and without.
type guesser struct {
	ngrams ngrams
	buf    []int32
	class  int // of the present proposal
	rates  [numClasses]rates
	spent  float64 // seconds that the sequence's passes would have taken without proposals
	gain   float64 // seconds saved by proposals, as far as is known
}

// rates count what became of proposals of one class.
type rates struct{ right, tried float64 }

// Classes of proposals: by the length of the n-gram, and those of a draft model.
const (
	classDraft = 5
	numClasses = 6
)

// guessRates are the rates that classes start with, as if seen priorTries times.
var guessRates = [numClasses]float64{0.2, 0.35, 0.55, 0.75, 0.9, 0.7}

const priorTries = 3

// classOf returns the class of an n-gram of the given length.
func classOf(length int) int {
	switch {
	case length < 3:
		return 0
	case length < 5:
		return 1
	case length < 8:
		return 2
	case length < 16:
		return 3
	}
	return 4
}

// rate returns the probability that a token of the class is right.
func (g *guesser) rate(class int) float64 {
	r := g.rates[class]
	return (r.right + priorTries*guessRates[class]) / (r.tried + priorTries)
}

// propose puts tokens after s's next one into the step, of which `decoding` sequences take part; at most limit.
func (e *Engine) propose(s *sequence, decoding, limit int) {
	if s.req.Speculate == SpeculateOff {
		return
	}
	limit = min(limit, maxProposal, e.nCtx-s.cached-s.prefill-1)
	if s.req.MaxTokens >= 0 {
		limit = min(limit, s.req.MaxTokens-len(s.res.Tokens)-1)
	}
	if limit <= 0 || s.prefill > 0 {
		return
	}
	g := &s.guess
	g.buf = g.buf[:0]
	if s.req.Speculate == SpeculateDraft {
		e.proposeDraft(s, decoding, limit)
	} else if place, length := g.ngrams.longest(s.tokens); length > 0 {
		g.class = classOf(length)
		g.buf = g.ngrams.propose(g.buf, s.tokens, place, g.length(&e.costs, decoding, limit, 0))
	}
	n := len(g.buf)
	for n > 0 && PagesFor(s.cached+1+n)-len(s.table.pages) > e.pool.available() {
		n-- // no sequence makes room for proposals
	}
	if e.pool.recurrent() { // the state after each of them is kept until they are verified
		n = min(n, e.spare)
	}
	if n > 0 && e.pool.grow(&s.table, s.cached+1+n) {
		e.spare -= n
		s.proposal = g.buf[:n]
		s.rows += n
	}
}

func (e *Engine) proposeDraft(s *sequence, decoding, limit int) {
	g := &s.guess
	g.class = classDraft
	start := e.now()
	n := g.length(&e.costs, decoding, limit, e.draft.seconds)
	if n == 0 {
		return
	}
	var err error
	if g.buf, err = e.draft.propose(s.ctx, g.buf, s.slot, s.tokens, n); err != nil {
		g.buf = g.buf[:0] // the model itself can go on
	}
	g.gain -= e.now().Sub(start).Seconds()
}

// length returns how many tokens to propose so that most tokens are expected per second. extra is what each takes to propose.
func (g *guesser) length(c *costs, decoding, limit int, extra float64) int {
	if g.class < 3 && g.gain < -speculationLoss*g.spent-c.at(1) {
		return 0
	}
	p := g.rate(g.class)
	best, n := float64(decoding)/c.at(decoding), 0
	expected, all := float64(decoding), 1.0
	for k := 1; k <= limit; k++ {
		all *= p
		expected += all
		if rate := expected / (c.at(decoding+k) + float64(k)*extra); rate > best {
			best, n = rate, k
		}
	}
	return n
}

// learn notes that `right` of the proposed tokens were right, in a step of `tokens` tokens and `decoding` sequences.
func (g *guesser) learn(c *costs, proposed, right, decoding int) {
	g.spent += c.at(decoding) / float64(decoding)
	if proposed == 0 {
		return
	}
	r := &g.rates[g.class]
	r.right += float64(right)
	r.tried += float64(min(right+1, proposed))
	if r.tried > 64 {
		r.right, r.tried = r.right/2, r.tried/2
	}
	saved := float64(right) * c.at(decoding) / float64(decoding)
	g.gain += saved - (c.at(decoding+proposed) - c.at(decoding))
	g.spent += saved
}

// costs is what steps of a number of tokens take, measured once and by every step that only decodes.
type costs struct {
	seconds  [maxCosts + 1]float64 // 0 = unknown
	measured bool
}

const maxCosts = 64

// add notes that a step of n tokens took d. All steps become slower as texts grow, so half of what was not foreseen goes to
// every entry. What differs by more than a factor of 2 may be an accident and counts as that.
func (c *costs) add(n int, d time.Duration) {
	if n > maxCosts || d <= 0 {
		return
	}
	if c.seconds[n] == 0 {
		c.seconds[n] = d.Seconds()
		return
	}
	f := 1 + (min(max(d.Seconds()/c.seconds[n], 0.5), 2)-1)/16
	for i := range c.seconds {
		c.seconds[i] *= f
	}
	c.seconds[n] *= f
}

// at returns what a step of n tokens takes: measured, on a line between neighbours that are, or by a slope of guessedSlope
// beyond them.
func (c *costs) at(n int) float64 {
	n = min(n, maxCosts)
	lo, hi := n, n
	for lo > 0 && c.seconds[lo] == 0 {
		lo--
	}
	for hi <= maxCosts && c.seconds[hi] == 0 {
		hi++
	}
	const guessedSlope = 0.2 // of a token's time
	switch {
	case lo == n:
		return c.seconds[n]
	case lo > 0 && hi <= maxCosts:
		return c.seconds[lo] + (c.seconds[hi]-c.seconds[lo])*float64(n-lo)/float64(hi-lo)
	case lo > 0:
		return c.seconds[lo] * (1 + guessedSlope*float64(n)) / (1 + guessedSlope*float64(lo))
	case hi <= maxCosts:
		return c.seconds[hi] * (1 + guessedSlope*float64(n)) / (1 + guessedSlope*float64(hi))
	}
	return 1 + guessedSlope*float64(n)
}

// measureTime bounds what measuring costs takes.
const measureTime = 400 * time.Millisecond

// measure fills the table of costs before s, the only sequence, begins, if it was not yet filled.
func (e *Engine) measure(s *sequence) {
	if e.costs.measured || len(e.batch.Copies) > 0 {
		return
	}
	page, ok := e.pool.alloc()
	if !ok {
		return
	}
	defer e.pool.unref(page)
	e.costs.measured = true
	begin := e.now()
	tokens := make([]int32, 2*maxProposal)
	for i, n := range []int{1, 1, 2, 4, 8, 1 + maxProposal} {
		start := e.now()
		if n > e.maxBatch || start.Sub(begin) > measureTime {
			return
		}
		b := Batch{Tokens: tokens[:n], Runs: []Run{{Seq: s.slot, N: n, Rows: n, Pages: []int32{page}}}}
		if _, err := e.backend.Forward(s.ctx, b); err != nil {
			return // the step reports it
		}
		if i > 0 { // the first warms caches
			e.costs.add(n, e.now().Sub(start))
		}
	}
}
