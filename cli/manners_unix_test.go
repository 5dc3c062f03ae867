//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/memory"
)

func TestSignalsToEndCancel(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(sig) { // as under nohup, which a program respects
			t.Logf("SKIPPED: %v is ignored", sig)
			continue
		}
		ctx, stop := interruptible(context.Background())
		require.NoError(t, syscall.Kill(os.Getpid(), sig))
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			t.Errorf("%v did not cancel", sig)
		}
		stop()
	}
}

func TestPipesAndDevicesAreRefusedAtOnce(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "m.ellm")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	for _, path := range []string{fifo, "/dev/null", "/dev/zero"} {
		for _, args := range [][]string{{"verify"}, {"inspect"}, {"plan", "--device", "cpu"}, {"bench"}, {"run", "-p", "x"},
			{"eval", "ppl", "-f", path}, {"export", "-o", filepath.Join(t.TempDir(), "x.gguf")}} {
			o := ellm(append(args, path)...)
			assert.Equal(t, exitFailure, o.code, "%v %s: %s", args, path, o.err)
			assert.Contains(t, o.err, "pipe or device", "%v %s", args, path)
		}
	}
	model := compressed(t, "--lossless")
	o := ellm("run", model, "--device", "cpu", "-f", fifo)
	assert.Equal(t, exitUsage, o.code, "a text from a pipe without a writer is empty")
	assert.Contains(t, ellm("run", model, "--device", "cpu", "-f", "/dev/zero").err, "pipe or device")
}

// A pipe with a writer is what a shell's process substitution gives.
func TestPromptFromAPipe(t *testing.T) {
	model := compressed(t, "--lossless")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	go func() {
		time.Sleep(50 * time.Millisecond)
		w.WriteString("// Reset resets the")
		w.Close()
	}()
	path := filepath.Join("/dev/fd", number(float64(r.Fd())))
	o := mustRun(t, "run", model, "--device", "cpu", "--raw", "-f", path, "-n", "2", "--temp", "0", "--json")
	assert.Len(t, decodeJSON[resultJSON](t, o).Tokens, 2)
}

// Under a limit that leaves the runtime no room, the program says so instead of being ended by it.
func TestTooLittleRoomIsSaid(t *testing.T) {
	err := startable(memory.Limit{Bytes: 10 << 20, What: "limit of the address space (ulimit -v)"})
	require.Equal(t, exitFailure, exitCode(err))
	require.Contains(t, explain(err), "ulimit -v) leaves 10 MiB, at least 160 are needed (close other programs")
	require.NoError(t, startable(memory.Limit{}))
	require.NoError(t, startable(memory.Limit{Bytes: leastRoom}))
}
