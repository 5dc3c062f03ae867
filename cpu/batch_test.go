package cpu

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/race"
)

// sequence is a text with a page table, in a batch with others.
type sequence struct {
	tokens []int32
	pages  []int32
	done   int // tokens run
}

// run takes the next n tokens, with logits of the last rows.
func (s *sequence) run(b *engine.Batch, n, rows int) {
	b.Tokens = append(b.Tokens, s.tokens[s.done:s.done+n]...)
	b.Runs = append(b.Runs, engine.Run{Pos: s.done, N: n, Rows: rows, Pages: s.pages})
	s.done += n
}

// Sequences in mixed batches get the very logits that each gets alone: prefill beside decoding, several tokens at a time with the
// logits of all of them, pages in any order, over the end of a page and with either type of the cache.
func TestSequenceInAMixedBatchHasTheBitsItHasAlone(t *testing.T) {
	const length, vocab = 150, 97
	ctx := context.Background()
	for _, kv := range []string{engine.KVF16, engine.KVQ8} {
		for recipe, plan := range map[int]engine.Plan{3: engine.PlanResident, 5: engine.PlanFused} {
			m := newTiny(t, tinyOptions{arch: "qwen2", recipe: recipe})
			for _, mc := range cputest.Machines() {
				b := load(t, m, mc, engine.LoadOptions{NCtx: length, KVType: kv, Threads: 2, Sequences: 4, Plan: plan})
				require.Equal(t, 12, b.Memory().Pages)
				seqs := make([]sequence, 4)
				want := make([][]float32, len(seqs))
				alone := load(t, m, mc, engine.LoadOptions{NCtx: length, KVType: kv, Threads: 1, Plan: plan})
				for i := range seqs {
					seqs[i].tokens = prompt(length+i, vocab)[i:]
					want[i] = slices.Clone(forward(t, alone, seqs[i].tokens, length))
					for j := range 3 {
						seqs[i].pages = append(seqs[i].pages, int32(11-i-4*j))
					}
				}
				for step := 0; seqs[3].done < length; step++ {
					var batch engine.Batch
					var rows [][]float32
					take := func(i, n, logits int) {
						if n = min(n, length-seqs[i].done); n > 0 {
							seqs[i].run(&batch, n, min(n, logits))
							rows = append(rows, want[i][(seqs[i].done-min(n, logits))*vocab:seqs[i].done*vocab])
						}
					}
					if step%3 == 0 {
						take(2, 20, 0)
					}
					take(0, 23, 2)
					take(1, 3, 3)
					take(3, 1+step%2, 2)
					got, err := b.Forward(ctx, batch)
					require.NoError(t, err)
					require.Equal(t, slices.Concat(rows...), got, "%s %s, step %d", mc.Dot, kv, step)
				}
			}
		}
	}
}

// A run may continue an earlier run of its sequence in the same batch, and a copied page serves as well as the original.
func TestRunsOfOneSequenceAndCopiedPages(t *testing.T) {
	const length, vocab = 100, 97
	ctx := context.Background()
	for _, kv := range []string{engine.KVF16, engine.KVQ8} {
		m := newTiny(t, tinyOptions{arch: "llama", recipe: 3})
		b := load(t, m, cputest.Machines()[0], engine.LoadOptions{NCtx: length, KVType: kv, Threads: 2, Sequences: 2})
		s := sequence{tokens: prompt(length, vocab), pages: []int32{2, 0}}
		alone := load(t, m, cputest.Machines()[0], engine.LoadOptions{NCtx: length, KVType: kv})
		want := slices.Clone(forward(t, alone, s.tokens, length))
		var batch engine.Batch
		s.run(&batch, 80, 0)
		s.run(&batch, 1, 1)
		got, err := b.Forward(ctx, batch)
		require.NoError(t, err)
		require.Equal(t, want[80*vocab:81*vocab], got)

		branch := sequence{tokens: slices.Clone(s.tokens), pages: []int32{2, 3}, done: 70}
		batch = engine.Batch{Copies: []engine.PageCopy{{From: 0, To: 3}}}
		for i := 70; i < 80; i++ {
			branch.tokens[i] = 1 // written to the copy alone
		}
		branch.run(&batch, 10, 0)
		s.run(&batch, 19, 1)
		got, err = b.Forward(ctx, batch)
		require.NoError(t, err)
		require.Equal(t, want[99*vocab:], got)

		branch = sequence{tokens: s.tokens, pages: []int32{2, 1}, done: 75}
		batch = engine.Batch{Copies: []engine.PageCopy{{From: 0, To: 1}}}
		branch.run(&batch, 25, 25)
		got, err = b.Forward(ctx, batch)
		require.NoError(t, err)
		require.Equal(t, want[75*vocab:], got)
	}
}

func TestBatchedForwardDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	m := newTiny(t, tinyOptions{arch: "llama", recipe: 3})
	b := load(t, m, cputest.Machines()[0], engine.LoadOptions{NCtx: 64, Threads: 2, Sequences: 4})
	batch := engine.Batch{Tokens: make([]int32, 4), Runs: make([]engine.Run, 4)}
	for i := range batch.Runs {
		batch.Runs[i] = engine.Run{Seq: i, N: 1, Rows: 1, Pages: []int32{int32(i)}}
	}
	require.Zero(t, testing.AllocsPerRun(20, func() {
		if _, err := b.Forward(context.Background(), batch); err != nil {
			t.Error(err)
		}
		for i := range batch.Runs {
			batch.Runs[i].Pos++
		}
	}))
}

func TestForwardRefusesWrongBatches(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama"})
	b := load(t, m, cputest.Machines()[0], engine.LoadOptions{NCtx: 100, Sequences: 2, CacheTokens: 130, MaxBatch: 20})
	require.Equal(t, 3, b.Memory().Pages)
	one := []int32{0, 1}
	for _, c := range []struct {
		n    int
		runs []engine.Run
		msg  string
	}{
		{0, nil, "batch of 0 tokens"},
		{21, []engine.Run{{N: 21, Pages: one}}, "expected 1 to 20"},
		{3, []engine.Run{{N: 2, Pages: one}}, "runs of 2 tokens, 3 given"},
		{2, []engine.Run{{N: 2, Seq: 2, Pages: one}}, "sequence 2 of 2"},
		{2, []engine.Run{{N: 2, Pos: 63, Pages: one[:1]}}, "1 pages for 65 positions, expected 2"},
		{2, []engine.Run{{N: 2, Pages: []int32{3}}}, "page 3 in a cache of 3"},
		{2, []engine.Run{{N: 2, Pages: []int32{-1}}}, "page -1"},
		{3, []engine.Run{{N: 1, Rows: 1, Pages: one}, {N: 2, Rows: 1, Pages: one}}, "run 1 has logits of 1 of 2"},
		{3, []engine.Run{{N: 3, Rows: 1, Pages: one}, {N: 0, Pages: one}}, "run 1: 0 tokens"},
	} {
		_, err := b.Forward(context.Background(), engine.Batch{Tokens: make([]int32, c.n), Runs: c.runs})
		require.ErrorContains(t, err, c.msg)
	}
	_, err := b.Forward(context.Background(), engine.Batch{Tokens: []int32{1}, Runs: []engine.Run{{N: 1, Pages: one}},
		Copies: []engine.PageCopy{{From: 0, To: 3}}})
	require.ErrorContains(t, err, "copy of page 0 to 3")
	for _, opt := range []engine.LoadOptions{{NCtx: 10, Sequences: -1}, {NCtx: 10, Sequences: maxSequences + 1},
		{NCtx: maxContext, Sequences: 100}} {
		require.ErrorContains(t, New().Load(context.Background(), m.file, m.prog, opt), "expected at most")
	}
}
