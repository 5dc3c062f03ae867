package format

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

var update = flag.Bool("update", false, "rewrite the golden container")

// sampleCoded returns a coded matrix with low bits, a row order, outliers and two tiles, and the levels it was made from (stored
// order, padded columns).
func sampleCoded(rng *rand.Rand, table int) (*Coded, *huffman.Table, []uint8) {
	c := &Coded{Rows: 37, Cols: 64*33 - 10, Coding: Coding{RowsPerGroup: 16, Levels: 16, LowBits: 1, Zero: -16},
		Scale: Scale{Kind: ScaleRow, Scale: 0.25}}
	stride := c.Steps() * StepCols
	levels := make([]uint8, c.Rows*stride)
	hist := make([]uint64, 256)
	for i := range levels {
		levels[i] = uint8(min(max(8+rng.NormFloat64()*2, 0), 15))
		if i%2 == 1 {
			hist[int(levels[i-1])*16+int(levels[i])]++
		}
	}
	t, err := huffman.Build(hist, 16, huffman.MaxCodeLen)
	if err != nil {
		panic(err)
	}
	for g := range c.Groups() {
		for k := range c.Tiles() {
			c.ChunkTable = append(c.ChunkTable, uint8(table))
			c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
			from := levels[g*c.Coding.RowsPerGroup*stride+k*c.StepsPerTile()*StepCols:]
			words, main, tail, err := t.EncodeChunk(c.Stream, from, stride, c.TileSteps(k), c.GroupRows(g))
			if err != nil {
				panic(err)
			}
			for len(words)%8 != 0 {
				words = append(words, 0)
			}
			c.Stream, c.MainWords, c.LaneTail = words, append(c.MainWords, uint16(main)), append(c.LaneTail, tail[:]...)
		}
	}
	c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
	c.Stream = append(c.Stream, make([]uint32, c.GuardWords())...)
	c.Low = make([]uint32, c.LowOffset(c.Groups(), 0))
	for i := range c.Low {
		c.Low[i] = rng.Uint32()
	}
	for i := range c.Rows {
		c.RowOrder = append(c.RowOrder, uint32((i*5)%c.Rows))
		c.RowScale = append(c.RowScale, uint16(0x3c00+i))
	}
	c.OutlierStart = []uint32{0, 2, 2, 3}
	c.Outliers = []uint32{PackOutlier(Outlier{0, 7, -100}), PackOutlier(Outlier{3, 2000, 9}), PackOutlier(Outlier{4, 0, 127})}
	return c, t, levels
}

func writeSample(t *testing.T, path string) (*Coded, []uint8) {
	t.Helper()
	c, table, levels := sampleCoded(rand.New(rand.NewPCG(11, 12)), 1)
	small, err := huffman.Build([]uint64{4, 3, 2, 1}, 2, 12)
	require.NoError(t, err)
	w, err := Create(path)
	require.NoError(t, err)
	defer w.Abort()
	require.NoError(t, w.Section(KindTokenizer, []byte("vocabulary vocabulary vocabulary vocabulary vocabulary"), true))
	require.NoError(t, w.Raw("output_norm.weight", &Raw{Rows: 1, Cols: 3, DType: F32, Data: make([]byte, 12)}))
	require.NoError(t, w.Coded("blk.0.attn_q.weight", c))
	size, err := w.Finish(&Meta{Producer: "test", Scheme: "sample", Config: json.RawMessage(`{"n_vocab":3}`)},
		[]*huffman.Table{small, table})
	require.NoError(t, err)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, st.Size(), size)
	return c, levels
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.ellm")
	want, levels := writeSample(t, path)
	r, err := Open(path)
	require.NoError(t, err)
	defer r.Close()
	require.Equal(t, "sample", r.Meta().Scheme)
	tok, err := r.Section(KindTokenizer)
	require.NoError(t, err)
	require.Equal(t, "vocabulary vocabulary vocabulary vocabulary vocabulary", string(tok))
	none, err := r.Section(KindGGUF)
	require.NoError(t, err)
	require.Nil(t, none)

	got, ok := r.Tensor("blk.0.attn_q.weight")
	require.True(t, ok)
	require.NoError(t, r.Verify(got))
	require.Equal(t, want, got.Coded)
	r.Release(got)

	// Any chunk decodes alone.
	c := got.Coded
	stride := c.Steps() * StepCols
	for g := range c.Groups() {
		for k := range c.Tiles() {
			i := g*c.Tiles() + k
			tab := r.Tables()[c.ChunkTable[i]]
			dst := make([]uint8, c.GroupRows(g)*stride)
			require.NoError(t, huffman.DecodeChunk(tab.Lookup(), tab.MaxLen, c.Stream[c.ChunkOffset[i]:c.ChunkOffset[i+1]],
				int(c.MainWords[i]), c.LaneTail[32*i:], c.TileSteps(k), c.GroupRows(g), dst, stride))
			for row := range c.GroupRows(g) {
				from := (g*c.Coding.RowsPerGroup+row)*stride + k*c.StepsPerTile()*StepCols
				require.Equal(t, levels[from:from+c.TileSteps(k)*StepCols], dst[row*stride:][:c.TileSteps(k)*StepCols])
			}
		}
	}
	raw, ok := r.Tensor("output_norm.weight")
	require.True(t, ok)
	require.NoError(t, r.Verify(raw))
	require.Equal(t, F32, raw.Raw.DType)
}

