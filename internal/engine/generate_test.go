package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// alphabetBackend is a model whose every token is followed by the next letter; after 'z' comes the end. Its logits depend on
// the whole sequence, as it finds it in the pages, so that a wrong position, page or stale entry changes them. It checks that
// runs write to no page that another reads.
type alphabetBackend struct {
	nVocab int
	plan   MemoryPlan
	limits BatchLimits
	cells  [][PageTokens]int32 // tokens of each page
	calls  []Batch             // with copies of the slices
	onCall func()
	// onTokens, if set, is told how many tokens each call has.
	onTokens func(n int)
	failing  error
	bad      float32 // added to a logit, if set
	logits   []float32
	text     []int32
	states   []alphabetState // by place; none: the model has no state
	quiet    bool            // record no calls
	hashed   bool            // the next letter depends on the whole text, and never is the end
}

const (
	tokenEnd = 1
	tokenA   = 2
)

func (b *alphabetBackend) Load(context.Context, *format.Reader, *model.Program, LoadOptions) error {
	return nil
}
func (b *alphabetBackend) Memory() MemoryPlan { return b.plan }
func (b *alphabetBackend) Describe() string   { return "alphabet" }
func (b *alphabetBackend) Close() error       { return nil }

func (b *alphabetBackend) PageLayout() string { return "alphabet" }
func (b *alphabetBackend) PageBytes() int     { return 4 * PageTokens }

func (b *alphabetBackend) ReadPage(page int32, to []byte) {
	for i, t := range b.cells[page] {
		binary.LittleEndian.PutUint32(to[4*i:], uint32(t))
	}
}

func (b *alphabetBackend) WritePage(page int32, from []byte) {
	for i := range b.cells[page] {
		b.cells[page][i] = int32(binary.LittleEndian.Uint32(from[4*i:]))
	}
}

func (b *alphabetBackend) Forward(_ context.Context, batch Batch) ([]float32, error) {
	if b.onCall != nil {
		b.onCall()
	}
	if b.onTokens != nil {
		b.onTokens(len(batch.Tokens))
	}
	if b.failing != nil {
		return nil, b.failing
	}
	if err := batch.Check(b.limits); err != nil {
		return nil, err
	}
	if !b.quiet {
		c := Batch{Tokens: slices.Clone(batch.Tokens), Runs: slices.Clone(batch.Runs), Copies: slices.Clone(batch.Copies)}
		b.calls = append(b.calls, c)
	}
	for _, c := range batch.Copies {
		b.cells[c.To] = b.cells[c.From]
	}
	at := 0
	for _, r := range batch.Runs {
		for i := range r.N {
			b.cells[r.Pages[(r.Pos+i)/PageTokens]][(r.Pos+i)%PageTokens] = batch.Tokens[at+i]
		}
		at += r.N
	}
	if err := b.runStates(batch); err != nil {
		return nil, err
	}
	b.logits = b.logits[:0]
	for _, r := range batch.Runs {
		for i := r.N - r.Rows; i < r.N; i++ {
			b.text = b.text[:0]
			for pos := range r.Pos + i + 1 {
				b.text = append(b.text, b.cells[r.Pages[pos/PageTokens]][pos%PageTokens])
			}
			b.row(b.text)
		}
	}
	return b.logits, nil
}

// alphabetState is a state: it knows which tokens it follows.
type alphabetState struct {
	tokens int
	hash   uint64
}

// runStates reads and writes states, and refuses a state that does not follow the tokens before the run.
func (b *alphabetBackend) runStates(batch Batch) error {
	if len(b.states) == 0 {
		return nil
	}
	at := 0
	for _, r := range batch.Runs {
		s := alphabetState{}
		var before []int32
		for pos := range r.Pos {
			before = append(before, b.cells[r.Pages[pos/PageTokens]][pos%PageTokens])
		}
		if r.Pos > 0 {
			s = b.states[r.State]
			if s.tokens != r.Pos || s.hash != chain(0, before) {
				return fmt.Errorf("a run from position %d has the state after %d tokens, or one of other tokens", r.Pos, s.tokens)
			}
		}
		saves := r.Saves
		for i := range r.N {
			s = alphabetState{s.tokens + 1, chain(s.hash, batch.Tokens[at+i:at+i+1])}
			if len(saves) > 0 && saves[0].After == i+1 {
				b.states[saves[0].Slot] = s
				saves = saves[1:]
			}
		}
		at += r.N
	}
	return nil
}

// chain continues a hash of tokens.
func chain(h uint64, tokens []int32) uint64 {
	for _, t := range tokens {
		h = (h^uint64(t+1))*1099511628211 + 7
	}
	return h
}

