package infile

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	for _, path := range []string{fifo, dir, os.DevNull} {
		_, err := Open(path)
		require.ErrorContains(t, err, "expected a file")
	}
	_, err := Open(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	b, err := ReadAll(file, 4)
	require.NoError(t, err)
	require.Equal(t, "text", string(b))
	_, err = ReadAll(file, 3)
	require.ErrorContains(t, err, "has 4 bytes, expected at most 3")
}