// TestGolden pins the file format: version 3 files must stay readable and writing must stay reproducible.
func TestGolden(t *testing.T) {
	golden := filepath.Join("testdata", "sample-v3.ellm")
	path := filepath.Join(t.TempDir(), "a.ellm")
	writeSample(t, path)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, b, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	require.Equal(t, sum(want), sum(b), "the bytes written for the same model changed: raise Version or restore the layout")
	r, err := Open(golden)
	require.NoError(t, err)
	defer r.Close()
	for _, x := range r.Tensors() {
		require.NoError(t, r.Verify(x))
	}
}

// openAll opens a file and verifies everything in it.
func openAll(path string) error {
	r, err := Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Section(KindTokenizer); err != nil {
		return err
	}
	for _, t := range r.Tensors() {
		if err := r.Verify(t); err != nil {
			return err
		}
	}
	return nil
}

func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.ellm")
	writeSample(t, path)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	bad := filepath.Join(dir, "bad.ellm")
	open := func(b []byte) error {
		require.NoError(t, os.WriteFile(bad, b, 0o644))
		return openAll(bad)
	}
	require.NoError(t, open(good))
	require.ErrorIs(t, openAll(dir), ErrNotEllm)
	require.ErrorIs(t, open(nil), ErrNotEllm)
	require.ErrorIs(t, open([]byte("GGUF....................................................................")), ErrNotEllm)
	for n := 1; n < len(good); n += 97 {
		require.Error(t, open(good[:n]), "truncated to %d", n)
	}
	require.ErrorContains(t, open(append(append([]byte{}, good...), 0)), "bytes, expected")

	for _, v := range []byte{1, Version - 1, Version + 1} {
		other := append([]byte{}, good...)
		other[8] = v
		require.ErrorContains(t, open(other), fmt.Sprintf("container version %d, this program reads version %d (compress the model "+
			"again from its source", v, Version))
	}

	// Flipped bits: everywhere but in the padding between sections.
	r, err := Open(path)
	require.NoError(t, err)
	covered := func(i int) bool {
		if i < headerSize || i >= int(binary.LittleEndian.Uint64(good[16:])) {
			return true
		}
		for _, s := range r.sections {
			if uint64(i) >= s.offset && uint64(i) < s.offset+s.length {
				return true
			}
		}
		return false
	}
	for i := 0; i < len(good); i += 13 {
		if covered(i) {
			b := append([]byte{}, good...)
			b[i] ^= 1 << (i % 8)
			require.Error(t, open(b), "bit flipped at %d", i)
		}
	}
	r.Close()
}

