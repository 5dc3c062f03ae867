package compare

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestServersAreMeasured(t *testing.T) {
	w := newWorkbench(t)
	model, report := filepath.Join(w.dir, "tiny.ellm"), filepath.Join(w.dir, "serve.json")
	out, err := exec.Command(w.ellm, "compress", w.model, "-o", model, "--lossless").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("python3", "serve.py", "--ours", w.ellm, model, "--clients", "1", "3", "--tokens", "8", "--words", "4",
		"--rounds", "2", "--json", report).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "| ellm-gpu | 3 |")
	var r struct {
		FirstToken float64 `json:"first_token_after_process_start_s"`
		Results    []struct {
			Clients, Rounds int
			FirstToken      float64 `json:"first_token_s"`
			Rate            float64 `json:"tokens_per_s"`
		}
	}
	b, err := os.ReadFile(report)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	require.Len(t, r.Results, 2)
	require.Greater(t, r.FirstToken, 0.0)
	for i, clients := range []int{1, 3} {
		require.Equal(t, clients, r.Results[i].Clients)
		require.Equal(t, 2, r.Results[i].Rounds)
		require.Greater(t, r.Results[i].FirstToken, 0.0)
		require.Greater(t, r.Results[i].Rate, 0.0)
	}
}
