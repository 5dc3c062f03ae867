package gguf

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetadataOfAnotherWriter(t *testing.T) {
	f, _ := openBlocks(t)
	require.EqualValues(t, 3, f.Version)
	want := map[string]any{
		"general.architecture": "test",
		"test.uint8":           uint8(200), "test.int8": int8(-3), "test.uint16": uint16(60000), "test.int16": int16(-300),
		"test.uint32": uint32(4000000000), "test.int32": int32(-70000), "test.float32": float32(0.25), "test.bool": true,
		"test.string": "naïve", "test.uint64": uint64(1) << 60, "test.int64": int64(-1 << 60), "test.float64": 1e-300,
		"test.strings": []string{"a", "", "ü"}, "test.int32s": []int32{1, -2, 3}, "test.float32s": []float32{0.5, -1.5},
		"test.bools": []bool{true, false},
	}
	for key, v := range want {
		got, ok := f.Get(key)
		require.True(t, ok, key)
		require.Equal(t, v, got, key)
	}
	b, err := f.Encode()
	require.NoError(t, err)
	again, err := DecodeMetadata(b)
	require.NoError(t, err)
	require.Equal(t, &f.Metadata, again)
}

func TestEveryArrayTypeSurvivesEncoding(t *testing.T) {
	m := &Metadata{}
	m.Set("u8", []uint8{1, 255})
	m.Set("i8", []int8{-1})
	m.Set("u16", []uint16{65535})
	m.Set("i16", []int16{-2, 2})
	m.Set("u32", []uint32{1 << 31})
	m.Set("u64", []uint64{1 << 63})
	m.Set("i64", []int64{-1 << 63, 5})
	m.Set("f64", []float64{math.Pi})
	m.Set("none", []string{})
	m.Set("empty", []float32{})
	b, err := m.Encode()
	require.NoError(t, err)
	got, err := DecodeMetadata(b)
	require.NoError(t, err)
	require.Equal(t, m, got)

	m.Set("bad", 3+4i)
	_, err = m.Encode()
	require.ErrorContains(t, err, `"bad" has Go type complex128`)
}

func TestGetters(t *testing.T) {
	m := &Metadata{}
	m.Set("n", uint32(7))
	m.Set("big", uint64(math.MaxUint64))
	m.Set("s", "x")
	m.Set("list", []int32{1, 2})
	m.Set("f", float32(0.5))
	n, err := m.Int("n")
	require.NoError(t, err)
	require.Equal(t, 7, n)
	_, err = m.Int("missing")
	require.ErrorIs(t, err, ErrMissing)
	_, err = m.Int("list")
	require.EqualError(t, err, `metadata key "list" is an array of 2 values ([]int32), expected one integer`)
	_, err = m.Int("big")
	require.Error(t, err)
	_, err = m.IntOr("s", 3) // a default does not hide a wrong type
	require.EqualError(t, err, `metadata key "s" is "x" (string), expected one integer`)
	n, err = m.IntOr("missing", 3)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	f, err := m.FloatOr("f", 1)
	require.NoError(t, err)
	require.Equal(t, 0.5, f)
	ints, err := m.Int32s("list")
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2}, ints)
	require.Equal(t, []string{"n", "s"}, m.Filter(func(k string) bool { return len(k) == 1 && k != "f" }).Keys())
}

