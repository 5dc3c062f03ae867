package imatrix

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// appendEntry appends an entry of the legacy form, as llama-imatrix writes it: mean squares times the number of chunks.
func appendEntry(b []byte, name string, chunks int32, meanSq ...float32) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = le.AppendUint32(b, uint32(chunks))
	b = le.AppendUint32(b, uint32(len(meanSq)))
	for _, x := range meanSq {
		b = le.AppendUint32(b, math.Float32bits(x*float32(chunks)))
	}
	return b
}

func legacyFile(trailer bool) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	b = appendEntry(b, "blk.0.attn_q.weight", 8, 0.5, 2, 0)
	b = appendEntry(b, "blk.0.ffn_down.weight", 8, 1, 3)
	if trailer {
		b = binary.LittleEndian.AppendUint32(b, 8)
		b = binary.LittleEndian.AppendUint32(b, 8)
		b = append(b, "text.txt"...)
	}
	return b
}

func TestLegacy(t *testing.T) {
	for _, trailer := range []bool{false, true} {
		f, err := parseLegacy(legacyFile(trailer))
		require.NoError(t, err)
		require.Len(t, f.Matrices, 2)
		require.Equal(t, &Matrix{MeanSq: []float32{0.5, 2, 0}, Count: 8}, f.Matrices["blk.0.attn_q.weight"])
		require.Equal(t, []float32{1, 3}, f.Matrices["blk.0.ffn_down.weight"].MeanSq)
		if trailer {
			require.Equal(t, 8, f.Chunks)
			require.Equal(t, []string{"text.txt"}, f.Datasets)
		}
	}
}

func TestLegacyDamaged(t *testing.T) {
	good := legacyFile(true)
	for n := range good {
		if n == len(legacyFile(false)) || n == len(legacyFile(false))+4 {
			continue // older files end here
		}
		_, err := parseLegacy(good[:n])
		require.Error(t, err, "%d bytes", n)
	}
	_, err := parseLegacy(append(good, 0))
	require.ErrorContains(t, err, "follow the end")
	twice := binary.LittleEndian.AppendUint32(nil, 2)
	twice = appendEntry(appendEntry(twice, "a", 1, 1), "a", 1, 1)
	_, err = parseLegacy(twice)
	require.ErrorContains(t, err, "twice")
	for _, x := range []float32{-1, float32(math.NaN()), float32(math.Inf(1))} {
		_, err = parseLegacy(appendEntry(binary.LittleEndian.AppendUint32(nil, 1), "a", 1, 1, x))
		require.ErrorContains(t, err, `entry "a": column 1`)
	}
}

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.imatrix")
	want := &File{
		Matrices: map[string]*Matrix{
			"blk.0.attn_q.weight": {MeanSq: []float32{0.25, 1, 0}, Count: 4096},
			"output.weight":       {MeanSq: []float32{16}, Count: 512},
		},
		Datasets: []string{"a.txt", "b.txt"}, Chunks: 8, ChunkSize: 512,
	}
	require.NoError(t, Write(path, want))
	got, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(b []byte) string {
		path := filepath.Join(dir, "f")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	f, err := Read(write(legacyFile(true)))
	require.NoError(t, err)
	require.Len(t, f.Matrices, 2)
	for _, b := range [][]byte{nil, []byte("abc"), []byte("this is no importance matrix"), []byte("GGUF\x03\x00\x00\x00")} {
		_, err := Read(write(b))
		require.ErrorContains(t, err, dir)
	}
}

// gguf files whose tensors do not fit together.
func TestGGUFDamaged(t *testing.T) {
	var meta gguf.Metadata
	meta.Set(keyType, typeImatrix)
	type tensor struct {
		name string
		dims []uint64
		data []float32
	}
	sum := func(x ...float32) tensor { return tensor{"a" + sumSuffix, []uint64{uint64(len(x)), 1}, x} }
	count := func(x ...float32) tensor { return tensor{"a" + countSuffix, []uint64{1, uint64(len(x))}, x} }
	for _, c := range []struct {
		tensors []tensor
		message string
	}{
		{[]tensor{sum(1, 2), count(4)}, ""},
		{[]tensor{sum(1, 2)}, "no tensor of .counts"},
		{[]tensor{count(4)}, "no tensors named"},
		{[]tensor{sum(1, 2), count(0)}, "no tensors named"},
		{[]tensor{sum(1, 2), count(-1)}, "count of -1"},
		{[]tensor{sum(1, 2), count(4, 4)}, "experts"},
		{[]tensor{sum(1, -2), count(4)}, "column 1"},
		{[]tensor{sum(1, float32(math.NaN())), count(4)}, "column 1"},
	} {
		path := filepath.Join(t.TempDir(), "f.gguf")
		var list []gguf.Tensor
		for _, x := range c.tensors {
			list = append(list, gguf.Tensor{Name: x.name, Dims: x.dims, Type: gguf.F32})
		}
		w, err := gguf.Create(path, &meta, list)
		require.NoError(t, err)
		for _, x := range c.tensors {
			require.NoError(t, w.WriteFloats(x.data))
		}
		require.NoError(t, w.Close())
		f, err := Read(path)
		if c.message == "" {
			require.NoError(t, err)
			require.Equal(t, []float32{0.25, 0.5}, f.Matrices["a"].MeanSq)
		} else {
			require.ErrorContains(t, err, c.message)
		}
	}
}

func FuzzLegacy(f *testing.F) {
	f.Add(legacyFile(false))
	f.Add(legacyFile(true))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parseLegacy(b)
		if err != nil {
			return
		}
		for name, m := range file.Matrices {
			require.NotEmpty(t, name)
			require.NotEmpty(t, m.MeanSq)
			for _, x := range m.MeanSq {
				require.True(t, x >= 0 && x <= math.MaxFloat32)
			}
		}
	})
}

// FuzzFiles reads files of both forms; what is accepted is written and read again.
func FuzzFiles(f *testing.F) {
	dir, err := os.MkdirTemp("/dev/shm", "ellm-fuzz-") // in memory, where the system has such a place
	if err != nil {
		dir = f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	one, err := parseLegacy(legacyFile(true))
	require.NoError(f, err)
	require.NoError(f, Write(in, one))
	b, err := os.ReadFile(in)
	require.NoError(f, err)
	f.Add(b)
	f.Add(legacyFile(false))
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(in, b, 0o600))
		file, err := Read(in)
		if err != nil {
			return
		}
		require.NoError(t, Write(out, file))
		again, err := Read(out)
		require.NoError(t, err)
		require.Len(t, again.Matrices, len(file.Matrices))
		for name, m := range file.Matrices {
			require.Len(t, again.Matrices[name].MeanSq, len(m.MeanSq))
		}
	})
}
