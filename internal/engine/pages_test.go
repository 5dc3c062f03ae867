package engine

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPagesGoOnInAnotherEngine(t *testing.T) {
	for _, n := range []int{10, PageTokens, PageTokens + 1, 5*PageTokens + 7} {
		e, b := alphabetEngine(t, LoadOptions{NCtx: 1024, MaxBatch: 256})
		b.hashed = true
		first := letters(n, 3)
		r, err := e.Generate(context.Background(), greedy(first, 3))
		require.NoError(t, err)
		tokens := slices.Concat(greedy(first, 0).Prompt, r.Tokens)
		var pages [][]byte
		covered, err := e.SavePages(tokens, func(page []byte) error {
			pages = append(pages, slices.Clone(page))
			return nil
		})
		require.NoError(t, err)
		assert.Equal(t, len(tokens)-1, covered)
		assert.Len(t, pages, PagesFor(covered))
		counted, err := e.SavePages(tokens, nil)
		require.NoError(t, err)
		assert.Equal(t, covered, counted)
		assert.Zero(t, e.pool.used)
		want, err := e.Generate(context.Background(), greedy(first+r.Text+"x", 5))
		require.NoError(t, err)

		other, b2 := alphabetEngine(t, LoadOptions{NCtx: 1024, MaxBatch: 256})
		b2.hashed = true
		next := 0
		require.NoError(t, other.LoadPages(tokens[:covered], func(page []byte) error {
			copy(page, pages[next])
			next++
			return nil
		}))
		assert.Zero(t, other.pool.used)
		got, err := other.Generate(context.Background(), greedy(first+r.Text+"x", 5))
		require.NoError(t, err)
		assert.Equal(t, want.Text, got.Text)
		assert.Equal(t, covered, got.CachedTokens)
		assert.Equal(t, 2, len(b2.calls[0].Tokens), "what is computed is what no page holds")
	}
}

func TestPagesThatCannotBeTakenOver(t *testing.T) {
	e, _ := alphabetEngine(t, LoadOptions{NCtx: 2 * PageTokens, MaxBatch: 256})
	failed := errors.New("disk")
	free := len(e.pool.free)
	require.ErrorIs(t, e.LoadPages(make([]int32, 3), func([]byte) error { return failed }), failed)
	assert.Len(t, e.pool.free, free)
	require.Error(t, e.LoadPages([]int32{-1}, func([]byte) error { return nil }))
	loaded := 0
	require.NoError(t, e.LoadPages(make([]int32, 100*PageTokens), func([]byte) error { loaded++; return nil }))
	assert.Equal(t, e.stats.Pages, loaded, "as many as there is room for")
	assert.Zero(t, e.pool.used)
	_, err := e.SavePages(make([]int32, PageTokens), func([]byte) error { return failed })
	require.ErrorIs(t, err, failed)
	assert.Zero(t, e.pool.used)
	_, err = e.Generate(context.Background(), greedy("abc", 3))
	require.NoError(t, err)
}
