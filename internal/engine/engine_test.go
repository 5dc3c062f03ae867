package engine

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/race"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// letters returns n random letters.
func letters(n int, seed uint64) string {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := make([]byte, n)
	for i := range s {
		s[i] = byte('a' + rng.IntN(26))
	}
	return string(s)
}

// together generates all requests at once and returns their results.
func together(t *testing.T, e *Engine, reqs []Request) []*Result {
	t.Helper()
	results, errs := make([]*Result, len(reqs)), make([]error, len(reqs))
	var wg sync.WaitGroup
	for i, r := range reqs {
		wg.Go(func() { results[i], errs[i] = e.Generate(context.Background(), r) })
	}
	wg.Wait()
	for i, err := range errs {
		require.NoError(t, err, i)
	}
	return results
}

// Sequences that come and go in any order, share prefixes, make room for each other and are computed again have the text that
// each has alone.
func TestSequencesTogetherHaveTheTextTheyHaveAlone(t *testing.T) {
	const n = 40
	common := letters(150, 99)
	requests := func(spec Speculation) (reqs []Request) {
		for i := range n {
			prompt := letters(1+i*7%180, uint64(i))
			if i%3 == 0 {
				prompt = common[:100+i] + prompt
			}
			r := greedy(prompt, 1+i*13%120)
			r.Speculate = spec
			reqs = append(reqs, r)
		}
		return reqs
	}
	alone, b := alphabetEngine(t, LoadOptions{NCtx: 448})
	b.hashed = true
	var want []string
	for _, r := range requests(SpeculateOff) {
		res, err := alone.Generate(context.Background(), r)
		require.NoError(t, err)
		want = append(want, res.Text)
	}
	preempted, cached := 0, 0
	for _, opt := range []LoadOptions{
		{NCtx: 448, Sequences: 4, MaxBatch: 64}, {NCtx: 448, Sequences: 8, CacheTokens: 640, MaxBatch: 100},
		{NCtx: 448, Sequences: 16, CacheTokens: 960, MaxBatch: 40}, {NCtx: 448, Sequences: 40, MaxBatch: 256},
		{NCtx: 448, Sequences: 4, MaxBatch: 64, States: 8}, {NCtx: 448, Sequences: 8, CacheTokens: 640, MaxBatch: 100, States: 19},
		{NCtx: 448, Sequences: 8, CacheTokens: 640, MaxBatch: 100, States: 60},
		{NCtx: 448, Sequences: 16, CacheTokens: 960, MaxBatch: 40, States: 33}, {NCtx: 448, Sequences: 40, MaxBatch: 256, States: 500},
	} {
		for _, spec := range []Speculation{SpeculateOff, SpeculateNgram} {
			e, b := alphabetEngine(t, opt)
			b.hashed = true
			tokens := int64(0)
			for i, r := range together(t, e, requests(spec)) {
				tokens += int64(len(r.Tokens))
				require.Equal(t, want[i], r.Text, "%+v, sequence %d", opt, i)
				preempted += r.Preemptions
				cached += r.CachedTokens
			}
			require.Eventually(t, func() bool { return e.Stats().Tokens == tokens }, time.Second, time.Millisecond)
		}
	}
	require.Positive(t, preempted, "the pool was large enough for all: nothing was tried")
	require.Positive(t, cached)
}

func TestOneOfManyIsCancelled(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 4096, Sequences: 3})
	b.hashed, b.quiet = true, true
	b.onCall = func() { time.Sleep(200 * time.Microsecond) }
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var cancelled *Result
	wg.Go(func() {
		r := greedy("abc", -1)
		seen := 0
		r.OnText = func(string) {
			if seen++; seen == 3 {
				cancel()
			}
		}
		var err error
		cancelled, err = e.Generate(ctx, r)
		assert.NoError(t, err)
	})
	others := together(t, e, []Request{greedy("abd", 100), greedy("xyz", 90)})
	wg.Wait()
	assert.Equal(t, StopCancelled, cancelled.StopReason)
	assert.GreaterOrEqual(t, len(cancelled.Tokens), 3)
	for i, n := range []int{100, 90} {
		assert.Len(t, others[i].Tokens, n)
		assert.Equal(t, StopLength, others[i].StopReason)
	}
}

