package eval

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.jsonl")
	put := func(settings string, unit, result int) {
		s, err := OpenState(path, map[string]string{"model": settings})
		require.NoError(t, err)
		require.NoError(t, s.put(unit, result))
		require.NoError(t, s.Close())
	}
	get := func(settings string) map[int]int {
		s, err := OpenState(path, map[string]string{"model": settings})
		require.NoError(t, err)
		defer s.Close()
		found := map[int]int{}
		for unit := range 10 {
			var v int
			ok, err := s.get(unit, &v)
			require.NoError(t, err)
			if ok {
				found[unit] = v
			}
		}
		assert.Len(t, found, s.Len())
		return found
	}
	put("a", 0, 10)
	put("b", 0, 20)
	put("a", 1, 11)
	assert.Equal(t, map[int]int{0: 10, 1: 11}, get("a"))
	assert.Equal(t, map[int]int{0: 20}, get("b"))
	assert.Empty(t, get("c"))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(string(whole), `"settings":{"model":`), "%s", whole)

	// A last line that is not complete counts as not written, and is replaced by the next one.
	for cut := 1; cut < 20; cut++ {
		require.NoError(t, os.WriteFile(path, whole[:len(whole)-cut], 0o644))
		assert.Equal(t, map[int]int{0: 10}, get("a"), cut)
		put("a", 1, 12)
		assert.Equal(t, map[int]int{0: 10, 1: 12}, get("a"), cut)
	}
}

func TestStateRefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"text", "text\n", `{"a":1}`, "{\"a\":1}\n", "{\"run\":\"x\"}\nnonsense\n", "\n",
		"{\"run\":7}\n"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		_, err := OpenState(path, 1)
		assert.ErrorContains(t, err, "state file", "%q", content)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, content, string(after), "a file that is something else must not change")
	}
	_, err := OpenState(filepath.Join(path, "x"), 1)
	assert.Error(t, err)
}

func TestStateOfAnotherForm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s, err := OpenState(path, 1)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.put(0, "text"))
	var n int
	_, err = s.get(0, &n)
	assert.ErrorContains(t, err, "unit 0")
}

func TestNilStateRemembersNothing(t *testing.T) {
	var s *State
	assert.NoError(t, s.put(0, 1))
	ok, err := s.get(0, nil)
	assert.False(t, ok)
	assert.NoError(t, err)
	assert.Zero(t, s.Len())
	assert.NoError(t, s.Close())
}
