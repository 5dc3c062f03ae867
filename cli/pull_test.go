package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/hub/hubtest"
	"github.com/ellm-gpu/ellm-gpu/internal/store"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// hubWithTestModel starts a hub that has the test model, and points the program to it and to an empty store.
func hubWithTestModel(t *testing.T) (*hubtest.Server, string) {
	gguf, err := os.ReadFile(testmodel.Path(t))
	require.NoError(t, err)
	s := (&hubtest.Server{Repo: "org/tiny-GGUF", Commit: "c0ffee", Files: map[string][]byte{
		"tiny.F16.gguf": gguf, "tiny.Q4_K_M.gguf": gguf, "README.md": []byte("x"),
	}}).Start(t)
	home := filepath.Join(t.TempDir(), "home")
	t.Setenv("ELLM_GPU_HOME", home)
	t.Setenv("HF_ENDPOINT", s.URL())
	t.Setenv("HF_TOKEN", "")
	return s, home
}

func TestPulledModelRunsByName(t *testing.T) {
	s, home := hubWithTestModel(t)
	o := mustRun(t, "pull", "org/tiny-GGUF", "--device", "cpu")
	assert.Contains(t, o.out, "org/tiny-GGUF:Q4_K_M: ")
	assert.Contains(t, o.err, "bits per weight fit")
	assert.NoDirExists(t, filepath.Join(home, "downloads", "org", "tiny-GGUF"), "downloads are removed")
	for _, name := range []string{"org/tiny-GGUF", "tiny-gguf:q4_k_m", "hf.co/org/tiny-GGUF:Q4_K_M"} {
		o := mustRun(t, "run", name, "--device", "cpu", "--raw", "-p", "Once", "-n", "2", "--temp", "0")
		assert.NotEmpty(t, o.out, name)
	}
	mustRun(t, "verify", "tiny-GGUF")
	asked := s.Requests()
	o = ellm("run", "org/tiny-GGUF:F16", "--offline", "-p", "x")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "--offline forbids asking the hub")
	assert.Equal(t, asked, s.Requests())
	mustRun(t, "run", "org/tiny-GGUF:F16", "--device", "cpu", "--raw", "-p", "Once", "-n", "2")
	assert.Greater(t, s.Requests(), asked, "run pulls what is missing")
}

// splitGGUF writes the file at path again in n parts, as llama-gguf-split does, and returns them by name.
func splitGGUF(t *testing.T, path, name string, n int) map[string][]byte {
	f, err := gguf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	parts, dir := map[string][]byte{}, t.TempDir()
	for i := range n {
		m := &gguf.Metadata{}
		if i == 0 {
			m = f.Filter(func(string) bool { return true })
		}
		m.Set("split.no", uint16(i))
		m.Set("split.count", uint16(n))
		m.Set("split.tensors.count", int32(len(f.Tensors)))
		tensors := f.Tensors[i*len(f.Tensors)/n : (i+1)*len(f.Tensors)/n]
		base := fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, n)
		w, err := gguf.Create(filepath.Join(dir, base), m, tensors)
		require.NoError(t, err)
		for k := range tensors {
			b, err := f.Rows(&tensors[k], 0, tensors[k].Rows())
			require.NoError(t, err)
			_, err = w.Write(b)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		parts["Q4_K_M/"+base], err = os.ReadFile(filepath.Join(dir, base))
		require.NoError(t, err)
	}
	return parts
}

func TestSplitModelIsPulledWhole(t *testing.T) {
	s, _ := hubWithTestModel(t)
	parts := splitGGUF(t, testmodel.Path(t), "tiny-Q4_K_M", 3)
	s.Files = maps.Clone(parts)
	o := mustRun(t, "pull", "org/tiny-GGUF", "--as-is", "--device", "cpu")
	assert.Contains(t, o.err, "3 files")
	run := func(model string) string {
		return mustRun(t, "run", model, "--device", "cpu", "--raw", "-p", "// Reset", "-n", "16", "--temp", "0").out
	}
	assert.Equal(t, run(compressed(t, "--lossless")), run("org/tiny-GGUF"))
	mustRun(t, "rm", "org/tiny-GGUF")
	delete(s.Files, "Q4_K_M/tiny-Q4_K_M-00002-of-00003.gguf")
	failed := ellm("pull", "org/tiny-GGUF")
	assert.Equal(t, exitFailure, failed.code)
	assert.Contains(t, failed.err, "part 2 of 3")
}

func TestStoreCommands(t *testing.T) {
	hubWithTestModel(t)
	mustRun(t, "pull", "org/tiny-GGUF:F16", "--bpw", "5", "--name", "tiny")
	var models []store.Model
	require.NoError(t, json.Unmarshal([]byte(mustRun(t, "list", "--json").out), &models))
	require.Len(t, models, 1)
	assert.Equal(t, "tiny:F16", models[0].Name)
	assert.Equal(t, "--bpw 5", models[0].Options)
	assert.Contains(t, mustRun(t, "show", "tiny").out, "org/tiny-GGUF:F16")
	mustRun(t, "cp", "tiny", "second:v2")
	assert.Contains(t, mustRun(t, "list").out, "second:v2")
	mustRun(t, "rm", "tiny")
	o := ellm("show", "tiny")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "no such model in the store")
	mustRun(t, "inspect", "second")
	for _, args := range [][]string{{"pull", "nonsense"}, {"pull"}, {"cp", "second"}, {"pull", "a/b", "--bpw", "5", "--as-is"},
		{"pull", "a/b", "--bpw", "99"}, {"pull", "a/b", "--ctx", "-1"}, {"list", "x"}} {
		assert.Equal(t, exitUsage, ellm(args...).code, "%v", args)
	}
}

func TestFailedPullLeavesNoModel(t *testing.T) {
	s, home := hubWithTestModel(t)
	s.Fault = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	o := ellm("pull", "org/tiny-GGUF")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "accept their terms")
	assert.NoDirExists(t, filepath.Join(home, "models"))
	s.Fault = nil
	o = ellm("pull", "org/tiny-GGUF", "--memory", "1M", "--device", "cpu")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "does not fit")
	assert.Contains(t, o.err, "downloaded files stay in")
	o = ellm("pull", "org/other")
	assert.Contains(t, o.err, "404")
	o = ellm("inspect", "org/other")
	assert.Contains(t, o.err, `"ellm-gpu pull org/other" obtains it`)
}