// A sequence ends at its deadline, also one that never got a slot.
func TestDeadlines(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 4096})
	b.hashed, b.quiet = true, true
	b.onCall = func() { time.Sleep(time.Millisecond) }
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			r, err := e.Generate(ctx, greedy("abc", -1))
			assert.NoError(t, err)
			assert.Equal(t, StopDeadline, r.StopReason)
		})
	}
	wg.Wait()
	assert.ErrorIs(t, e.Evaluate(ctx, greedy("abc", 0).Prompt, 0, nil), context.DeadlineExceeded)
}

// While others decode, a long prompt is computed in chunks: between two tokens of a sequence there is never more than one.
func TestLongPromptDelaysOthersByAChunk(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 4096, Sequences: 5, MaxBatch: 256})
	b.hashed = true
	var reqs []Request
	for i := range 4 {
		reqs = append(reqs, greedy(letters(5, uint64(i)), 120))
	}
	b.onCall = func() { time.Sleep(200 * time.Microsecond) }
	started := make(chan bool)
	reqs[0].OnText = func(string) {
		if started != nil {
			close(started)
			started = nil
		}
	}
	wait := started
	var wg sync.WaitGroup
	wg.Go(func() {
		<-wait
		_, err := e.Generate(context.Background(), greedy(letters(4000, 9), 1))
		assert.NoError(t, err)
	})
	together(t, e, reqs)
	wg.Wait()
	longest := 0
	for i, c := range b.calls {
		decoding, prompt := 0, 0
		for _, r := range c.Runs {
			if r.Rows == r.N {
				decoding++
			} else {
				prompt += r.N - r.Rows
			}
		}
		if decoding > 0 {
			require.LessOrEqual(t, prompt, prefillChunk, "call %d", i)
			longest = max(longest, prompt)
		}
	}
	require.Equal(t, prefillChunk, longest)
}

// Ten sequences with a common prefix take the memory of one, though they all arrive at once.
func TestCommonPrefixIsStoredOnce(t *testing.T) {
	const prefix, own, answer = 1000, 30, 20
	common := letters(prefix, 5)
	pages := prefix/PageTokens + 10*(PagesFor(own+answer+prefix%PageTokens)) // whole pages once, the rest ten times
	e, b := alphabetEngine(t, LoadOptions{NCtx: 1100, Sequences: 10, CacheTokens: pages * PageTokens, MaxBatch: 256})
	b.hashed, b.quiet = true, true
	var reqs []Request
	for i := range 10 {
		reqs = append(reqs, greedy(common+letters(own, uint64(i)), answer))
	}
	cached := 0
	for _, r := range together(t, e, reqs) {
		assert.Zero(t, r.Preemptions)
		assert.Len(t, r.Tokens, answer)
		cached += r.CachedTokens
	}
	assert.GreaterOrEqual(t, cached, 9*(prefix/PageTokens*PageTokens))
}

// The second turn of a conversation computes what is new, and the page in the middle of which it begins is copied, not changed.
func TestSecondTurnComputesWhatIsNew(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 4096, MaxBatch: 256})
	b.hashed = true
	first := letters(2000, 1)
	r, err := e.Generate(context.Background(), greedy(first, 50))
	require.NoError(t, err)
	b.calls = nil
	second, err := e.Generate(context.Background(), greedy(first+r.Text+"and", 5))
	require.NoError(t, err)
	assert.Equal(t, 2049, second.CachedTokens)
	assert.Equal(t, []int{4, 1, 1, 1, 1}, b.sizes()) // the last token of the first answer, and three
	require.Len(t, b.calls[0].Copies, 1)
	other, err := e.Generate(context.Background(), greedy(first+r.Text+"or", 5))
	require.NoError(t, err)
	assert.Equal(t, 2050, other.CachedTokens)
	fresh, b2 := alphabetEngine(t, LoadOptions{NCtx: 4096, MaxBatch: 256})
	b2.hashed = true
	for prompt, text := range map[string]string{"and": second.Text, "or": other.Text} {
		want, err := fresh.Generate(context.Background(), greedy(first+r.Text+prompt, 5))
		require.NoError(t, err)
		assert.Equal(t, want.Text, text)
	}
}

