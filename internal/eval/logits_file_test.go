package eval

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testdata/tiny-llama.logits was made with llama.cpp from internal/testmodel's files:
//
//	llama-perplexity -m tiny-llama.gguf -f heldout.txt -c 32 -b 32 --chunks 2 --kl-divergence-base tiny-llama.logits
const golden = "testdata/tiny-llama.logits"

func openGolden(t *testing.T) *LogitsFile {
	t.Helper()
	l, err := OpenLogits(golden)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLogitsFileOfLlamaCPP(t *testing.T) {
	s, _ := session(t, "F16", 64)
	l := openGolden(t)
	assert.Equal(t, 32, l.NCtx)
	assert.Equal(t, s.NVocab(), l.NVocab)
	assert.Equal(t, 2, l.Chunks)
	assert.Equal(t, heldOut(s)[:64], l.Tokens)
}

// save writes the predictions of the test model for the tokens of the golden file.
func save(t *testing.T, matrices string, tokens []int32) string {
	t.Helper()
	s, _ := session(t, matrices, 64)
	path := filepath.Join(t.TempDir(), "out.logits")
	w, err := CreateLogits(path)
	require.NoError(t, err)
	defer w.Abort()
	_, err = Perplexity(context.Background(), s, tokens, PerplexityOptions{NCtx: 32, Save: w})
	require.NoError(t, err)
	assert.NoFileExists(t, path)
	require.NoError(t, w.Finish())
	return path
}

func TestWrittenLogitsFileIsLikeLlamaCPPs(t *testing.T) {
	want := openGolden(t)
	path := save(t, "F16", want.Tokens)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "no temporary file is left")
	got, err := OpenLogits(path)
	require.NoError(t, err)
	defer got.Close()

	a, err := os.ReadFile(golden)
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	head := logitsHeader + 4*64
	assert.Equal(t, a[:head], b[:head])
	require.Len(t, b, len(a))
	size := rowBytes(want.NVocab)
	for at := head; at < len(a); at += size {
		x, y := savedRow(a[at:][:size]), savedRow(b[at:][:size])
		assert.InEpsilon(t, x.scale(), y.scale(), 1e-3)
		assert.InDelta(t, x.minimum(), y.minimum(), 0.01)
		for i := range want.NVocab {
			p, q := float64(x.scale())*float64(x.level(i))+float64(x.minimum()),
				float64(y.scale())*float64(y.level(i))+float64(y.minimum())
			assert.InDelta(t, p, q, 0.03) // llama.cpp rounds activations
		}
	}
}

func TestEncodeRow(t *testing.T) {
	s := newSoftmax()
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{1, 2, 999, 1000} {
		logits := normal(r, n)
		logits[n-1] = logits[0] - 40 // beyond the range
		row := make(savedRow, rowBytes(n))
		s.encodeRow(row, logits)
		require.NoError(t, row.check())
		lse, argmax := s.logSum(logits)
		for i, v := range logits {
			want := max(float64(v), float64(logits[argmax])-logitsRange) - lse
			assert.InDelta(t, want, float64(row.scale())*float64(row.level(i))+float64(row.minimum()), 2e-4)
		}
		if n > 1 {
			assert.EqualValues(t, logitsLevels, row.level(argmax))
		}
	}
	row := make(savedRow, rowBytes(3))
	s.encodeRow(row, []float32{5, 5, 5})
	assert.Zero(t, row.scale())
	assert.InDelta(t, -math.Log(3), row.minimum(), 1e-6)
	assert.NoError(t, row.check())
}

func TestLogitsWriterWantsAllRows(t *testing.T) {
	dir := t.TempDir()
	w, err := CreateLogits(filepath.Join(dir, "x"))
	require.NoError(t, err)
	require.NoError(t, w.begin(4, 2, []int32{0, 1, 0, 1}))
	assert.ErrorContains(t, w.Finish(), "1 rows are missing")
	w.Abort()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries)
}

