package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// outcome is what one command line did.
type outcome struct {
	code     int
	out, err string
}

// ellm runs a command line in this process, with an empty standard input.
func ellm(args ...string) outcome { return ellmCtx(context.Background(), "", args...) }

func ellmCtx(ctx context.Context, stdin string, args ...string) outcome {
	var out, err bytes.Buffer
	code := Main(ctx, "test", append([]string{"ellm-gpu"}, args...), Streams{In: strings.NewReader(stdin), Out: &out, Err: &err})
	return outcome{code, out.String(), err.String()}
}

// mustRun is ellm for a command line that has to succeed.
func mustRun(t *testing.T, args ...string) outcome {
	t.Helper()
	o := ellm(args...)
	require.Equal(t, exitOK, o.code, "%v: %s", args, o.err)
	return o
}

// compressed returns the test model compressed with the given options.
func compressed(t *testing.T, options ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model.ellm")
	mustRun(t, append([]string{"compress", testmodel.Path(t), "-o", out}, options...)...)
	return out
}

// onlyFiles asserts which files a directory holds: nothing temporary may be left.
func onlyFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	found := []string{}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	assert.ElementsMatch(t, names, found)
}

func decodeJSON[T any](t *testing.T, o outcome) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(o.out))
	require.NoError(t, d.Decode(&v), o.out)
	assert.False(t, d.More(), "standard output holds more than one JSON value")
	return v
}

func TestEverySchemeRuns(t *testing.T) {
	for name, options := range map[string][]string{
		"default":  nil,
		"bpw 3":    {"--bpw", "3"},
		"u8":       {"--scheme", "entrollm-u8"},
		"u4":       {"--scheme", "entrollm-u4"},
		"bf16":     {"--scheme", "bf16"},
		"lossless": {"--lossless"},
	} {
		t.Run(name, func(t *testing.T) {
			model := compressed(t, options...)
			onlyFiles(t, filepath.Dir(model), "model.ellm")
			mustRun(t, "verify", model)
			assert.Contains(t, mustRun(t, "inspect", model).out, "blk.0.attn_q.weight")
			o := mustRun(t, "run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "8", "--temp", "0",
				"--ignore-eos", "--json")
			assert.Len(t, decodeJSON[resultJSON](t, o).Tokens, 8)
		})
	}
}

func TestRunMatchesTheReference(t *testing.T) {
	golden, err := testmodel.Goldens()
	require.NoError(t, err)
	model := compressed(t, "--lossless")
	for _, plan := range []string{"resident", "fused"} {
		for _, want := range golden.Llama.Prompts {
			o := mustRun(t, "run", model, "--device", "cpu", "--plan", plan, "--raw", "-p", want.Text, "-n", "64", "--temp", "0",
				"--ignore-eos", "--json")
			r := decodeJSON[resultJSON](t, o)
			assert.Equal(t, want.Greedy, r.Tokens, "%s: %q", plan, want.Text)
			assert.Equal(t, want.Output, r.Text)
			assert.Equal(t, len(want.Tokens), r.PromptTokens)
			assert.EqualValues(t, plan, r.Plan)
			assert.EqualValues(t, "length", r.StopReason)
		}
	}
}

func TestRunAppliesTheChatTemplate(t *testing.T) {
	golden, err := testmodel.Goldens()
	require.NoError(t, err)
	model := compressed(t, "--lossless")
	for _, want := range golden.Llama.Chat {
		r := decodeJSON[resultJSON](t, mustRun(t, "run", model, "--device", "cpu", "-p", want.Message, "-n", "64", "--temp", "0",
			"--json"))
		assert.Equal(t, want.Output, r.Text)
		assert.Equal(t, len(want.Tokens), r.PromptTokens)
		assert.EqualValues(t, "eos", r.StopReason)
	}
}