// After a failed batch the waiting callers get the error, and later ones are served from a clean cache.
func TestFailedBatch(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 128, Sequences: 2})
	b.hashed = true
	calls := 0
	gone := errors.New("device is gone")
	b.onCall = func() {
		if calls++; calls == 5 {
			b.failing = gone
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, err := e.Generate(context.Background(), greedy("abc", 50))
			assert.ErrorIs(t, err, gone)
		})
	}
	wg.Wait()
	b.failing, b.onCall = nil, nil
	r, err := e.Generate(context.Background(), greedy("abc", 9))
	require.NoError(t, err)
	assert.Len(t, r.Tokens, 9)
}

func TestContextIsShifted(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 20})
	b.hashed = true
	req := greedy("abcdef", 60)
	req.Shift, req.Keep = true, 4
	r, err := e.Generate(context.Background(), req)
	require.NoError(t, err)
	assert.Equal(t, StopLength, r.StopReason)
	assert.Len(t, r.Tokens, 60)
	assert.GreaterOrEqual(t, r.Shifts, 5)
	// The text goes on as a prompt of what was kept would.
	text := slices.Concat(req.Prompt, r.Tokens[:15])
	kept := slices.Concat(text[:4], text[4+(21-4)/2:])
	fresh, b2 := alphabetEngine(t, LoadOptions{NCtx: 20})
	b2.hashed = true
	want, err := fresh.Generate(context.Background(), Request{Prompt: kept, MaxTokens: 3, Sampler: sample.New(sample.Options{})})
	require.NoError(t, err)
	assert.Equal(t, want.Tokens, r.Tokens[15:18])
}

// Once buffers have grown, a step allocates nothing.
func TestStepsDoNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	for _, spec := range []Speculation{SpeculateOff, SpeculateNgram} {
		e, b := alphabetEngine(t, LoadOptions{NCtx: 4096, Sequences: 4, MaxBatch: 64})
		b.quiet = true
		e.work = make(chan *sequence, 4)
		var seqs []*sequence
		for i := range 4 {
			req := greedy("abc", 3000)
			req.IgnoreEnd, req.Speculate = true, spec
			req.Sampler = sample.New(sample.Options{Temperature: 0.1, TopK: 5, RepeatPenalty: 1.01, PenaltyWindow: 8, Seed: uint64(i)})
			s := e.newSequence(context.Background(), &req, req.Prompt)
			s.stream, s.text = e.tok.NewStream(), newStopFilter([]string{"zzz"})
			s.tokens = slices.Grow(s.tokens, 4000)
			s.text.text, s.res.Tokens = make([]byte, 0, 4000), make([]int32, 0, 4000)
			s.guess.ngrams.prev = make([]int32, 0, 4000)
			seqs = append(seqs, s)
		}
		e.waiting = slices.Clone(seqs)
		for range 20 {
			require.True(t, e.admit())
			e.step()
		}
		n := testing.AllocsPerRun(40, func() { // a page each at most, which the tree remembers
			e.admit()
			e.step()
		})
		assert.LessOrEqual(t, n, 1.0, "%q", spec)
		for _, s := range slices.Clone(e.active) {
			require.Greater(t, len(s.res.Tokens), 40)
			e.finish(s)
		}
		e.admit()
	}
}