// row appends the logits after a text.
func (b *alphabetBackend) row(text []int32) {
	at := len(b.logits)
	for range b.nVocab {
		b.logits = append(b.logits, 0)
	}
	logits := b.logits[at:]
	next := int(text[len(text)-1]) + 1
	if next == b.nVocab {
		next = tokenEnd
	}
	logits[next] = 4
	hash := uint32(0)
	for i, t := range text {
		logits[0] -= float32(t) * float32(i+1) // token 0 carries a checksum of the text
		hash = (hash ^ uint32(t)) * 16777619
	}
	if b.hashed {
		logits[next] = 0
		logits[tokenA+hash>>8%26] = 4
	}
	logits[3] += b.bad
}

// sizes returns how many tokens each call had.
func (b *alphabetBackend) sizes() (sizes []int) {
	for _, c := range b.calls {
		sizes = append(sizes, len(c.Tokens))
	}
	return sizes
}

func alphabetEngine(t testing.TB, opt LoadOptions) (*Engine, *alphabetBackend) {
	t.Helper()
	tokens := []string{"<s>", "</s>"}
	types := []int32{3, 3}
	for c := 'a'; c <= 'z'; c++ {
		tokens, types = append(tokens, string(c)), append(types, 1)
	}
	vocab := tokenizer.GGUFVocab{
		Model: "gpt2", Pre: "gpt-2", Tokens: tokens, Types: types, BOS: 0, EOS: tokenEnd, UNK: -1, PAD: -1, EOT: -1,
	}
	tok, err := tokenizer.FromGGUF(vocab)
	require.NoError(t, err)
	if opt.MaxBatch == 0 {
		opt.MaxBatch = 16
	}
	b := &alphabetBackend{
		nVocab: len(tokens), plan: MemoryPlan{Plan: PlanResident, Pages: opt.Pages(), States: opt.States},
		cells: make([][PageTokens]int32, opt.Pages()), states: make([]alphabetState, opt.States),
	}
	b.limits = BatchLimits{
		Tokens: opt.MaxBatch, Context: opt.NCtx, Sequences: max(opt.Sequences, 1), Pages: opt.Pages(), Vocab: b.nVocab,
		States: opt.States,
	}
	prog := &model.Program{Config: model.Config{NVocab: len(tokens)}}
	e := newEngine(b, tok, prog, &format.Meta{}, opt)
	t.Cleanup(func() {
		require.Eventually(t, func() bool { e.mu.Lock(); defer e.mu.Unlock(); return !e.running }, 5*time.Second, time.Millisecond)
		require.Zero(t, e.Stats().PagesUsed, "pages that no sequence has")
		e.Reset()
		require.Len(t, e.pool.free, len(e.pool.refs), "pages leaked")
		require.Len(t, e.pool.freeStates, len(e.pool.stateRefs), "states leaked")
	})
	return e, b
}

func greedy(prompt string, n int) Request {
	r := Request{MaxTokens: n, Sampler: sample.New(sample.Options{})}
	for _, c := range prompt {
		r.Prompt = append(r.Prompt, int32(c-'a')+tokenA)
	}
	return r
}

func TestGenerateStops(t *testing.T) {
	for _, c := range []struct {
		name   string
		nCtx   int
		change func(*Request)
		text   string
		reason StopReason
		tokens int
	}{
		{"length", 64, func(r *Request) { r.MaxTokens = 3 }, "klm", StopLength, 3},
		{"nothing wanted", 64, func(r *Request) { r.MaxTokens = 0 }, "", StopLength, 0},
		{"end of text", 64, func(*Request) {}, "klmnopqrstuvwxyz", StopEnd, 16},
		{"end ignored", 64, func(r *Request) { r.IgnoreEnd, r.MaxTokens = true, 18 }, "klmnopqrstuvwxyza", StopLength, 18},
		{"context full", 8, func(*Request) {}, "klmnop", StopContext, 6},
		{"stop string that names a control token", 64, func(r *Request) { r.IgnoreEnd, r.Stop = true, []string{"</s>"} },
			"klmnopqrstuvwxyz", StopString, 16},
		{"stop string over tokens", 64, func(r *Request) { r.Stop = []string{"zz", "nop"} }, "klm", StopString, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := alphabetEngine(t, LoadOptions{NCtx: c.nCtx, MaxBatch: 4})
			req := greedy("hij", -1)
			c.change(&req)
			shown := ""
			req.OnText = func(text string) { shown += text }
			r, err := s.Generate(context.Background(), req)
			require.NoError(t, err)
			assert.Equal(t, c.text, r.Text)
			assert.Equal(t, c.text, shown)
			assert.Equal(t, c.reason, r.StopReason)
			assert.Len(t, r.Tokens, c.tokens)
			assert.Equal(t, 3, r.PromptTokens)
		})
	}
}

