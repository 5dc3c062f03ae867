package cli

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/urfave/cli/v2"
)

// commands calls f for every command without subcommands, with the words that name it.
func commands(all []*cli.Command, words []string, f func(c *cli.Command, words []string)) {
	for _, c := range all {
		w := append(words[:len(words):len(words)], c.Name)
		if len(c.Subcommands) == 0 {
			f(c, w)
		}
		commands(c.Subcommands, w, f)
	}
}

func TestEveryNumericOptionHasARange(t *testing.T) {
	found := 0
	commands((&program{}).app().Commands, nil, func(c *cli.Command, words []string) {
		for _, f := range c.Flags {
			name := f.Names()[0]
			assert.True(t, checkRange(f), "%v: --%s is missing in cli/ranges.go", words, name)
			var bad []string
			switch f.(type) {
			case *cli.Float64Flag:
				bad = []string{"NaN", "inf", "-inf", "1e9", number(ranges[name].least - 1)}
			case *cli.IntFlag, *cli.Int64Flag:
				bad = []string{"-9223372036854775808"}
			default:
				continue
			}
			found++
			for _, v := range bad {
				o := ellm(append(append([]string{}, words...), "--"+name, v, "nowhere")...)
				assert.Equal(t, exitUsage, o.code, "%v --%s %s: %s", words, name, v, o.err)
				assert.Contains(t, o.err, "--"+name+" ")
				assert.Contains(t, o.err, ": expected ")
			}
		}
	})
	assert.Greater(t, found, 45)
	for text, want := range map[string]string{"0": ": expected 1 to 1024", "2,1025": ": expected 1 to 1024", "a": "numbers",
		"1,,2": "numbers"} {
		_, err := counts("n-parallel", text)
		assert.ErrorContains(t, err, want)
	}
}

func TestZeroMeansWhatPeersMean(t *testing.T) {
	model := compressed(t, "--lossless")
	run := func(options ...string) []int32 {
		o := mustRun(t, append([]string{"run", model, "--device", "cpu", "--raw", "-p", "// Reset resets the", "-n", "12", "--json",
			"--ignore-eos"}, options...)...)
		return decodeJSON[resultJSON](t, o).Tokens
	}
	greedy := run("--temp", "0")
	hot := []string{"--temp", "100", "--min-p", "0", "--seed", "1"}
	assert.Equal(t, greedy, run(append(hot, "--top-k", "0", "--top-p", "0")...), "--top-p 0 keeps the best token")
	assert.NotEqual(t, greedy, run(append(hot, "--top-k", "0", "--top-p", "1")...), "--top-k 0 keeps all")
	assert.Equal(t, run(append(hot, "--top-k", "0")...), run(append(hot, "--top-k", "-1")...))
	assert.Equal(t, run("--repeat-penalty", "1.3", "--repeat-last-n", "512", "--ctx", "512", "--temp", "0"),
		run("--repeat-penalty", "1.3", "--repeat-last-n", "-1", "--ctx", "512", "--temp", "0"), "-1 is the context")
	assert.Equal(t, greedy, run("--repeat-penalty", "1.3", "--repeat-last-n", "0", "--temp", "0"), "0 penalizes nothing")
	assert.Empty(t, run("-n", "0"))
}

func TestActivationsHaveEightOrSixteenBits(t *testing.T) {
	model := compressed(t, "--bpw", "5")
	run := func(bits string) outcome {
		return ellm("run", model, "--device", "cpu", "--raw", "-p", "Once", "-n", "4", "--temp", "0", "--activations", bits)
	}
	for _, bits := range []string{"8", "16"} {
		o := run(bits)
		assert.Zero(t, o.code, o.err)
	}
	for _, bits := range []string{"0", "12"} {
		o := run(bits)
		assert.Equal(t, exitUsage, o.code, o.err)
		assert.Contains(t, o.err, "--activations "+bits+": expected 8")
	}
}