// writeSample makes a file with one tensor of every float type.
func writeSample(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "m.gguf")
	m := &Metadata{}
	m.Set("general.architecture", "test")
	m.Set(keyAlignment, uint32(64)) // replaced by what the writer uses
	w, err := Create(path, m, []Tensor{
		{Name: "a", Dims: []uint64{3}, Type: F32},
		{Name: "b", Dims: []uint64{5, 2}, Type: F16},
		{Name: "c", Dims: []uint64{4, 2}, Type: BF16},
	})
	require.NoError(t, err)
	defer w.Abort()
	require.NoError(t, w.WriteFloats([]float32{1, 2}))
	require.NoError(t, w.WriteFloats([]float32{3}))
	require.NoError(t, w.WriteFloats([]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}))
	require.NoError(t, w.WriteFloats([]float32{1, 2, 3, 4}))
	require.ErrorContains(t, w.Close(), `tensor "c" lacks 8 bytes`)
	require.NoFileExists(t, path)

	w, err = Create(path, m, w.tensors)
	require.NoError(t, err)
	require.NoError(t, w.WriteFloats([]float32{1, 2, 3}))
	require.NoError(t, w.WriteFloats([]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}))
	require.ErrorContains(t, w.WriteFloats(make([]float32, 9)), "takes 16 more")
	require.NoError(t, w.WriteFloats([]float32{1, 2, 3, 4, 5, 6, 7, 8}))
	require.Error(t, w.WriteFloats([]float32{1}))
	require.NoFileExists(t, path)
	require.NoError(t, w.Close())
	require.ErrorIs(t, w.Close(), os.ErrClosed)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.Equal(t, []string{path}, left)
	return path
}

func TestWriteAndRead(t *testing.T) {
	f, err := Open(writeSample(t))
	require.NoError(t, err)
	defer f.Close()
	require.Len(t, f.Tensors, 3)
	align, err := f.Int(keyAlignment)
	require.NoError(t, err)
	require.Equal(t, defaultAlignment, align)
	require.Equal(t, []float32{1, 2, 3}, rowsOf(t, f, &f.Tensors[0]))
	require.Equal(t, []float32{1, 2, 3, 4, 5, 6, 7, 8}, rowsOf(t, f, &f.Tensors[2]))
	b, err := f.Rows(&f.Tensors[1], 1, 2)
	require.NoError(t, err)
	x := make([]float32, 5)
	require.NoError(t, Dequantize(F16, b, x))
	require.Equal(t, []float32{5, 6, 7, 8, 9}, x)
	f.Release(b)
	f.Release(f.data)
	require.Equal(t, []float32{1, 2, 3}, rowsOf(t, f, &f.Tensors[0]))
	_, err = f.Rows(&f.Tensors[1], 1, 3)
	require.Error(t, err)
	require.Equal(t, 1, f.Tensors[0].Rows())
}

func TestCreateRefusesBadTensors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	for _, ts := range [][]Tensor{
		{{Name: "", Dims: []uint64{1}}},
		{{Name: "a"}},
		{{Name: "a", Dims: []uint64{0}}},
		{{Name: "a", Dims: []uint64{1}}, {Name: "a", Dims: []uint64{1}}},
		{{Name: "a", Dims: []uint64{31}, Type: Q8_0}},
		{{Name: "a", Dims: []uint64{1 << 40, 1 << 40}}},
	} {
		_, err := Create(path, &Metadata{}, ts)
		require.Error(t, err)
	}
	_, err := Create(filepath.Join(path, "no", "such"), &Metadata{}, nil)
	require.Error(t, err)
}

// header builds a file from raw pieces, so that tests can make wrong ones.
func header(version uint32, tensors, pairs uint64, body ...any) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(magic), version)
	b = binary.LittleEndian.AppendUint64(b, tensors)
	b = binary.LittleEndian.AppendUint64(b, pairs)
	for _, v := range body {
		if s, ok := v.(string); ok {
			b = appendString(b, s)
			continue
		}
		b, _ = binary.Append(b, binary.LittleEndian, v)
	}
	return b
}