// TestHostileIndex rewrites the index with valid checksums: sizes that lie must be refused, not followed.
func TestHostileIndex(t *testing.T) {
	c, table, _ := sampleCoded(rand.New(rand.NewPCG(11, 12)), 0)
	for name, spoil := range map[string]func(*Coded, *indexEntry){
		"rows":        func(_ *Coded, e *indexEntry) { e.Rows = 1 << 40 },
		"cols":        func(_ *Coded, e *indexEntry) { e.Cols = -1 },
		"group":       func(_ *Coded, e *indexEntry) { e.Coding.RowsPerGroup = 0 },
		"levels":      func(_ *Coded, e *indexEntry) { e.Coding.Levels = 33 },
		"table":       func(c *Coded, _ *indexEntry) { c.ChunkTable[1] = 9 },
		"low":         func(_ *Coded, e *indexEntry) { e.Coding.LowBits = 12 },
		"block":       func(_ *Coded, e *indexEntry) { e.Scale.Kind, e.Scale.Block = ScaleBlock, 0 },
		"scale":       func(_ *Coded, e *indexEntry) { e.Scale.Kind = "cubic" },
		"tails":       func(_ *Coded, e *indexEntry) { e.Parts["lane_tail"] = e.Parts["low"] },
		"no tails":    func(_ *Coded, e *indexEntry) { delete(e.Parts, "lane_tail") },
		"order":       func(_ *Coded, e *indexEntry) { e.Parts["row_order"] = [2]int64{0, 24} },
		"no order":    func(_ *Coded, e *indexEntry) { e.Parts["row_order"] = [2]int64{0, 0} },
		"outliers":    func(_ *Coded, e *indexEntry) { e.Parts["outliers"] = e.Parts["stream"] },
		"no outliers": func(_ *Coded, e *indexEntry) { e.Parts["outliers"] = [2]int64{64, 0} },
		"part":        func(_ *Coded, e *indexEntry) { e.Parts["stream"] = [2]int64{0, 1 << 60} },
		"negative":    func(_ *Coded, e *indexEntry) { e.Parts["stream"] = [2]int64{-64, 64} },
		"missing":     func(_ *Coded, e *indexEntry) { delete(e.Parts, "main_words") },
		"section":     func(_ *Coded, e *indexEntry) { e.Section = 99 },
		"kind":        func(_ *Coded, e *indexEntry) { e.Kind = "cooked" },
	} {
		t.Run(name, func(t *testing.T) {
			cc := *c
			cc.ChunkTable = append([]uint8{}, c.ChunkTable...)
			spoil(&cc, &indexEntry{Coding: &Coding{}, Scale: &Scale{}, Parts: map[string][2]int64{}})
			path := filepath.Join(t.TempDir(), "h.ellm")
			w, err := Create(path)
			require.NoError(t, err)
			defer w.Abort()
			require.NoError(t, w.Coded("x", &cc))
			spoil(&Coded{ChunkTable: make([]uint8, 9)}, &w.index.Tensors[0])
			_, err = w.Finish(&Meta{}, []*huffman.Table{table})
			require.NoError(t, err)
			var corrupt *CorruptError
			require.ErrorAs(t, openAll(path), &corrupt)
		})
	}
}

func TestAbortLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.ellm")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
	w, err := Create(path)
	require.NoError(t, err)
	require.NoError(t, w.Section("TEST", make([]byte, 1000), true))
	w.Abort()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	_, err = Create(filepath.Join(dir, "no", "such", "dir", "a.ellm"))
	require.Error(t, err)
}

func TestOutlierPacking(t *testing.T) {
	for _, o := range []Outlier{{0, 0, 0}, {127, MaxCols - 1, -128}, {5, 4095, 127}} {
		require.Equal(t, o, UnpackOutlier(PackOutlier(o)))
	}
}

// FuzzOpen mutates a small container and makes all its checksums right again, so that mutations get past them; whatever comes
// out, opening and verifying it must not panic, hang or take much memory.
func FuzzOpen(f *testing.F) {
	f.Add(minimal().bytes(nil))
	path := filepath.Join(f.TempDir(), "s.ellm")
	c := minimal()
	c.data[3] = []byte(`{"tensors":[]}`)
	c.data, c.sections = append(c.data[:2], c.data[3]), append(c.sections[:2], c.sections[3])
	f.Add(c.bytes(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, resealed(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if openAll(path) == nil {
			r, err := Open(path)
			require.NoError(t, err)
			_ = r.VerifySections()
			require.NoError(t, r.Close())
		}
	})
}

// resealed returns b with right checksums and size, as far as its layout can be followed.
func resealed(b []byte) []byte {
	b = append([]byte{}, b...)
	if len(b) < headerSize {
		return b
	}
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], Version)
	le.PutUint64(b[24:], uint64(len(b)))
	at, n := le.Uint64(b[16:]), uint64(le.Uint32(b[12:]))
	if n <= maxSections && at <= uint64(len(b)) && n*recordSize <= uint64(len(b))-at {
		for i := range n {
			r := b[at+i*recordSize:]
			if s := decodeSection(r); s.offset <= uint64(len(b)) && s.length <= uint64(len(b))-s.offset {
				le.PutUint32(r[32:], castagnoli(b[s.offset:s.offset+s.length]))
			}
		}
		le.PutUint32(b[32:], castagnoli(b[at:at+n*recordSize]))
	}
	le.PutUint32(b[60:], castagnoli(b[:60]))
	return b
}
