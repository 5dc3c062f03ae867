package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
)

// Speculation is on by default on the CPU, is reported, and changes nothing in the answer.
func TestRunSpeculates(t *testing.T) {
	model := compressed(t, "--bpw", "5")
	prompt := strings.Repeat("the cat sees the dog and the dog sees the cat ", 6)
	run := func(args ...string) resultJSON {
		base := []string{"run", model, "--raw", "-p", prompt, "-n", "80", "--ignore-eos", "--json", "--device", "cpu", "--seed", "3"}
		o := ellm(append(base, args...)...)
		require.Zero(t, o.code, o.err)
		var r resultJSON
		require.NoError(t, json.Unmarshal([]byte(o.out), &r))
		return r
	}
	off, auto := run("--speculate", "off", "--temp", "0"), run("--temp", "0")
	assert.Equal(t, off.Tokens, auto.Tokens)
	assert.Zero(t, off.Speculation.Proposed)
	assert.Equal(t, 80, off.Speculation.Passes)
	assert.Positive(t, auto.Speculation.Proposed)
	assert.Equal(t, 80, auto.Speculation.Passes+auto.Speculation.Accepted)
	draft := run("--draft", model, "--temp", "0")
	assert.Equal(t, off.Tokens, draft.Tokens)
	assert.Equal(t, 80, draft.Speculation.Passes+draft.Speculation.Accepted)
	assert.Equal(t, run("--speculate", "off").Tokens, run("--speculate", "ngram").Tokens, "temperature 0.8")

	for _, args := range [][]string{{"--speculate", "draft"}, {"--speculate", "magic"}, {"--speculate", "ngram", "--draft", model}} {
		o := ellm(append([]string{"run", model, "-p", "x"}, args...)...)
		assert.Equal(t, exitUsage, o.code, "%v: %s", args, o.err)
	}
	o := ellm("run", model, "-p", "x", "--draft", filepath.Join(t.TempDir(), "none.ellm"), "--device", "cpu")
	assert.NotZero(t, o.code)
}

func TestRunShiftsTheContext(t *testing.T) {
	model := compressed(t, "--bpw", "5")
	run := func(args ...string) resultJSON {
		base := []string{"run", model, "-p", "the cat", "-n", "150", "--ignore-eos", "--json", "--device", "cpu", "--temp", "0"}
		o := ellm(append(append(base, "--ctx", "90"), args...)...)
		require.Zero(t, o.code, o.err)
		var r resultJSON
		require.NoError(t, json.Unmarshal([]byte(o.out), &r))
		return r
	}
	full := run()
	assert.EqualValues(t, "context", full.StopReason)
	assert.Less(t, len(full.Tokens), 90)
	shifted := run("--context-shift")
	assert.EqualValues(t, "length", shifted.StopReason)
	assert.Len(t, shifted.Tokens, 150)
	assert.Positive(t, shifted.ContextShifts)
	assert.Equal(t, full.Tokens, shifted.Tokens[:len(full.Tokens)])
}

// Rows of sequences decoded together have n_parallel; the one-sequence rows stay as they are.
func TestBenchOfParallelSequences(t *testing.T) {
	model := compressed(t, "--bpw", "5")
	o := ellm("bench", model, "-p", "8", "-n", "6", "-r", "2", "-np", "1,3", "--json", "--device", "cpu")
	require.Zero(t, o.code, o.err)
	var rows []benchResult
	require.NoError(t, json.Unmarshal([]byte(o.out), &rows))
	require.Len(t, rows, 3)
	for i, want := range []struct{ prompt, gen, parallel int }{{8, 0, 1}, {0, 6, 1}, {0, 6, 3}} {
		r := rows[i]
		assert.Equal(t, want.prompt, r.Prompt)
		assert.Equal(t, want.gen, r.Gen)
		assert.Equal(t, want.parallel, r.Parallel)
		require.Len(t, r.SamplesNS, 2)
		tokens := float64((want.prompt + want.gen) * want.parallel)
		assert.InEpsilon(t, tokens/(float64(r.SamplesNS[0])/1e9), r.SamplesTS[0], 1e-9)
	}
	for _, args := range [][]string{{"-np", "0"}, {"-np", "2000"}, {"--speculate", "ngram"}, {"--speculate", "x", "-f", model}} {
		o := ellm(append([]string{"bench", model}, args...)...)
		assert.Equal(t, exitUsage, o.code, "%v: %s", args, o.err)
	}
}

func TestBenchOfSpeculation(t *testing.T) {
	model := compressed(t, "--bpw", "5")
	file := filepath.Join(t.TempDir(), "prompt")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("the cat sees the dog ", 8)), 0o644))
	o := ellm("bench", model, "--speculate", "ngram", "-f", file, "-n", "40", "-r", "1", "--json", "--device", "cpu")
	require.Zero(t, o.code, o.err)
	var rows []benchResult
	require.NoError(t, json.Unmarshal([]byte(o.out), &rows))
	require.Len(t, rows, 2)
	plain, with := rows[0], rows[1]
	assert.Equal(t, "", plain.Speculate)
	assert.Equal(t, "ngram", with.Speculate)
	assert.Equal(t, plain.Gen, with.Gen)
	assert.Equal(t, plain.Prompt, with.Prompt)
	require.NotNil(t, with.Speculation)
	assert.Zero(t, plain.Speculation.Proposed)
	assert.NotContains(t, o.err, "differ")
}

func TestWithoutOldestTurn(t *testing.T) {
	said := []chat.Message{{Role: "system"}, {Role: "user", Content: "1"}, {Role: "assistant"}, {Role: "user", Content: "2"}}
	short, ok := withoutOldest(said)
	require.True(t, ok)
	assert.Equal(t, []chat.Message{{Role: "system"}, {Role: "user", Content: "2"}}, short)
	_, ok = withoutOldest(short)
	assert.False(t, ok)
	short, ok = withoutOldest(said[1:])
	require.True(t, ok)
	assert.Equal(t, said[3:], short)
}
