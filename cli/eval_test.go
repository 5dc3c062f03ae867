package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/eval"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// heldOutFile stores the test model's evaluation text.
func heldOutFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte(testmodel.HeldOut()), 0o644))
	return path
}

// llamaCPPLogits holds the test model's predictions saved by llama-perplexity; see internal/eval.
const llamaCPPLogits = "../internal/eval/testdata/tiny-llama.logits"

func TestKLD(t *testing.T) {
	ref, model, text := compressed(t, "--lossless"), compressed(t, "--bpw", "4"), heldOutFile(t)
	dir := t.TempDir()
	saved, state := filepath.Join(dir, "saved"), filepath.Join(dir, "state")
	kld := func(args ...string) kldJSON {
		return decodeJSON[kldJSON](t, mustRun(t, append([]string{"eval", "kld", model, "--device", "cpu", "--json"}, args...)...))
	}
	direct := kld("--reference", ref, "-f", text, "--ctx", "32", "--chunks", "2", "--save-logits", saved)
	assert.Equal(t, 30, direct.Tokens)
	assert.Equal(t, 32, direct.NCtx)
	assert.Positive(t, direct.KLD.Value)
	assert.Less(t, direct.SameTop.Value, 1.0)

	fromOurs, fromTheirs := kld("--logits", saved), kld("--logits", llamaCPPLogits, "-f", text)
	assert.InEpsilon(t, direct.KLD.Value, fromOurs.KLD.Value, 0.01)
	assert.InEpsilon(t, direct.KLD.Value, fromTheirs.KLD.Value, 0.01)
	assert.Equal(t, direct.Perplexity, fromTheirs.Perplexity)

	// The same file comes from eval ppl.
	alone := filepath.Join(dir, "alone")
	ppl := decodeJSON[perplexityJSON](t, mustRun(t, "eval", "ppl", ref, "-f", text, "--ctx", "32", "--chunks", "2", "--device",
		"cpu", "--save-logits", alone, "--json"))
	assert.InEpsilon(t, direct.ReferencePerplexity.Value, ppl.Perplexity, 1e-6)
	a, err := os.ReadFile(saved)
	require.NoError(t, err)
	b, err := os.ReadFile(alone)
	require.NoError(t, err)
	assert.Equal(t, a, b)

	first := kld("--logits", saved, "--chunks", "1", "--state", state)
	assert.Equal(t, 1, first.Chunks)
	again := ellm("eval", "kld", model, "--device", "cpu", "--logits", saved, "--state", state)
	assert.Contains(t, again.err, "1 parts are finished already")
	for _, says := range []string{"KLD mean", "KLD 99.9 %", "same top token", "Δp rms", "2 chunks of 32 tokens, 30 predictions"} {
		assert.Contains(t, again.out, says)
	}
	onlyFiles(t, dir, "saved", "alone", "state")
}

func TestKLDMistakes(t *testing.T) {
	model, text := compressed(t, "--lossless"), heldOutFile(t)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		code int
		says string
		args []string
	}{
		"no reference":   {exitUsage, "--reference", []string{"-f", text}},
		"two references": {exitUsage, "--reference", []string{"-f", text, "--reference", model, "--logits", llamaCPPLogits}},
		"no text":        {exitUsage, "-f FILE", []string{"--reference", model}},
		"chunks":         {exitUsage, "--chunks -1", []string{"--logits", llamaCPPLogits, "--chunks", "-1"}},
		"nothing saved":  {exitUsage, "--save-logits", []string{"--logits", llamaCPPLogits, "--save-logits", filepath.Join(dir, "x")}},
		"context":        {exitUsage, "was made with 32", []string{"--logits", llamaCPPLogits, "--ctx", "64"}},
		"not logits":     {exitFailure, "no file of saved logits", []string{"--logits", text}},
		"missing":        {exitFailure, "no such file", []string{"--logits", filepath.Join(dir, "none")}},
		"not a state":    {exitFailure, "state file", []string{"--logits", llamaCPPLogits, "--state", text}},
		"another text":   {exitFailure, "does not give the tokens", []string{"--logits", llamaCPPLogits, "-f", "eval_test.go"}},
		"short text": {exitFailure, "tokens", []string{"--reference", model, "-f", text, "--ctx", "16384", "--save-logits",
			filepath.Join(dir, "x")}},
	} {
		t.Run(name, func(t *testing.T) {
			o := ellm(append([]string{"eval", "kld", model, "--device", "cpu"}, c.args...)...)
			assert.Equal(t, c.code, o.code, o.err)
			assert.Contains(t, o.err, c.says)
			assert.Empty(t, o.out)
		})
	}
	onlyFiles(t, dir)
	after, err := os.ReadFile(text)
	require.NoError(t, err)
	assert.Equal(t, testmodel.HeldOut(), string(after))
}

