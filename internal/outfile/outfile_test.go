package outfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func put(t *testing.T, disk Disk, path, text string) error {
	t.Helper()
	w, err := Create(disk, path)
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, part := range strings.SplitAfter(text, " ") {
		if _, err := w.Write([]byte(part)); err != nil {
			return err
		}
	}
	if _, err := w.WriteAt([]byte{text[0]}, 0); err != nil {
		return err
	}
	return w.Commit()
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestModeIsTheUmasksOrThatOfTheReplacedFile(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "out")
	for _, mode := range []os.FileMode{0o640, 0o600, 0o444, 0o666} {
		if mode != 0o640 {
			require.NoError(t, os.Chmod(path, mode))
		}
		require.NoError(t, put(t, OS{}, path, "some text"))
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, st.Mode().Perm())
	}
}

func TestSymbolicLinksAreFollowed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("sub/real", link))
	for _, text := range []string{"new file", "replaced file"} {
		require.NoError(t, put(t, OS{}, link, text))
		b, err := os.ReadFile(filepath.Join(dir, "sub", "real"))
		require.NoError(t, err)
		require.Equal(t, text, string(b))
		st, err := os.Lstat(link)
		require.NoError(t, err)
		require.NotZero(t, st.Mode()&os.ModeSymlink)
	}
	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	require.ErrorContains(t, put(t, OS{}, filepath.Join(dir, "loop"), "x"), "too many")
}

func TestNamesOf255Bytes(t *testing.T) {
	for _, unit := range []string{"a", "ä", "語", "😀"} {
		name := strings.Repeat(unit, maxName/len(unit))
		dir := t.TempDir()
		require.NoError(t, put(t, OS{}, filepath.Join(dir, name), "text"))
		require.Equal(t, []string{name}, names(t, dir))
	}
}

func TestWhatIsNotAFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	for _, path := range []string{dir, fifo, os.DevNull} {
		require.ErrorContains(t, put(t, OS{}, path, "text"), "expected a file")
	}
	require.Error(t, put(t, OS{}, filepath.Join(dir, "none", "x"), "text"))
	require.Equal(t, []string{"fifo"}, names(t, dir))
}

// Whatever call fails, once or from then on: the old file stays, nothing is left beside it, and the error names path and cause.
func TestOldFileSurvivesFaultsAtEveryCall(t *testing.T) {
	seen := map[string]bool{}
	for _, stays := range []bool{false, true} {
		for n := 1; ; n++ {
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
			disk := &Faulty{Disk: OS{}, Fail: n, Stays: stays}
			err := put(t, disk, path, "a new text")
			if disk.Calls < n {
				require.NoError(t, err)
				require.Greater(t, n, 5)
				break
			}
			seen[disk.Call] = true
			require.ErrorIs(t, err, syscall.ENOSPC, "call %d", n)
			require.ErrorContains(t, err, path)
			require.Equal(t, []string{"out"}, names(t, dir), "call %d: %s", n, disk.Call)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "old", string(b))
		}
	}
	for _, call := range []string{"create", "chmod", "write", "write at", "sync", "close", "rename"} {
		require.True(t, seen[call], call)
	}
}

func TestAbortRemovesTheUnfinishedFile(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(OS{}, filepath.Join(dir, "out"))
	require.NoError(t, err)
	require.Len(t, names(t, dir), 1)
	w.Abort()
	w.Abort()
	require.Empty(t, names(t, dir))
	require.True(t, errors.Is(w.Commit(), os.ErrClosed))
	(*File)(nil).Abort()
}

func TestStaleFilesOfDeadProcessesAreFound(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.ellm")
	dead, alive := partName(path, 4242, 0), partName(path, 77, 3)
	for _, p := range []string{dead, alive, filepath.Join(dir, "other.part-4242-0"), filepath.Join(dir, "m.ellm.part-x"), path} {
		require.NoError(t, os.WriteFile(p, nil, 0o644))
	}
	require.Equal(t, []string{dead}, Stale(path, func(pid int) bool { return pid == 77 }))
}
