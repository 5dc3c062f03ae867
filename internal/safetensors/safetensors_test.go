package safetensors

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// file joins a header and data bytes 0, 1, 2, …
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range data {
		b = append(b, byte(i))
	}
	return b
}

func write(t *testing.T, path string, b []byte) string {
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

func TestOpen(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "m.safetensors"), file(`{"__metadata__":{"format":"pt"},
		"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},
		"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
		"none":{"dtype":"F16","shape":[0,4],"data_offsets":[8,8]},
		"scalar":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}   `, 28))
	m, err := Open(path)
	require.NoError(t, err)
	defer m.Close()
	var names []string
	for _, x := range m.Tensors {
		names = append(names, x.Name)
	}
	require.Equal(t, []string{"a", "none", "b", "scalar"}, names)
	b := m.Tensors[2]
	require.Equal(t, []int{2, 3}, b.Shape)
	require.Equal(t, BF16, b.DType)
	p := make([]byte, 6)
	require.NoError(t, b.ReadAt(p, 6))
	require.Equal(t, []byte{14, 15, 16, 17, 18, 19}, p)
	require.Error(t, b.ReadAt(p, 7))
	require.Error(t, b.ReadAt(p, -1))
	require.Error(t, b.ReadAt(p, math.MaxInt64))

	require.NoError(t, os.Truncate(path, 100)) // shrinks while open
	require.ErrorContains(t, b.ReadAt(p, 6), path)
}

func TestHostileFiles(t *testing.T) {
	for _, c := range []struct {
		want string
		b    []byte
	}{
		{"not a safetensors file", nil},
		{"header of 99 bytes", append(binary.LittleEndian.AppendUint64(nil, 99), '{', '}')},
		{"header of 1152921504606846976 bytes", binary.LittleEndian.AppendUint64(nil, 1<<60)},
		{"unexpected end of JSON", file("{", 0)},
		{"cannot unmarshal", file(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1)},
		{"unknown element type", file(`{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}`, 1)},
		{"9 dimensions", file(`{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}`, 1)},
		{"expected [begin, end]", file(`{"a":{"dtype":"I8","shape":[1],"data_offsets":[1,0]}}`, 1)},
		{"expected [begin, end]", file(`{"a":{"dtype":"I8","shape":[1]}}`, 1)},
		{"takes 8 bytes", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4)},
		{"overflows", file(`{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,0]}}`, 0)},
		{"exceeds the file", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 7)},
		{"exceeds the file", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[4611686018427387903,4611686018427387904]}}`, 0)},
		{"overlap or leave a gap", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},`+
			`"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 6)},
		{"overlap or leave a gap", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2)},
		{"the tensors end at", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2)},
	} {
		_, err := parse(bytes.NewReader(c.b), int64(len(c.b)))
		require.ErrorContains(t, err, c.want)
	}
	_, err := Open(t.TempDir())
	require.ErrorContains(t, err, "directory")
}

const (
	shardA = `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
	shardB = `{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
)

func TestShards(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenDir(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	write(t, filepath.Join(dir, singleName), file(shardA, 1))
	m, err := OpenDir(dir)
	require.NoError(t, err)
	require.Len(t, m.Tensors, 1)
	require.NoError(t, m.Close())

	// An index beside it may be of files that are gone: the one file is complete.
	write(t, filepath.Join(dir, indexName), []byte(`{"weight_map":{"a":"model-00001-of-00002.safetensors"}}`))
	m, err = OpenDir(dir)
	require.NoError(t, err)
	require.Len(t, m.Tensors, 1)
	require.NoError(t, m.Close())

	require.NoError(t, os.Rename(filepath.Join(dir, singleName), filepath.Join(dir, "9.safetensors")))
	write(t, filepath.Join(dir, "1.safetensors"), file(shardA, 1))
	write(t, filepath.Join(dir, "2.safetensors"), file(shardB, 1))
	index := filepath.Join(dir, indexName)
	write(t, index, []byte(`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`))
	m, err = OpenDir(dir)
	require.NoError(t, err)
	require.Len(t, m.Tensors, 2)
	require.NoError(t, m.Close())

	for want, text := range map[string]string{
		"not in 2.safetensors":      `{"weight_map":{"a":"2.safetensors","b":"2.safetensors"}}`,
		"without a directory":       `{"weight_map":{"a":"../1.safetensors"}}`,
		"no such file":              `{"weight_map":{"a":"3.safetensors"}}`,
		"unexpected end":            `{"weight_map":`,
		"both in 1.safetensors and": `{"weight_map":{"a":"1.safetensors","x":"9.safetensors"}}`,
	} {
		write(t, index, []byte(text))
		_, err := OpenDir(dir)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, index)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(file(shardA, 1))
	f.Add(file(`{"__metadata__":{},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},`+
		`"b":{"dtype":"F16","shape":[0],"data_offsets":[4,4]}}`, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, x := range tensors {
			n := int64(x.DType.Size())
			for _, d := range x.Shape {
				n *= int64(d)
			}
			require.Equal(t, x.Size, n)
			require.True(t, x.start >= 8 && x.start+x.Size <= int64(len(b)))
		}
	})
}
