package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// deadProcess returns the number of a process that has ended.
func deadProcess(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	require.NoError(t, cmd.Run())
	return cmd.Process.Pid
}

func TestFilesOfDeadProcessesAreNamed(t *testing.T) {
	dir, dead := t.TempDir(), deadProcess(t)
	out := filepath.Join(dir, "x.ellm")
	left := []string{fmt.Sprintf("x.ellm.part-%d-1", dead), fmt.Sprintf(".draft-%d-7", dead)}
	others := []string{fmt.Sprintf("x.ellm.part-%d-1", os.Getpid()), fmt.Sprintf(".draft-%d-7", os.Getpid()), ".draft-notes"}
	for _, name := range append(left, others...) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	o := mustRun(t, "compress", testmodel.Path(t), "-o", out, "--lossless")
	for _, name := range left {
		assert.Contains(t, o.err, filepath.Join(dir, name)+" was left by a process that was killed")
	}
	for _, name := range others {
		assert.NotContains(t, o.err, name)
	}
}

func TestRunning(t *testing.T) {
	assert.True(t, running(os.Getpid()))
	assert.True(t, running(1), "processes of others count")
	assert.False(t, running(deadProcess(t)))
}
