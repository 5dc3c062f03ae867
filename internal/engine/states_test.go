package engine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// cachedOf generates a few tokens after prompt and returns how many tokens of it were in the cache.
func cachedOf(t *testing.T, e *Engine, prompt string) int {
	t.Helper()
	r, err := e.Generate(context.Background(), greedy(prompt, 3))
	require.NoError(t, err)
	return r.CachedTokens
}

// A conversation goes on where it ended, at any position.
func TestStatesOfEndedSequencesAreReused(t *testing.T) {
	for _, states := range []int{3, 40} {
		e, b := alphabetEngine(t, LoadOptions{NCtx: 448, MaxBatch: 64, States: states})
		b.hashed = true
		first, err := e.Generate(context.Background(), greedy(letters(100, 1), 20))
		require.NoError(t, err)
		prompt := letters(100, 1) + first.Text + letters(10, 2)
		require.Equal(t, 100+20-1, cachedOf(t, e, prompt), "all but the last token, which was chosen and not computed")
	}
}

// A prefix that ends within what others have computed is of use only up to a state: at the end of a page, where there are enough
// places, and otherwise where a sequence has branched off before.
func TestStatesAreKeptWhereSequencesBranch(t *testing.T) {
	common := letters(200, 3)
	many, b := alphabetEngine(t, LoadOptions{NCtx: 448, MaxBatch: 64, States: 40})
	b.hashed = true
	require.Zero(t, cachedOf(t, many, common+letters(100, 4)))
	require.Equal(t, 192, cachedOf(t, many, common+letters(100, 5)))
	few, b := alphabetEngine(t, LoadOptions{NCtx: 448, MaxBatch: 64, States: 5})
	b.hashed = true
	require.Zero(t, cachedOf(t, few, common+letters(100, 4)))
	require.Zero(t, cachedOf(t, few, common+letters(100, 5)), "no state between")
	require.Equal(t, 192, cachedOf(t, few, common+letters(100, 6)))
	require.Equal(t, 256, cachedOf(t, few, common+letters(100, 6)), "the last page of the prompt")
}

// Speculation takes as many tokens ahead as there are places, and changes no text.
func TestSpeculationWithStates(t *testing.T) {
	prompt := "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
	plain, _ := alphabetEngine(t, LoadOptions{NCtx: 448})
	want, err := plain.Generate(context.Background(), greedy(prompt[:40], 12))
	require.NoError(t, err)
	for _, states := range []int{2, 3, 30} {
		e, _ := alphabetEngine(t, LoadOptions{NCtx: 448, States: states})
		r := greedy(prompt[:40], 12)
		r.Speculate = SpeculateNgram
		res, err := e.Generate(context.Background(), r)
		require.NoError(t, err)
		require.Equal(t, want.Text, res.Text)
		if states == 2 {
			require.Zero(t, res.Speculation.Proposed, "no place for a second state")
		} else {
			require.Positive(t, res.Speculation.Accepted)
		}
	}
}

// A shifted context is computed again from its beginning.
func TestShiftsWithStates(t *testing.T) {
	texts := map[int]string{}
	for _, states := range []int{0, 2, 20} {
		e, b := alphabetEngine(t, LoadOptions{NCtx: 128, MaxBatch: 64, States: states})
		b.hashed = true
		r := greedy(letters(100, 7), 200)
		r.Shift, r.Keep = true, 10
		res, err := e.Generate(context.Background(), r)
		require.NoError(t, err)
		require.Positive(t, res.Shifts)
		texts[states] = res.Text
	}
	require.Equal(t, texts[0], texts[2])
	require.Equal(t, texts[0], texts[20])
}

// Pages alone do not hold a conversation.
func TestPagesOfModelsWithStatesAreNotSaved(t *testing.T) {
	e, _ := alphabetEngine(t, LoadOptions{NCtx: 128, States: 4})
	_, err := e.SavePages(greedy("abc", 0).Prompt, nil)
	require.ErrorIs(t, err, ErrNoPages)
	require.ErrorIs(t, e.LoadPages(greedy("abc", 0).Prompt, nil), ErrNoPages)
}