func TestRunHumanOutput(t *testing.T) {
	model := compressed(t, "--lossless")
	o := mustRun(t, "run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "4", "--temp", "0")
	r := decodeJSON[resultJSON](t, mustRun(t, "run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "4",
		"--temp", "0", "--json"))
	assert.Equal(t, r.Text+"\n", o.out, "standard output carries the text alone")
	assert.Contains(t, o.err, "device: cpu")
	assert.Contains(t, o.err, "memory plan")
	assert.Contains(t, o.err, "decode: 4 tokens")
}

func TestRunReadsStandardInput(t *testing.T) {
	model := compressed(t, "--lossless")
	direct := mustRun(t, "run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "4", "--temp", "0")
	piped := ellmCtx(context.Background(), "// Reset resets the\n", "run", model, "--device", "cpu", "--raw", "-n", "4",
		"--temp", "0")
	assert.Equal(t, exitOK, piped.code)
	assert.Equal(t, direct.out, piped.out)
	assert.Equal(t, exitUsage, ellm("run", model, "--device", "cpu").code, "empty standard input is no prompt")
	o := ellm("run", t.TempDir(), "--device", "cpu")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "is a directory", "the model is what is wrong first")
}

func TestRunOptions(t *testing.T) {
	model := compressed(t, "--lossless")
	run := func(options ...string) resultJSON {
		return decodeJSON[resultJSON](t, mustRun(t,
			append([]string{"run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "12", "--json"}, options...)...))
	}
	greedy := run("--temp", "0")
	assert.Equal(t, run("--temp", "1", "--seed", "7").Tokens, run("--seed", "7", "--temp", "1").Tokens)
	assert.Equal(t, greedy.Tokens, run("--temp", "5", "--top-k", "1").Tokens)
	assert.EqualValues(t, 7, run("--seed", "7").Seed)
	assert.NotEqual(t, run("--temp", "2", "--seed", "1").Tokens, run("--temp", "2", "--seed", "2").Tokens)

	stop := strings.Fields(greedy.Text)[1]
	r := run("--temp", "0", "--stop", stop)
	assert.EqualValues(t, "stop", r.StopReason)
	assert.Equal(t, greedy.Text[:strings.Index(greedy.Text, stop)], r.Text)

	r = run("--temp", "0", "--ctx", "10")
	assert.EqualValues(t, "context", r.StopReason)
	assert.Equal(t, 10, r.NCtx)

	r = run("--temp", "0", "--logprobs", "3")
	require.Len(t, r.Steps, len(r.Tokens))
	assert.Equal(t, r.Tokens[0], r.Steps[0].Candidates[0].Token)
	assert.Len(t, r.Steps[0].Candidates, 3)
}

func TestRunCancelled(t *testing.T) {
	model := compressed(t, "--lossless")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o := ellmCtx(ctx, "", "run", model, "--device", "cpu", "-p", "hello")
	assert.Equal(t, exitInterrupted, o.code)
	assert.Contains(t, o.err, "interrupted")
}

func TestCompressCancelledLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o := ellmCtx(ctx, "", "compress", testmodel.Path(t), "-o", filepath.Join(dir, "x.ellm"))
	assert.Equal(t, exitInterrupted, o.code, o.err)
	onlyFiles(t, dir)
}

func TestCompressRefusals(t *testing.T) {
	dir := t.TempDir()
	in, out := testmodel.Path(t), filepath.Join(dir, "x.ellm")
	empty := filepath.Join(t.TempDir(), "empty.gguf")
	require.NoError(t, os.WriteFile(empty, nil, 0o644))
	junk := filepath.Join(t.TempDir(), "junk.bin")
	require.NoError(t, os.WriteFile(junk, []byte("no model at all"), 0o644))
	offsets := filepath.Join(t.TempDir(), "offsets.json")
	require.NoError(t, os.WriteFile(offsets, []byte(`{"attn_x": 1}`), 0o644))
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no input":            {[]string{"-o", out}, exitUsage, "input is missing"},
		"two inputs":          {[]string{in, in, "-o", out}, exitUsage, "found 2"},
		"no output":           {[]string{in}, exitUsage, "output is missing"},
		"input is output":     {[]string{in, "-o", in}, exitUsage, "same file"},
		"output is directory": {[]string{in, "-o", dir}, exitFailure, "is a directory"},
		"output's directory":  {[]string{in, "-o", filepath.Join(dir, "no", "x.ellm")}, exitFailure, "no directory"},
		"unknown extension":   {[]string{in, "-o", filepath.Join(dir, "x.bin")}, exitUsage, "*.ellm"},
		"size of nothing":     {[]string{in, "-o", out, "--size", "0"}, exitUsage, "expected a number of bytes"},
		"size of no unit":     {[]string{in, "-o", out, "--size", "3parsecs"}, exitUsage, "--size 3parsecs"},
		"unknown offset":      {[]string{in, "-o", out, "--offsets", offsets}, exitUsage, "attn_x"},
		"offsets missing":     {[]string{in, "-o", out, "--offsets", filepath.Join(dir, "none.json")}, exitFailure, "no such file"},
		"row exponent":        {[]string{in, "-o", out, "--row-exponent", "3"}, exitUsage, "row exponent"},
		"row exponent of all": {[]string{in, "-o", out, "--lossless", "--row-exponent", "0.5"}, exitUsage, "--row-exponent goes with"},
		"size of a page":      {[]string{in, "-o", out, "--size", "4K"}, exitUsage, "bits per weight asked for"},
		"size no number":      {[]string{in, "-o", out, "--size", "nan"}, exitUsage, "--size nan"},
		"damping of nothing":  {[]string{in, "-o", out, "--damping", "1"}, exitUsage, "neither"},
		"imatrix nowhere": {[]string{in, "-o", out, "--calibrate", in, "--save-imatrix", filepath.Join(dir, "no", "x.gguf")},
			exitFailure, "no directory"},
		"saved over input":  {[]string{in, "-o", out, "--calibrate", in, "--save-calibration", in}, exitUsage, "same file"},
		"two schemes":       {[]string{in, "-o", out, "--lossless", "--bpw", "4"}, exitUsage, "exclude each other"},
		"unknown scheme":    {[]string{in, "-o", out, "--scheme", "zip"}, exitUsage, "entrollm-u4"},
		"bits out of range": {[]string{in, "-o", out, "--bpw", "40"}, exitUsage, "--bpw 40"},
		"bits no number":    {[]string{in, "-o", out, "--bpw", "four"}, exitUsage, "four"},
		"unknown option":    {[]string{in, "-o", out, "--fast"}, exitUsage, "fast"},
		"missing file":      {[]string{filepath.Join(dir, "none.gguf"), "-o", out}, exitFailure, "no such file"},
		"empty file":        {[]string{empty, "-o", out}, exitFailure, "empty"},
		"no model":          {[]string{junk, "-o", out}, exitFailure, "expected"},
		"directory":         {[]string{filepath.Dir(in), "-o", out}, exitFailure, "directory"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ellm(append([]string{"compress"}, c.args...)...)
			assert.Equal(t, c.code, o.code, o.err)
			assert.Contains(t, o.err, c.says)
			assert.True(t, strings.HasPrefix(o.err, "ellm-gpu: "), o.err)
			assert.Equal(t, 1, strings.Count(o.err, "\n"), "one line: %s", o.err)
			onlyFiles(t, dir)
		})
	}
}

func TestCompressFailureKeepsTheOldFile(t *testing.T) {
	model := compressed(t, "--lossless")
	before, err := os.ReadFile(model)
	require.NoError(t, err)
	gguf, err := os.ReadFile(testmodel.Path(t))
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut.gguf")
	require.NoError(t, os.WriteFile(cut, gguf[:len(gguf)/2], 0o644))
	assert.Equal(t, exitFailure, ellm("compress", cut, "-o", model).code)
	after, err := os.ReadFile(model)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	onlyFiles(t, filepath.Dir(model), "model.ellm")

	mustRun(t, "compress", testmodel.Path(t), "-o", model, "--bpw", "4")
	replaced, err := os.ReadFile(model)
	require.NoError(t, err)
	assert.NotEqual(t, before, replaced)
}

func TestCommandLineMistakes(t *testing.T) {
	model := compressed(t, "--lossless")
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown command": {[]string{"squeeze"}, "squeeze"},
		"unknown option":  {[]string{"run", model, "--fast"}, "fast"},
		"no model":        {[]string{"run"}, "model is missing"},
		"bad plan":        {[]string{"run", model, "-p", "x", "--plan", "none"}, "--plan none"},
		"bad device":      {[]string{"run", model, "-p", "x", "--device", "tpu"}, "--device tpu"},
		"bad context":     {[]string{"run", model, "-p", "x", "--ctx", "-5"}, "--ctx -5"},
		"two prompts":     {[]string{"run", model, "-p", "x", "-f", "y"}, "exclude"},
		"system and raw":  {[]string{"run", model, "-p", "x", "--raw", "--system", "y"}, "--raw"},
		"measure missing": {[]string{"eval"}, "ppl"},
		"unknown measure": {[]string{"eval", "bleu"}, "bleu"},
		"text missing":    {[]string{"eval", "ppl", model}, "-f"},
		"memory":          {[]string{"run", model, "-p", "x", "--memory", "lots"}, "--memory lots"},
		"nothing to do":   {[]string{"bench", model, "-p", "0", "-n", "0"}, "bench"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ellm(c.args...)
			assert.Equal(t, exitUsage, o.code, o.err)
			assert.Contains(t, o.err, c.says)
			assert.Empty(t, o.out)
		})
	}
	assert.Equal(t, exitFailure, ellm("run", model, "-p", "x", "--device", "99").code, "a GPU that is not there")
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"run", "--help"}, {"eval", "ppl", "--help"}} {
		o := ellm(args...)
		assert.Equal(t, exitOK, o.code, o.err)
		assert.Contains(t, o.out, "USAGE")
	}
	assert.Contains(t, ellm("--version").out, "test")
}