// only allows letters from a to a last one, and checks that it is told all that is chosen.
type only struct {
	last int32
	seen []int32
}

func (m *only) Mask(logits []float32) {
	for i := range logits {
		if int32(i) < tokenA || int32(i) > m.last {
			logits[i] = float32(math.Inf(-1))
		}
	}
}
func (m *only) Accept(token int32) { m.seen = append(m.seen, token) }

// A mask holds for every token, and for those that were proposed: these are never accepted against it.
func TestMaskHoldsWithSpeculation(t *testing.T) {
	for _, spec := range []Speculation{SpeculateOff, SpeculateNgram} {
		e, _ := alphabetEngine(t, LoadOptions{NCtx: 256})
		req := greedy("abcdefghijabcdefghijabc", 40)
		m := &only{last: tokenA + 5}
		req.Mask, req.Speculate = m, spec
		r, err := e.Generate(context.Background(), req)
		require.NoError(t, err)
		assert.Equal(t, "defaaaaaaa"[:3], r.Text[:3])
		assert.Equal(t, r.Tokens, m.seen)
		for _, tok := range r.Tokens {
			assert.LessOrEqual(t, tok, m.last)
		}
		assert.Len(t, r.Tokens, 40)
	}
	e, _ := alphabetEngine(t, LoadOptions{NCtx: 256})
	req := greedy("abc", 4)
	req.Mask = &only{last: -1}
	_, err := e.Generate(context.Background(), req)
	assert.ErrorIs(t, err, sample.ErrExcluded)
}

// fakeTime lets a step take a second, and slope seconds for each token after the first.
func fakeTime(e *Engine, b *alphabetBackend, slope float64) *time.Duration {
	var clock time.Duration
	b.onTokens = func(n int) { clock += time.Duration((1 + slope*float64(n-1)) * float64(time.Second)) }
	e.now = func() time.Time { return time.Unix(0, int64(clock)) }
	return &clock
}

// Speculation needs fewer passes where the text repeats and gives the same text, with the same seed also above temperature 0.
func TestNgramSpeculation(t *testing.T) {
	for _, o := range []sample.Options{{}, {Temperature: 0.7, Seed: 3, RepeatPenalty: 1.1, PenaltyWindow: 20}} {
		var texts [2]*Result
		for i, spec := range []Speculation{SpeculateOff, SpeculateNgram} {
			e, b := alphabetEngine(t, LoadOptions{NCtx: 512})
			fakeTime(e, b, 0.05)
			req := greedy("abcdefghijklmnopqrstuvwxyz", 200)
			req.IgnoreEnd, req.Speculate, req.Sampler = true, spec, sample.New(o)
			r, err := e.Generate(context.Background(), req)
			require.NoError(t, err)
			texts[i] = r
		}
		assert.Equal(t, texts[0].Tokens, texts[1].Tokens)
		assert.Equal(t, 200, texts[0].Speculation.Passes)
		assert.Zero(t, texts[0].Speculation.Proposed)
		s := texts[1].Speculation
		assert.Equal(t, 200, s.Passes+s.Accepted)
		if o.Temperature == 0 {
			assert.Less(t, s.Passes, 80, "%+v", s)
		}
	}
}

// Where nothing can be predicted, proposals stop.
func TestSpeculationGivesUp(t *testing.T) {
	e, b := alphabetEngine(t, LoadOptions{NCtx: 4096})
	b.hashed, b.quiet = true, true
	clock := fakeTime(e, b, 0.3)
	req := greedy(letters(2000, 3), 1500)
	req.Speculate = SpeculateNgram
	r, err := e.Generate(context.Background(), req)
	require.NoError(t, err)
	assert.Positive(t, r.Speculation.Proposed) // some pairs of letters occurred before
	assert.Less(t, r.DecodeTime, 1500*103*time.Second/100, "%+v", r.Speculation)
	assert.Positive(t, *clock)
}
