package gpu

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// testSequence is a sequence that a test continues.
type testSequence struct {
	slot  int
	pages []int32
	ids   []int32 // computed and to come
	at    int     // computed
}

// run returns the next n tokens as a run, with logits of the last rows.
func (s *testSequence) run(n, rows int) engine.Run {
	r := engine.Run{Seq: s.slot, Pos: s.at, N: n, Rows: rows, Pages: s.pages}
	s.at += n
	return r
}

// tokens returns the tokens of runs that have just been made.
func batchOf(sequences []*testSequence, runs []engine.Run) (b engine.Batch) {
	b.Runs = runs
	for _, r := range runs {
		b.Tokens = append(b.Tokens, sequences[r.Seq].ids[r.Pos:r.Pos+r.N]...)
	}
	return b
}

// newSequences returns sequences of 80 random tokens in a cache of their pages, which they have in no order.
func newSequences(n int) (all []*testSequence, pages int) {
	const length = 80
	perSequence := engine.PagesFor(length)
	order := rand.New(rand.NewPCG(5, uint64(n))).Perm(n * perSequence)
	for i := range n {
		s := &testSequence{slot: i, ids: prompt(length + 7*i)[7*i:]}
		for _, p := range order[i*perSequence : (i+1)*perSequence] {
			s.pages = append(s.pages, int32(p))
		}
		all = append(all, s)
	}
	return all, n * perSequence
}

// alone returns the logits of tokens `from` to `to` − 1 of a sequence that nothing else runs beside.
func alone(t *testing.T, m *tinyModel, opt engine.LoadOptions, ids []int32, from, to int) []float32 {
	t.Helper()
	b := New(openEmu(t))
	opt.Sequences, opt.CacheTokens = 1, 0
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
	_, err := b.Forward(context.Background(), engine.SingleRun(ids[:from], 0, 0))
	require.NoError(t, err)
	var all []float32
	for i := from; i < to; i++ {
		logits, err := b.Forward(context.Background(), engine.SingleRun(ids[i:i+1], i, 1))
		require.NoError(t, err)
		all = append(all, logits...)
	}
	require.NoError(t, b.Close())
	return all
}

// Sequences in one batch, of different lengths, with pages in any order, have the logits that they have alone: prefill beside
// decoding, decoding together, more of them than products of few vectors take, and several tokens each.
func TestSequencesShareABatch(t *testing.T) {
	for i, plan := range []engine.Plan{engine.PlanFused, engine.PlanResident} {
		m := newTinyModel(t, []string{"llama", "qwen2"}[i])
		const n = 10
		sequences, pages := newSequences(n)
		opt := engine.LoadOptions{Plan: plan, NCtx: 96, MaxBatch: 64, Sequences: n, CacheTokens: pages * engine.PageTokens,
			KVType: []string{engine.KVF16, engine.KVQ8}[i]}
		s := newSpy(openEmu(t))
		b := New(s)
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
		assert.Equal(t, pages, b.Memory().Pages)
		forward := func(runs ...engine.Run) []float32 {
			t.Helper()
			logits, err := b.Forward(context.Background(), batchOf(sequences, runs))
			require.NoError(t, err)
			return slices.Clone(logits)
		}
		a, c, d := sequences[0], sequences[1], sequences[2]
		forward(a.run(62, 0))             // up to the end of a page, nearly
		forward(c.run(9, 0), d.run(3, 0)) // two prompts together
		got := [][]float32{nil, nil, nil}
		vocab := m.prog.Config.NVocab
		take := func(logits []float32, of ...int) {
			require.Len(t, logits, len(of)*vocab)
			for i, s := range of {
				got[s] = append(got[s], logits[i*vocab:(i+1)*vocab]...)
			}
		}
		take(forward(a.run(1, 1), c.run(1, 1), d.run(1, 1)), 0, 1, 2)
		take(forward(d.run(1, 1), a.run(1, 1), c.run(1, 1)), 2, 0, 1)          // in another order: the same graph
		take(forward(sequences[3].run(20, 0), c.run(1, 1), a.run(1, 1)), 1, 0) // beside a prompt
		take(forward(c.run(3, 3), d.run(2, 2)), 1, 1, 1, 2, 2)                 // as speculation does
		take(forward(a.run(10, 0), a.run(1, 1), d.run(1, 1)), 0, 2)            // two runs of one sequence
		var rest []engine.Run
		for _, s := range sequences[4:] {
			rest = append(rest, s.run(1, 1))
		}
		rest = append(rest, a.run(1, 1), c.run(1, 1), d.run(1, 1))
		logits := forward(rest...) // nine tokens: by gemm
		take(logits[(len(rest)-3)*vocab:], 0, 1, 2)

		const limit = 2e-5 // products of few and of many tokens round differently
		wantA := alone(t, m, opt, a.ids, 62, 77)
		requireClose(t, append(slices.Clone(wantA[:3*vocab]), wantA[13*vocab:]...), got[0], limit, "first sequence, %s", plan)
		requireClose(t, alone(t, m, opt, c.ids, 9, 16), got[1], limit, "second sequence, %s", plan)
		requireClose(t, alone(t, m, opt, d.ids, 3, 9), got[2], limit, "third sequence, %s", plan)
		if !s.noGraphs { // an old driver has none
			assert.Equal(t, 2, s.graphs, "one for three tokens, one for five")
		}
		require.NoError(t, b.Close())
	}
}

// A copied page is a page of its own.
func TestCopiedPages(t *testing.T) {
	for _, kv := range []string{engine.KVF16, engine.KVQ8} {
		m := newTinyModel(t, "llama")
		sequences, pages := newSequences(2)
		opt := engine.LoadOptions{Plan: engine.PlanFused, NCtx: 96, MaxBatch: 64, Sequences: 2, CacheTokens: pages * engine.PageTokens,
			KVType: kv}
		b := New(openEmu(t))
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
		a, c := sequences[0], sequences[1]
		_, err := b.Forward(context.Background(), batchOf(sequences, []engine.Run{a.run(20, 0)}))
		require.NoError(t, err)
		// The second sequence begins with 15 tokens of the first, then both go on their own ways.
		copy(c.ids, a.ids[:15])
		c.at = 15
		batch := batchOf(sequences, []engine.Run{a.run(1, 1), c.run(1, 1)})
		batch.Copies = []engine.PageCopy{{From: a.pages[0], To: c.pages[0]}}
		got, err := b.Forward(context.Background(), batch)
		require.NoError(t, err)
		vocab := m.prog.Config.NVocab
		requireClose(t, alone(t, m, opt, a.ids, 20, 21), got[:vocab], 2e-5, kv)
		requireClose(t, alone(t, m, opt, c.ids, 15, 16), got[vocab:], 2e-5, kv)
		require.NoError(t, b.Close())
	}
}