func TestHostileHeaders(t *testing.T) {
	const huge = uint64(math.MaxUint64)
	for want, b := range map[string][]byte{
		"version 1 is not supported":       header(1, 0, 0),
		"big-endian":                       header(3<<24, 0, 0),
		"key needs":                        header(3, 0, huge),
		"name needs":                       header(3, huge, 0),
		"18446744073709551615 × 1 bytes":   header(3, 0, 1, huge),
		"array of arrays":                  header(3, 0, 1, "k", kindArray, kindArray, uint64(1)),
		"unknown type 77":                  header(3, 0, 1, "k", uint32(77)),
		"18446744073709551615 strings":     header(3, 0, 1, "k", kindArray, kindString, huge),
		"18446744073709551615 × 8":         header(3, 0, 1, "k", kindArray, kindFloat64, huge),
		`"k" occurs twice`:                 header(3, 0, 2, "k", kindUint8, uint8(1), "k", kindUint8, uint8(1)),
		"general.alignment is 33":          header(3, 0, 1, keyAlignment, kindUint32, uint32(33)),
		"0 dimensions":                     header(3, 1, 0, "t", uint32(0)),
		"dimensions [0] are empty":         header(3, 1, 0, "t", uint32(1), uint64(0), uint32(F32), uint64(0)),
		"9223372036854775808] are empty":   header(3, 1, 0, "t", uint32(2), uint64(1<<63), uint64(1<<63), uint32(F32), uint64(0)),
		"dimensions [9223372036854775808]": header(3, 1, 0, "t", uint32(1), uint64(1<<63), uint32(F32), uint64(0)),
		"33 weights are not whole Q8_0":    header(3, 1, 0, "t", uint32(1), uint64(33), uint32(Q8_0), uint64(0)),
		"TQ1_0 is not supported":           header(3, 1, 0, "t", uint32(1), uint64(256), uint32(34), uint64(0)),
		"not aligned":                      header(3, 1, 0, "t", uint32(1), uint64(1), uint32(F32), uint64(4)),
		"exceeds the file":                 header(3, 1, 0, "t", uint32(1), uint64(1), uint32(F32), uint64(0)),
		"is absurd":                        header(3, 1, 0, "t", uint32(1), uint64(1), uint32(F32), huge),
		`"t" occurs twice`: header(3, 2, 0, "t", uint32(1), uint64(1), uint32(F32), uint64(0),
			"t", uint32(1), uint64(1), uint32(F32), uint64(0)),
		"overlap": append(header(3, 2, 0, "t", uint32(1), uint64(9), uint32(F32), uint64(0), "u", uint32(1), uint64(1),
			uint32(F32), uint64(32)),
			make([]byte, 200)...),
	} {
		require.ErrorContains(t, new(File).parse(b), want)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, b, 0o600))
		return p
	}
	for _, p := range []string{dir, file("empty", nil), file("short", []byte("GG")), file("other", []byte("hello, world"))} {
		_, err := Open(p)
		require.ErrorIs(t, err, ErrNotGGUF)
		require.ErrorContains(t, err, p)
	}
	whole, err := os.ReadFile("testdata/blocks.gguf")
	require.NoError(t, err)
	_, err = Open(file("truncated", whole[:len(whole)-32]))
	require.ErrorContains(t, err, "exceeds the file")
	_, err = Open(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Every truncation of a header is an error, never a panic.
func TestTruncations(t *testing.T) {
	whole, err := os.ReadFile("testdata/blocks.gguf")
	require.NoError(t, err)
	for n := len(magic); n < 3000; n++ {
		require.Error(t, new(File).parse(whole[:n]))
	}
}

func FuzzParse(f *testing.F) {
	whole, err := os.ReadFile("testdata/blocks.gguf")
	require.NoError(f, err)
	f.Add(whole)
	f.Add(header(3, 1, 1, "k", kindArray, kindString, uint64(1), "v", "t", uint32(1), uint64(1), uint32(F32), uint64(0)))
	f.Add(append(header(2, 1, 0, "t", uint32(2), uint64(32), uint64(1), uint32(Q4_0), uint64(0)), make([]byte, 64)...))
	for t := range allTraits { // a row of every type
		f.Add(append(header(3, 1, 0, "t", uint32(1), uint64(256), uint32(t), uint64(0)), make([]byte, 1100)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < len(magic) {
			return
		}
		g := &File{data: bytes.Clone(b)}
		if g.parse(b) != nil {
			return
		}
		for i := range g.Tensors {
			ten := &g.Tensors[i]
			row, err := g.Rows(ten, 0, 1)
			require.NoError(t, err)
			require.NoError(t, Dequantize(ten.Type, row, make([]float32, ten.Cols())))
		}
		enc, err := g.Encode()
		require.NoError(t, err)
		_, err = DecodeMetadata(enc)
		require.NoError(t, err)
	})
}
