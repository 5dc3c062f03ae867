package cpu

import (
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// needFaultAddresses skips the test where the system tells of a fault, but not its address, as qemu's emulation of a process
// does.
func needFaultAddresses(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "page"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(int64(os.Getpagesize())))
	mapped, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(mapped)) }()
	require.NoError(t, f.Truncate(0))
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if _, ok := recover().(interface{ Addr() uintptr }); !ok {
			t.Skip("SKIPPED: faults have no address here, as under qemu (make test-jetson); make test and CI run this natively")
		}
	}()
	t.Log(mapped[0])
	t.Fatal("a page that is gone was read")
}

// Weights of plan fused are read from the mapped file in every product, by all threads, in assembly too. A file that shrinks then
// is an error that names it, on every thread and instruction set, and the backend can be closed.
func TestShrinkingFileEndsForwardInAnError(t *testing.T) {
	needFaultAddresses(t)
	for _, threads := range []int{1, 3} {
		for _, mc := range cputest.Machines() {
			m := newTiny(t, tinyOptions{arch: "llama"})
			tokens := prompt(20, m.prog.Config.NVocab)
			b := load(t, m, mc, engine.LoadOptions{Plan: engine.PlanFused, Threads: threads})
			_, err := b.Forward(context.Background(), engine.SingleRun(tokens, 0, 1))
			require.NoError(t, err)
			require.NoError(t, os.Truncate(m.file.Path(), 0))
			for range 3 {
				_, err = b.Forward(context.Background(), engine.SingleRun(tokens, 0, 1))
				require.ErrorContains(t, err, m.file.Path()+": offset", "%s", mc.Dot)
			}
		}
	}
}

// Loading reads the file too.
func TestShrinkingFileEndsLoadInAnError(t *testing.T) {
	needFaultAddresses(t)
	m := newTiny(t, tinyOptions{arch: "llama"})
	require.NoError(t, os.Truncate(m.file.Path(), 4096))
	b := New()
	err := b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{NCtx: 100, Plan: engine.PlanResident, Threads: 2})
	require.ErrorContains(t, err, m.file.Path())
	require.NoError(t, b.Close())
}
