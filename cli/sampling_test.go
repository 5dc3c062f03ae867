package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sampled runs the test model and returns what it printed.
func sampled(t *testing.T, model string, options ...string) resultJSON {
	o := mustRun(t, append([]string{"run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "--json",
		"--seed", "5"}, options...)...)
	return decodeJSON[resultJSON](t, o)
}

func TestEverySamplingOptionActs(t *testing.T) {
	model := compressed(t, "--lossless")
	run := func(options ...string) []int32 {
		return sampled(t, model, append(options, "-n", "24", "--ignore-eos")...).Tokens
	}
	plain := run()
	for _, off := range [][]string{
		{"--typical", "1"}, {"--xtc-probability", "0", "--xtc-threshold", "0.1"}, {"--mirostat", "0", "--mirostat-ent", "2"},
		{"--presence-penalty", "0"}, {"--frequency-penalty", "0"}, {"--dry-multiplier", "0", "--dry-base", "3"},
		{"--dry-multiplier", "5", "--dry-penalty-last-n", "0"},
	} {
		assert.Equal(t, plain, run(off...), "%v", off)
	}
	for _, on := range [][]string{
		{"--typical", "0.1", "--temp", "2"}, {"--xtc-probability", "1", "--xtc-threshold", "0.02"},
		{"--mirostat", "1", "--mirostat-ent", "1"},
		{"--mirostat", "2", "--mirostat-ent", "9", "--mirostat-lr", "0.3"}, {"--presence-penalty", "2"}, {"--frequency-penalty", "1.5"},
		{"--dry-multiplier", "50", "--dry-allowed-length", "1", "--dry-sequence-breaker", "none", "--temp", "0"},
		{"--logit-bias", strconv.Itoa(int(plain[0])) + "-inf"},
	} {
		assert.NotEqual(t, plain, run(on...), "%v", on)
		assert.Equal(t, run(on...), run(on...), "%v", on)
	}
	for _, token := range run("--logit-bias", "7+1000") {
		assert.EqualValues(t, 7, token)
	}
}

func TestAnswersFollowGrammarsAndSchemas(t *testing.T) {
	model := compressed(t, "--lossless")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	g := `root ::= "ab" [0-9]{3}`
	schema := `{"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":9}},"required":["a"]}`
	for _, how := range []string{g, write("g.gbnf", g)} {
		r := sampled(t, model, "--grammar", how)
		assert.Regexp(t, "^ab[0-9]{3}$", r.Text)
		assert.EqualValues(t, "eos", r.StopReason)
	}
	for _, how := range []string{schema, " " + schema, write("s.json", schema)} {
		var v struct{ A *int }
		require.NoError(t, json.Unmarshal([]byte(sampled(t, model, "--json-schema", how, "--temp", "1.5").Text), &v))
		require.NotNil(t, v.A)
	}
	for _, bad := range []struct {
		options []string
		want    string
	}{
		{[]string{"--grammar", "root ::= ("}, "--grammar"}, {[]string{"--grammar", "nowhere.gbnf"}, "nowhere.gbnf: no such file"},
		{[]string{"--grammar", write("bad.gbnf", "x ::= y")}, "bad.gbnf"}, {[]string{"--json-schema", `{"type":"no"}`}, "#/type"},
		{[]string{"--json-schema", `{}`, "--grammar", g}, "exclude"}, {[]string{"--json-schema", `{}`, "--ignore-eos"}, "--ignore-eos"},
		{[]string{"--logit-bias", "x"}, "--logit-bias x"}, {[]string{"--logit-bias", "5"}, "--logit-bias 5"},
		{[]string{"--logit-bias", "5+nan"}, "--logit-bias"}, {[]string{"--logit-bias", "2147483647+1"}, "--logit-bias 2147483647"},
	} {
		o := ellm(append([]string{"run", model, "--device", "cpu", "-p", "x", "-n", "4"}, bad.options...)...)
		assert.NotZero(t, o.code, "%v", bad.options)
		assert.Contains(t, o.err, bad.want)
	}
}

func TestCommasBelongToTexts(t *testing.T) {
	model := compressed(t, "--lossless")
	text := sampled(t, model, "-n", "60", "--grammar", `root ::= "a,b, c"`).Text
	assert.Equal(t, "a,b, c", text)
	assert.Equal(t, "a,b", sampled(t, model, "-n", "60", "--grammar", `root ::= "a,b, c"`, "--stop", ", ").Text)
}