func TestSlidingPerplexity(t *testing.T) {
	model, text := compressed(t, "--lossless"), heldOutFile(t)
	state := filepath.Join(t.TempDir(), "state")
	args := []string{"eval", "ppl", model, "-f", text, "--ctx", "256", "--definition", "sliding", "--stride", "256", "--device",
		"cpu", "--json", "--state", state}
	r := decodeJSON[perplexityJSON](t, mustRun(t, args...))
	assert.Equal(t, eval.Sliding, r.Definition)
	assert.Equal(t, 256, r.Stride)
	assert.Greater(t, r.WordPerplexity, r.Perplexity)
	again := decodeJSON[perplexityJSON](t, mustRun(t, args...))
	assert.Equal(t, r.PerplexityResult, again.PerplexityResult)
	for name, extra := range map[string][]string{
		"--definition none": {"--definition", "none"},
		"--stride":          {"--stride", "16"},
		"--stride 600":      {"--definition", "sliding", "--stride", "600"},
		"--save-logits":     {"--definition", "sliding", "--save-logits", "x"},
	} {
		o := ellm(append([]string{"eval", "ppl", model, "-f", text, "--device", "cpu"}, extra...)...)
		assert.Equal(t, exitUsage, o.code)
		assert.Contains(t, o.err, name)
	}
}

// taskFiles stores four tasks for each kind.
func taskFiles(t *testing.T) (hellaSwag, gsm8k string) {
	t.Helper()
	dir := t.TempDir()
	var h, g strings.Builder
	for i := range 4 {
		h.WriteString(fmt.Sprintf(
			`{"ctx": "// Reset resets the %d", "endings": ["buffer.", "x", "to be", "writer w"], "label": "%d"}`, i, i) + "\n")
		g.WriteString(fmt.Sprintf(
			`{"question": "What is %d + 1?", "answer": "It is <<%d+1=%d>>%d.\n#### %d"}`, i, i, i+1, i+1, i+1) + "\n")
	}
	hellaSwag, gsm8k = filepath.Join(dir, "h.jsonl"), filepath.Join(dir, "g.jsonl")
	require.NoError(t, os.WriteFile(hellaSwag, []byte(h.String()), 0o644))
	require.NoError(t, os.WriteFile(gsm8k, []byte(g.String()), 0o644))
	return hellaSwag, gsm8k
}

func TestTasks(t *testing.T) {
	model := compressed(t, "--lossless")
	hellaSwag, gsm8k := taskFiles(t)
	state := filepath.Join(t.TempDir(), "state")
	run := func(args ...string) outcome {
		return mustRun(t, append([]string{"eval", args[0], model, "--device", "cpu", "--state", state}, args[1:]...)...)
	}
	h := decodeJSON[taskJSON[eval.HellaSwagResult]](t, run("hellaswag", "-f", hellaSwag, "--shots", "1", "--json")).Result
	assert.Equal(t, 3, h.Tasks)
	assert.Equal(t, 1, h.Shots)
	assert.Contains(t, run("hellaswag", "-f", hellaSwag, "--shots", "4", "--train", hellaSwag, "--tasks", "2").out,
		"2 tasks, 4 shots")
	g := decodeJSON[taskJSON[eval.GSM8KResult]](t, run("gsm8k", "-f", gsm8k, "--shots", "2", "-n", "8", "--json")).Result
	assert.Equal(t, 2, g.Tasks)
	assert.Contains(t, run("gsm8k", "-f", gsm8k, "--shots", "2", "-n", "8").out, "2 tasks, 2 shots")

	lines, err := os.ReadFile(state)
	require.NoError(t, err)
	units := 0
	for line := range strings.Lines(string(lines)) {
		require.True(t, json.Valid([]byte(line)), line)
		units += strings.Count(line, `"unit":`)
	}
	assert.Equal(t, 3+2+2, units, "what is known is not computed again")

	for name, c := range map[string]struct {
		code int
		says string
		args []string
	}{
		"no file":         {exitUsage, "-f TASKS.jsonl", []string{"hellaswag"}},
		"shots":           {exitUsage, "--shots -1", []string{"gsm8k", "-f", gsm8k, "--shots", "-1"}},
		"tasks":           {exitUsage, "--tasks -1", []string{"gsm8k", "-f", gsm8k, "--tasks", "-1"}},
		"max-tokens":      {exitUsage, "--max-tokens 0", []string{"gsm8k", "-f", gsm8k, "--max-tokens", "0"}},
		"none left":       {exitFailure, "none is left", []string{"hellaswag", "-f", hellaSwag, "--shots", "4"}},
		"too few to show": {exitFailure, "4 tasks, but --shots is 8", []string{"gsm8k", "-f", gsm8k, "--train", gsm8k}},
		"wrong kind":      {exitFailure, "line 1", []string{"gsm8k", "-f", hellaSwag}},
		"small context":   {exitFailure, "--shots", []string{"hellaswag", "-f", hellaSwag, "--shots", "3", "--ctx", "16"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := ellm(append([]string{"eval", c.args[0], model, "--device", "cpu"}, c.args[1:]...)...)
			assert.Equal(t, c.code, o.code, o.err)
			assert.Contains(t, o.err, c.says)
		})
	}
}

func TestInfiniteResultsAreFailures(t *testing.T) {
	assert.NoError(t, finite("perplexity", 12.5))
	for _, v := range []float64{math.Inf(1), math.NaN()} {
		assert.ErrorContains(t, finite("perplexity", v), "no probability")
	}
	p := &program{Streams: Streams{Out: &bytes.Buffer{}}}
	assert.ErrorContains(t, p.printJSON(map[string]float64{"x": math.Inf(1)}), "JSON cannot hold")
}