func TestGeneratePrefillsInBatches(t *testing.T) {
	s, b := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 4})
	_, err := s.Generate(context.Background(), greedy("abcdefghi", 1))
	require.NoError(t, err)
	assert.Equal(t, []int{4, 4, 1}, b.sizes())
}

func TestGenerateReusesTheCommonPrefix(t *testing.T) {
	s, b := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 16})
	_, err := s.Generate(context.Background(), greedy("abc", 3))
	require.NoError(t, err)
	b.calls = nil

	// "abcde" is in the cache ("f" was generated, but nothing came after it).
	r, err := s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Equal(t, 4, r.CachedTokens)
	assert.Equal(t, []int32{tokenA + 23, tokenA + 24}, b.calls[0].Tokens)
	assert.Equal(t, "z", r.Text)

	// The same prompt again: its last token must be computed for its logits.
	r, err = s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Equal(t, 5, r.CachedTokens)
	assert.Equal(t, "z", r.Text)

	s.Reset()
	r, err = s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Zero(t, r.CachedTokens)
}

func TestGenerateCancelled(t *testing.T) {
	s, b := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 16})
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	b.onCall = func() {
		if n++; n == 4 {
			cancel()
		}
	}
	r, err := s.Generate(ctx, greedy("a", -1))
	require.NoError(t, err)
	assert.Equal(t, StopCancelled, r.StopReason)
	assert.Equal(t, "bcde", r.Text)

	// The session can go on.
	r, err = s.Generate(context.Background(), greedy("abc", 2))
	require.NoError(t, err)
	assert.Equal(t, "de", r.Text)
}

func TestGenerateErrors(t *testing.T) {
	s, b := alphabetEngine(t, LoadOptions{NCtx: 4, MaxBatch: 16})
	_, err := s.Generate(context.Background(), greedy("", 1))
	assert.ErrorContains(t, err, "empty")
	_, err = s.Generate(context.Background(), greedy("abcd", 1))
	assert.ErrorIs(t, err, ErrPromptTooLong)
	assert.ErrorContains(t, err, "--ctx")
	b.bad = float32(math.NaN())
	_, err = s.Generate(context.Background(), greedy("ab", 1))
	assert.ErrorIs(t, err, sample.ErrNaN)
	assert.ErrorContains(t, err, "position 1: ")
	b.bad = float32(math.Inf(1))
	_, err = s.Generate(context.Background(), greedy("abc", 1))
	assert.ErrorIs(t, err, sample.ErrInfinite)
	assert.ErrorContains(t, err, "position 2: ")
	b.failing = errors.New("device is gone")
	_, err = s.Generate(context.Background(), greedy("b", 1))
	assert.ErrorIs(t, err, b.failing)
}

func TestTopLogits(t *testing.T) {
	s, _ := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 16})
	req := greedy("ab", 2)
	req.TopLogits = 3
	r, err := s.Generate(context.Background(), req)
	require.NoError(t, err)
	require.Len(t, r.Steps, 2)
	sum := math.Log(math.Exp(4) + 26 + math.Exp(-8)) // the checksum of "ab" is 8
	want := []Candidate{{tokenA + 2, "c", 4, float32(4 - sum)}, {1, "</s>", 0, float32(-sum)}, {2, "a", 0, float32(-sum)}}
	assert.Equal(t, Step{tokenA + 2, float32(4 - sum), want}, r.Steps[0])
}

func TestEvaluateVisitsEveryPositionOnce(t *testing.T) {
	whole, _ := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 64})
	parts, b := alphabetEngine(t, LoadOptions{NCtx: 64, MaxBatch: 5})
	tokens := greedy("thequickbrownfox", 0).Prompt
	collect := func(s *Engine) (all []float32) {
		at := 6
		require.NoError(t, s.Evaluate(context.Background(), tokens, 6, func(pos int, logits []float32) error {
			assert.Equal(t, at, pos)
			at += len(logits) / s.NVocab()
			all = append(all, logits...)
			return nil
		}))
		assert.Equal(t, len(tokens), at)
		return all
	}
	assert.Equal(t, collect(whole), collect(parts))
	assert.Greater(t, len(b.calls), 3)
	assert.Error(t, parts.Evaluate(context.Background(), make([]int32, 65), 0, nil))
}