func TestDevicesAndPlan(t *testing.T) {
	devices := decodeJSON[[]deviceJSON](t, mustRun(t, "devices", "--json"))
	byName := map[string]deviceJSON{}
	auto := 0
	for _, d := range devices {
		byName[d.Device] = d
		if d.Auto {
			auto++
		}
		assert.True(t, d.Available || d.Reason != "", "%s: a reason is expected", d.Device)
	}
	assert.Equal(t, 1, auto)
	assert.True(t, byName["cpu"].Available)

	model := compressed(t, "--bpw", "4")
	plans := decodeJSON[[]planJSON](t, mustRun(t, "plan", model, "--device", "cpu", "--json"))
	require.Len(t, plans, 2)
	for _, p := range plans {
		assert.True(t, p.Fits)
		assert.Positive(t, p.Weights)
		assert.Positive(t, p.KV)
		assert.Equal(t, p.Total, p.Weights+p.KV+p.Scratch)
	}
	assert.Contains(t, mustRun(t, "plan", model, "--device", "cpu").out, "resident")
	assert.Contains(t, ellm("plan", model, "--device", "toaster").err, "toaster")
}

func TestBench(t *testing.T) {
	model := compressed(t, "--bpw", "4")
	r := decodeJSON[[]benchResult](t, mustRun(t, "bench", model, "--device", "cpu", "-p", "16", "-n", "4", "-r", "2", "--json"))
	require.Len(t, r, 2)
	assert.Equal(t, 16, r[0].Prompt)
	assert.Equal(t, 4, r[1].Gen)
	for _, x := range r {
		assert.Len(t, x.SamplesTS, 2)
		assert.Positive(t, x.AvgTS)
	}
	assert.Contains(t, mustRun(t, "bench", model, "--device", "cpu", "-p", "0", "-n", "2", "-r", "1").out, "tg2")
}

