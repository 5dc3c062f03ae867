package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIPPED: bash is not installed; make test runs this where it is, and CI does")
	}
	script := mustRun(t, "completion", "bash").out
	complete := func(words ...string) []string {
		call := "COMP_WORDS=(ellm-gpu '" + strings.Join(words, "' '") + "'); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _ellm_gpu\n" +
			"printf '%s\\n' \"${COMPREPLY[@]}\""
		out, err := exec.Command(bash, "-c", "set -eu\n"+script+call).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.Fields(string(out))
	}
	assert.Equal(t, []string{"compress", "completion"}, complete("comp"))
	assert.Contains(t, complete(""), "serve")
	assert.NotContains(t, complete(""), "docs", "hidden commands stay hidden")
	assert.Equal(t, []string{"--top-k", "--top-p"}, complete("run", "model.ellm", "--top-"))
	assert.Equal(t, []string{"ppl"}, complete("eval", "p"))
	assert.Contains(t, complete("eval", "kld", "--"), "--reference")
	assert.Equal(t, []string{"completion.go", "completion_test.go"}, complete("run", "completi"))
	assert.Contains(t, complete("ls", "--"), "--json")
}

func TestCompletionOfOtherShells(t *testing.T) {
	assert.Contains(t, mustRun(t, "completion", "zsh").out, "bashcompinit")
	fish := mustRun(t, "completion", "fish").out
	for _, want := range []string{"-a 'run'", "-l top-k", "-l mirostat"} {
		assert.Contains(t, fish, want)
	}
	assert.Equal(t, exitUsage, ellm("completion", "csh").code)
	assert.Equal(t, exitUsage, ellm("completion").code)
}
