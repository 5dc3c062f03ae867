package cli

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// refused asserts that every command that reads a model refuses path with one clear line and leaves no output.
func refused(t *testing.T, path, says string) {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "out.gguf")
	for _, args := range [][]string{
		{"verify", path},
		{"export", path, "-o", out},
		{"run", path, "--device", "cpu", "-p", "x", "-n", "1"},
	} {
		o := ellm(args...)
		assert.Equal(t, exitFailure, o.code, "%v: %s", args, o.err)
		last := strings.TrimSpace(o.err)
		last = last[strings.LastIndexByte(last, '\n')+1:]
		assert.True(t, strings.HasPrefix(last, "ellm-gpu: "), "%v: %s", args, o.err)
		assert.Contains(t, last, says, "%v", args)
		onlyFiles(t, dir)
	}
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "damaged.ellm")
	require.NoError(t, os.WriteFile(path, content, 0o644))
	return path
}

// patched returns a copy of a container with its header changed and the header's checksum made right again.
func patched(content []byte, change func(header []byte)) []byte {
	c := append([]byte(nil), content...)
	change(c[:64])
	binary.LittleEndian.PutUint32(c[60:], crc32.Checksum(c[:60], crc32.MakeTable(crc32.Castagnoli)))
	return c
}

func TestDamagedContainersAreRefused(t *testing.T) {
	good, err := os.ReadFile(compressed(t, "--bpw", "4"))
	require.NoError(t, err)
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"empty":       {nil, "empty"},
		"wrong magic": {append([]byte("GGUF"), good[4:]...), "not an .ellm file"},
		"text":        {[]byte("hello, world\n"), "not an .ellm file"},
		"future version": {patched(good, func(h []byte) { le.PutUint32(h[8:], format.Version+1) }),
			fmt.Sprint("container version ", format.Version+1)},
		"old version":   {patched(good, func(h []byte) { le.PutUint32(h[8:], 1) }), "compress the model again from its source"},
		"no sections":   {patched(good, func(h []byte) { le.PutUint32(h[12:], 0) }), "0 sections"},
		"many sections": {patched(good, func(h []byte) { le.PutUint32(h[12:], 1<<31) }), "sections"},
		"table beyond":  {patched(good, func(h []byte) { le.PutUint64(h[16:], 1<<62) }), "sections"},
		"longer":        {append(append([]byte(nil), good...), 0), "bytes, expected"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, write(t, c.content), c.says) })
	}
	t.Run("directory", func(t *testing.T) { refused(t, t.TempDir(), "directory") })
	t.Run("missing", func(t *testing.T) { refused(t, filepath.Join(t.TempDir(), "none.ellm"), "no such file") })
}

func TestTruncatedContainersAreRefused(t *testing.T) {
	good, err := os.ReadFile(compressed(t, "--bpw", "4"))
	require.NoError(t, err)
	for _, n := range []int{1, 7, 8, 63, 64, 65, 4095, 4096, len(good) / 4, len(good) / 2, len(good) - 4096, len(good) - 1} {
		refused(t, write(t, good[:n]), "")
	}
}

// Every byte of the container is covered by a checksum, is checked to be zero, or is padding that nothing reads.
func TestFlippedBitsAreFound(t *testing.T) {
	path := compressed(t, "--bpw", "4")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := filepath.Join(t.TempDir(), "damaged.ellm")
	found, tried := 0, 0
	for at := 0; at < len(good); at += 1 + len(good)/97 {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1 << (at % 8)
		require.NoError(t, os.WriteFile(damaged, bad, 0o644))
		tried++
		o := ellm("verify", damaged)
		if o.code == exitFailure {
			found++
			assert.Contains(t, o.err, "damaged.ellm")
			continue
		}
		// Not found: then it lies in padding, and the decoded model is the same.
		assert.Equal(t, exitOK, o.code)
		assert.Zero(t, good[at], "offset %d is not padding, but its damage went unnoticed", at)
	}
	assert.Greater(t, found, tried*8/10)
}

func TestDamagedSourcesAreRefused(t *testing.T) {
	gguf, err := os.ReadFile(testmodel.Path(t))
	require.NoError(t, err)
	dir := t.TempDir()
	for _, n := range []int{1, 3, 4, 8, 20, 23, 24, 100, 1000, len(gguf) / 3, len(gguf) - 1} {
		in := filepath.Join(t.TempDir(), "cut.gguf")
		require.NoError(t, os.WriteFile(in, gguf[:n], 0o644))
		o := ellm("compress", in, "-o", filepath.Join(dir, "out.ellm"))
		assert.Equal(t, exitFailure, o.code, "cut at %d: %s", n, o.err)
		assert.Contains(t, o.err, "cut.gguf", "cut at %d", n)
		onlyFiles(t, dir)
	}
	huge := append([]byte(nil), gguf...)
	binary.LittleEndian.PutUint64(huge[8:], 1<<60) // number of tensors
	in := filepath.Join(t.TempDir(), "huge.gguf")
	require.NoError(t, os.WriteFile(in, huge, 0o644))
	assert.Equal(t, exitFailure, ellm("compress", in, "-o", filepath.Join(dir, "out.ellm")).code)
	onlyFiles(t, dir)
}
