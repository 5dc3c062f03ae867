package cli

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The emulator runs the GPU's kernels behind the same commands: the same text as on the CPU, a profile, and a smaller cache that
// changes little.
func TestRunOnTheEmulator(t *testing.T) {
	if _, err := os.Stat(os.Getenv("ELLM_EMU")); err != nil {
		if os.Getenv("ELLM_REQUIRE_EMU") != "" {
			t.Fatalf("the emulator is required: %v", err)
		}
		t.Skip("SKIPPED: ELLM_EMU names no emulator")
	}
	model := compressed(t, "--lossless")
	run := func(options ...string) outcome {
		return mustRun(t, append([]string{"run", model, "--raw", "-p", "// Reset resets the", "-n", "4", "--ctx", "64", "--temp",
			"0"}, options...)...)
	}
	want := run("--device", "cpu")
	f16 := run("--device", "emu", "--profile")
	assert.Equal(t, want.out, f16.out)
	assert.Regexp(t, `gemv_\w+ +\d+ .*%`, f16.err)
	assert.Regexp(t, `attention_f16 +\d+ .*% +[\d.]+ KiB`, f16.err)
	assert.NotRegexp(t, `GB/s +predicted`, f16.err, "the emulator's times are not compared with a GPU's")
	q8 := run("--device", "emu", "--profile", "--kv-type", "q8_0")
	assert.Contains(t, q8.err, "attention_q8")
	assert.Equal(t, want.out, q8.out)
	assert.NotContains(t, run("--device", "emu").err, "share")

	assert.Equal(t, exitUsage, ellm("run", model, "--device", "emu", "--kv-type", "q3", "-p", "x").code)
}