func TestDamagedLogitsFiles(t *testing.T) {
	whole, err := os.ReadFile(golden)
	require.NoError(t, err)
	rows := logitsHeader + 4*64
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		says   string
	}{
		"empty":          {func(b []byte) []byte { return nil }, "no file of saved logits"},
		"another file":   {func(b []byte) []byte { return append([]byte("GGUF"), b...) }, "no file of saved logits"},
		"cut in header":  {func(b []byte) []byte { return b[:15] }, "ends in its header"},
		"cut in tokens":  {func(b []byte) []byte { return b[:100] }, "100 bytes"},
		"cut in rows":    {func(b []byte) []byte { return b[:len(b)-1] }, "it is damaged"},
		"too long":       {func(b []byte) []byte { return append(b, 0) }, "it is damaged"},
		"n_ctx 0":        {func(b []byte) []byte { return put32(b, 8, 0) }, "n_ctx is 0"},
		"n_ctx huge":     {func(b []byte) []byte { return put32(b, 8, 0x7fffffff) }, "n_ctx"},
		"n_vocab 0":      {func(b []byte) []byte { return put32(b, 12, 0) }, "n_vocab is 0"},
		"n_vocab huge":   {func(b []byte) []byte { return put32(b, 12, 0xffffffff) }, "n_vocab"},
		"n_chunk 0":      {func(b []byte) []byte { return put32(b, 16, 0) }, "n_chunk is 0"},
		"n_chunk absurd": {func(b []byte) []byte { return put32(b, 16, 0x7fffffff) }, "it is damaged"},
		"all absurd": {func(b []byte) []byte { return put32(put32(put32(b, 8, 1<<20), 12, 1<<24), 16, 0x7fffffff) },
			"it is damaged"},
		"token":          {func(b []byte) []byte { return put32(b, 24, 1024) }, "offset 24: token 1024"},
		"negative token": {func(b []byte) []byte { return put32(b, 24, 0xffffffff) }, "token -1"},
		"scale":          {func(b []byte) []byte { return put32(b, rows, math.Float32bits(nan)) }, "scale"},
		"minimum":        {func(b []byte) []byte { return put32(b, rows+4, math.Float32bits(9)) }, "minimum"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.logits")
			require.NoError(t, os.WriteFile(path, c.change(bytes.Clone(whole)), 0o644))
			l, err := OpenLogits(path)
			if err == nil {
				defer l.Close()
				err = l.readRows(0, 0, make([]byte, rowBytes(l.NVocab)))
			}
			assert.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, path)
		})
	}
	_, err = OpenLogits(t.TempDir())
	assert.ErrorContains(t, err, "directory")
}

func put32(b []byte, at int, v uint32) []byte {
	binary.LittleEndian.PutUint32(b[at:], v)
	return b
}

func TestLogitsDigestDependsOnTheRows(t *testing.T) {
	b, err := os.ReadFile(golden)
	require.NoError(t, err)
	digestOf := func() string {
		l, err := readLogits(bytes.NewReader(b), int64(len(b)), "x")
		require.NoError(t, err)
		d, err := l.Digest()
		require.NoError(t, err)
		return d
	}
	first := digestOf()
	assert.Equal(t, first, digestOf())
	b[len(b)-rowBytes(1024)] ^= 1
	assert.NotEqual(t, first, digestOf())
}

// Whatever a file holds, reading it ends in rows that comparing can use, or in an error.
func FuzzLogitsFile(f *testing.F) {
	b := []byte(logitsMagic)
	for _, v := range []uint32{4, 3, 1, 0, 1, 2, 0} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	row := make(savedRow, rowBytes(3))
	newSoftmax().encodeRow(row, []float32{1, 2, -30})
	b = append(b, row...)
	_, err := readLogits(bytes.NewReader(b), int64(len(b)), "seed")
	require.NoError(f, err)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(put32(bytes.Clone(b), 12, 1<<24))
	s := newSoftmax()
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := readLogits(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			return
		}
		logits := make([]float32, l.NVocab)
		for c := range l.Chunks {
			rows := fileReference{l}.open(context.Background(), c, nil)
			for n := 0; n < scoredRows(l.NCtx); {
				got, err := rows.read(3)
				if err != nil {
					return
				}
				for _, r := range got {
					v := r.compare(s, logits, l.Tokens[0])
					if !finite(v.kld) || !finite(v.refNLL) {
						t.Fatalf("%+v from %x", v, b)
					}
				}
				n += len(got)
			}
		}
	})
}
