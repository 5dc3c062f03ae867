// Package paper holds the script behind "make paper" (docs/paper.md) and its small task files.
package paper

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

// The task files suffice for the paper's numbers of solved examples and some tasks, and no answer's place gives it away.
func TestTaskFilesAreRead(t *testing.T) {
	f, err := os.Open("hellaswag.jsonl")
	require.NoError(t, err)
	defer f.Close()
	choices, err := eval.ReadHellaSwag(f, f.Name())
	require.NoError(t, err)
	require.Greater(t, len(choices), 5+8)
	places := map[int]int{}
	for _, c := range choices {
		require.Len(t, c.Endings, 4)
		places[c.Gold]++
	}
	for gold := range 4 {
		require.GreaterOrEqual(t, places[gold], 3)
	}
	g, err := os.Open("gsm8k.jsonl")
	require.NoError(t, err)
	defer g.Close()
	problems, err := eval.ReadGSM8K(g, g.Name())
	require.NoError(t, err)
	require.Greater(t, len(problems), 8+2)
}
