package fault

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/edsrzf/mmap-go"
	"github.com/stretchr/testify/require"
)

// shrunk maps a file of four pages and leaves the first of them.
func shrunk(t *testing.T) mmap.MMap {
	t.Helper()
	path, page := filepath.Join(t.TempDir(), "mapped"), os.Getpagesize()
	require.NoError(t, os.WriteFile(path, make([]byte, 4*page), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Unmap()) })
	require.NoError(t, os.Truncate(path, int64(page)))
	return m
}

func TestAccessToAShrunkFileIsAnError(t *testing.T) {
	m, page := shrunk(t), os.Getpagesize()
	err := Guard(func() error {
		if m[2*page+5] == 7 {
			return errors.New("unreachable")
		}
		return nil
	})
	var e *Error
	require.ErrorAs(t, err, &e)
	at, ok := e.In(m)
	require.True(t, ok)
	require.EqualValues(t, 2*page+5, at)
	_, ok = e.In(make([]byte, 1<<16))
	require.False(t, ok)
	require.ErrorContains(t, e, "shrank")
	require.NoError(t, Guard(func() error { _ = m[5]; return nil }), "what is left can be read")
}

// copy and comparisons are assembly.
func TestFaultInAssemblyIsCaught(t *testing.T) {
	m := shrunk(t)
	require.ErrorAs(t, Guard(func() error { copy(make([]byte, len(m)), m); return nil }), new(*Error))
	require.ErrorAs(t, Guard(func() error { _ = string(m) == string(make([]byte, len(m))); return nil }), new(*Error))
}

func TestWorkersFaultReachesTheCaller(t *testing.T) {
	m := shrunk(t)
	err := Guard(func() error {
		done := make(chan *Error)
		go func() { done <- Capture(func() { copy(make([]byte, len(m)), m) }) }()
		Raise(<-done)
		return nil
	})
	require.ErrorAs(t, err, new(*Error))
}

func TestOtherPanicsPass(t *testing.T) {
	require.PanicsWithValue(t, "mine", func() { _ = Guard(func() error { panic("mine") }) })
	require.Panics(t, func() { _ = Guard(func() error { var p *int; *p = 1; return nil }) },
		"a nil pointer is a mistake of the program")
	want := errors.New("x")
	require.Equal(t, want, Guard(func() error { return want }))
}
