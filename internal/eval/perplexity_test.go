package eval

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

func TestWindows(t *testing.T) {
	w, err := windows(LlamaCPP, 35, 8, 0)
	require.NoError(t, err)
	assert.Equal(t, []window{{0, 8, 5}, {8, 16, 13}, {16, 24, 21}, {24, 32, 29}}, w, "what does not fill a chunk is left out")
	w, err = windows(Sliding, 10, 8, 8)
	require.NoError(t, err)
	assert.Equal(t, []window{{0, 8, 1}, {8, 10, 9}}, w)
	w, err = windows(Sliding, 9, 8, 8)
	require.NoError(t, err)
	assert.Equal(t, []window{{0, 8, 1}}, w, "a window of one token predicts nothing")

	for _, c := range []struct {
		def             Definition
		n, nCtx, stride int
	}{{LlamaCPP, 15, 8, 0}, {LlamaCPP, 100, 3, 0}, {Sliding, 1, 8, 4}, {Sliding, 100, 8, 9}, {Sliding, 100, 8, 0},
		{"none", 100, 8, 4}} {
		_, err := windows(c.def, c.n, c.nCtx, c.stride)
		assert.Error(t, err, "%v", c)
	}
}

func TestSlidingWindowsScoreEveryTokenOnce(t *testing.T) {
	for _, c := range [][3]int{{100, 8, 4}, {100, 8, 3}, {7, 8, 4}, {8, 8, 1}, {101, 16, 15}} {
		n, nCtx, stride := c[0], c[1], c[2]
		all, err := windows(Sliding, n, nCtx, stride)
		require.NoError(t, err)
		next := 1
		for _, w := range all {
			assert.Equal(t, next, w.first, "%v", c)
			assert.LessOrEqual(t, w.end-w.begin, nCtx)
			if w.begin > 0 {
				assert.GreaterOrEqual(t, w.first-w.begin, nCtx-stride, "context of the first scored token")
			}
			next = w.end
		}
		assert.Equal(t, n, next)
	}
}

func TestPerplexityMatchesTheReference(t *testing.T) {
	golden, err := testmodel.Goldens()
	require.NoError(t, err)
	s, _ := session(t, "F16", 64)
	want := golden.Llama.Perplexity[0]
	r, err := Perplexity(context.Background(), s, heldOut(s), PerplexityOptions{NCtx: want.NCtx})
	require.NoError(t, err)
	assert.InEpsilon(t, want.Value, r.Perplexity, 1e-3)
	assert.Equal(t, want.Chunks, r.Chunks)
	assert.Equal(t, want.Chunks*scoredRows(want.NCtx), r.Tokens)
}

func TestSlidingPerplexity(t *testing.T) {
	s, _ := session(t, "F16", 64)
	tokens := heldOut(s)[:300]
	run := func(nCtx, stride int) PerplexityResult {
		r, err := Perplexity(context.Background(), s, tokens, PerplexityOptions{Definition: Sliding, NCtx: nCtx, Stride: stride,
			Words: 100})
		require.NoError(t, err)
		assert.InEpsilon(t, math.Exp(r.NLL*float64(r.Tokens)/100), r.WordPerplexity, 1e-9)
		return r
	}
	whole := run(512, 256)
	assert.Equal(t, 1, whole.Chunks)
	assert.Equal(t, 299, whole.Tokens)
	overlapping, disjoint := run(32, 4), run(32, 32)
	assert.Equal(t, 299, overlapping.Tokens)
	assert.Equal(t, 300-10, disjoint.Tokens)
	// More context makes predictions better.
	assert.Less(t, whole.NLL, overlapping.NLL)
	assert.Less(t, overlapping.NLL, disjoint.NLL)
}

func TestPerplexityResumes(t *testing.T) {
	s, b := session(t, "F16", 64)
	tokens := heldOut(s)
	fresh, err := Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 64, Chunks: 6})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "state")
	resume := func(chunks int) PerplexityResult {
		state, err := OpenState(path, "settings")
		require.NoError(t, err)
		defer state.Close()
		r, err := Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 64, Chunks: chunks, State: state})
		require.NoError(t, err)
		return r
	}
	resume(4)
	b.calls = 0
	assert.Equal(t, fresh, resume(6))
	assert.Equal(t, 2, b.calls, "the last two chunks")
}

func TestPerplexityErrors(t *testing.T) {
	s, b := session(t, "F16", 64)
	tokens := heldOut(s)
	_, err := Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 513})
	assert.ErrorContains(t, err, "513")
	_, err = Perplexity(context.Background(), s, tokens[:60], PerplexityOptions{NCtx: 32})
	assert.ErrorContains(t, err, "60 tokens")
	_, err = Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 32, Stride: 16, Definition: Sliding,
		Save: &LogitsWriter{}})
	assert.ErrorContains(t, err, "definition")
	b.poison = nan
	_, err = Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 32})
	assert.ErrorContains(t, err, "not finite")
	assert.True(t, strings.HasPrefix(err.Error(), "chunk 1 of "), err)
}