func TestPerplexityMatchesTheReference(t *testing.T) {
	golden, err := testmodel.Goldens()
	require.NoError(t, err)
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte(testmodel.HeldOut()), 0o644))
	model := compressed(t, "--lossless")
	want := golden.Llama.Perplexity[0]
	r := decodeJSON[perplexityJSON](t, mustRun(t, "eval", "ppl", model, "-f", text, "--ctx", "256", "--device", "cpu", "--json"))
	require.Equal(t, want.NCtx, r.NCtx)
	assert.Equal(t, want.Chunks, r.Chunks)
	assert.InEpsilon(t, want.Value, r.Perplexity, 1e-3)
	assert.Equal(t, want.Chunks*(256/2-1), r.Tokens)
	assert.Positive(t, r.StdErr)
	assert.Contains(t, mustRun(t, "eval", "ppl", model, "-f", text, "--ctx", "256", "--chunks", "1", "--device", "cpu").out,
		"1 chunks")
	assert.Contains(t, ellm("eval", "ppl", model, "-f", text, "--ctx", "16384", "--device", "cpu").err, "tokens")
}

func TestTooLittleMemoryIsRefusedBeforeLoading(t *testing.T) {
	model := compressed(t, "--bpw", "4")
	o := ellm("run", model, "--device", "cpu", "-p", "x", "--memory", "100K")
	assert.Equal(t, exitFailure, o.code)
	assert.Contains(t, o.err, "needs")
	assert.Contains(t, o.err, "--ctx", "the message says what to do")
	assert.Empty(t, o.out)
}

func TestFullDiskUnderTheResultIsAFailure(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	var stderr bytes.Buffer
	code := Main(context.Background(), "test", []string{"ellm-gpu", "devices"}, Streams{In: strings.NewReader(""), Out: full,
		Err: &stderr})
	assert.Equal(t, exitFailure, code)
	assert.Contains(t, stderr.String(), "no space left")
}
