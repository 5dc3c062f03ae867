package format

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

func TestBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type code struct {
		v    uint64
		k    uint
		kind int
	}
	var w bitWriter
	var all []code
	for range 5000 {
		c := code{rng.Uint64() >> 40, uint(rng.IntN(27)), rng.IntN(3)}
		if c.kind == 1 && c.k < 14 {
			c.v %= 1 << 13
		}
		switch c.kind {
		case 0:
			c.v &= 1<<c.k - 1
			w.put(c.v, c.k)
		case 1:
			w.rice(c.v, c.k)
		case 2:
			c.v++
			w.gamma(c.v)
		}
		all = append(all, c)
	}
	r := bitReader{b: w.bytes()}
	for i, c := range all {
		var got uint64
		switch c.kind {
		case 0:
			got = r.get(c.k)
		case 1:
			got = r.rice(c.k)
		case 2:
			n := r.unary()
			got = 1<<n | r.get(n)
		}
		require.Equal(t, c.v, got, i)
	}
	require.Less(t, r.left(), 8)
	require.GreaterOrEqual(t, r.left(), 0)
	r.rice(3)
	require.Negative(t, r.left(), "after the end")
}

func TestRowOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, rows := range []int{1, 2, 3, 7, 8, 9, 500, 4096} {
		reversed, sorted := make([]uint32, rows), make([]uint32, rows)
		var classes, any []uint32
		for i := range rows {
			sorted[i], reversed[rows-1-i] = uint32(i), uint32(i)
		}
		for _, r := range rng.Perm(rows) {
			any = append(any, uint32(r))
		}
		for class := range 5 {
			for i := range rows {
				if i*i%5 == class {
					classes = append(classes, uint32(i))
				}
			}
		}
		for _, order := range [][]uint32{sorted, reversed, any, classes} {
			b := packOrder(order)
			got, err := unpackOrder(b, rows, unlimited)
			require.NoError(t, err)
			require.Equal(t, order, got)
			if rows > 8 && &order[0] == &classes[0] {
				require.Len(t, b, 1+(2*rows+7)/8, "three of the classes are not empty")
			}
			_, err = unpackOrder(b[:len(b)-1], rows, unlimited)
			require.Error(t, err)
			_, err = unpackOrder(append(slices.Clone(b), 0), rows, unlimited)
			require.Error(t, err)
		}
	}
	_, err := unpackOrder([]byte{1, 0xf0}, 4, unlimited)
	require.ErrorContains(t, err, "are left")
	_, err = unpackOrder([]byte{3, 0, 0}, 4, unlimited)
	require.ErrorContains(t, err, "expected 1 to 2")
}

// sparse is a matrix without codes that has the given outliers: stored row, column, δ.
func sparse(rows, cols, perGroup int, all ...Outlier) *Coded {
	c := &Coded{Rows: rows, Cols: cols, Coding: Coding{RowsPerGroup: perGroup}, OutlierStart: []uint32{0}}
	slices.SortStableFunc(all, func(a, b Outlier) int { return (a.Row-b.Row)*MaxCols + a.Col - b.Col })
	for g := range c.Groups() {
		for _, o := range all {
			if o.Row/perGroup == g {
				c.Outliers = append(c.Outliers, PackOutlier(Outlier{o.Row % perGroup, o.Col, o.Delta}))
			}
		}
		c.OutlierStart = append(c.OutlierStart, uint32(len(c.Outliers)))
	}
	return c
}

func requireSameOutliers(t *testing.T, c *Coded) []byte {
	t.Helper()
	require.NoError(t, c.checkOutliers())
	b := c.packOutliers()
	got := &Coded{Rows: c.Rows, Cols: c.Cols, Coding: c.Coding}
	require.NoError(t, got.unpackOutliers(b, unlimited))
	require.Equal(t, c.Outliers, got.Outliers)
	require.Equal(t, c.OutlierStart, got.OutlierStart)
	require.NoError(t, got.checkOutliers())
	return b
}

func TestOutliers(t *testing.T) {
	for name, c := range map[string]*Coded{
		"one":      sparse(1, 1, 1, Outlier{0, 0, 1}),
		"extremes": sparse(5, 7, 2, Outlier{0, 0, -128}, Outlier{4, 6, 127}, Outlier{4, 5, -1}, Outlier{3, 6, 1}),
		"same weight": sparse(9, 3, 4, Outlier{8, 2, 127}, Outlier{8, 2, 127}, Outlier{8, 2, 46}, Outlier{3, 0, -128},
			Outlier{3, 0, -128}),
		"last column": sparse(300, MaxCols, 128, Outlier{299, MaxCols - 1, -3}, Outlier{0, MaxCols - 1, 3}),
		"last row":    sparse(1<<20, 3, 7, Outlier{1<<20 - 1, 2, 5}, Outlier{1<<20 - 1, 0, 5}),
		"far to go": sparse(1<<20, 1, 128, Outlier{1<<20 - 1, 0, 5}, Outlier{1<<20 - 1, 0, 5}, Outlier{1<<20 - 1, 0, 5},
			Outlier{1<<20 - 1, 0, 5}),
		"empty groups": sparse(100, 64, 1, Outlier{50, 1, 1}, Outlier{50, 2, 1}),
	} {
		t.Run(name, func(t *testing.T) { requireSameOutliers(t, c) })
	}
	none := sparse(3, 3, 1)
	require.Empty(t, none.packOutliers())
	require.NoError(t, none.unpackOutliers([]byte{0, 7}, unlimited))
	require.Empty(t, none.Outliers)

	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		rows, cols := 1+rng.IntN(400), 1+rng.IntN(300)
		var all []Outlier
		for range rng.IntN(rows * cols) {
			if d := rng.IntN(256>>rng.IntN(8)) - rng.IntN(128); d != 0 && d < 128 {
				all = append(all, Outlier{rng.IntN(rows), rng.IntN(cols) * rng.IntN(cols) / cols, d})
			}
		}
		if len(all) > 0 {
			requireSameOutliers(t, sparse(rows, cols, 1+rng.IntN(MaxRowsPerGroup), all...))
		}
	}
}

// Outliers gather in some columns, whose own density their places are coded for.
func TestOutlierSize(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const rows, cols = 4096, 1024
	var all []Outlier
	for row := range rows {
		for col := range cols {
			p := 2e-4
			if col%100 == 0 {
				p = 0.05
			}
			if rng.Float64() < p {
				all = append(all, Outlier{row, col, (1 + rng.IntN(16)) * (2*rng.IntN(2) - 1)})
			}
		}
	}
	bits := 8 * float64(len(requireSameOutliers(t, sparse(rows, cols, 30, all...)))) / float64(len(all))
	t.Logf("%.2f bits for each of %d", bits, len(all))
	require.Less(t, bits, 14.0) // entropies: 6.9 of the place, 5 of the difference
}

func TestTails(t *testing.T) {
	c, _, _ := sampleCoded(rand.New(rand.NewPCG(11, 12)), 0)
	b := c.packTails()
	require.Less(t, len(b), len(c.LaneTail)/2)
	expand := func(b []byte, change func(*Coded)) (*Coded, error) {
		got := *c
		got.MainWords = slices.Clone(c.MainWords)
		got.LaneTail, got.ChunkOffset = nil, nil
		change(&got)
		return &got, got.unpackTails(b, unlimited)
	}
	same := func(*Coded) {}
	got, err := expand(b, same)
	require.NoError(t, err)
	require.Equal(t, c, got)
	for n := range b {
		_, err := expand(b[:n], same)
		require.Error(t, err, "%d bytes", n)
	}
	_, err = expand(append(slices.Clone(b), 0), same)
	require.ErrorContains(t, err, "are left")
	_, err = expand(append([]byte{9}, b[1:]...), same)
	require.ErrorContains(t, err, "at most 8")
	_, err = expand(b, func(c *Coded) { c.MainWords[2]++ })
	require.ErrorContains(t, err, "words")
	_, err = expand(b, func(c *Coded) { c.MainWords[1] = 1 << 15 })
	require.ErrorContains(t, err, "but chunk 1 ends at")
	_, err = expand(b, func(c *Coded) { c.Stream = c.Stream[:len(c.Stream)-1] })
	require.ErrorContains(t, err, "words")

	for _, all := range [][]uint8{{}, {255}, {0, 0, 0, 0, 0, 0, 0, 0, 1}} {
		for i := range c.LaneTail {
			c.LaneTail[i] = 0
		}
		copy(c.LaneTail, all)
		r := bitReader{b: c.packTails()}
		k := uint(r.get(8))
		for i, want := range c.LaneTail {
			require.Equal(t, uint64(want), r.rice(k), i)
		}
		require.NoError(t, r.end("x"))
	}
}

func TestWriterRefusesWrongParts(t *testing.T) {
	good, _, _ := sampleCoded(rand.New(rand.NewPCG(11, 12)), 0)
	for name, spoil := range map[string]func(*Coded){
		"outside the matrix":      func(c *Coded) { c.Outliers[0] = PackOutlier(Outlier{3, MaxCols - 1, 1}) },
		"or nothing":              func(c *Coded) { c.Outliers[0] = PackOutlier(Outlier{0, 7, 0}) },
		"in front of":             func(c *Coded) { c.Outliers[0], c.Outliers[1] = c.Outliers[1], c.Outliers[0] },
		"outlier_start[1] is 77":  func(c *Coded) { c.OutlierStart[1] = 77 },
		"does not lead from 0":    func(c *Coded) { c.OutlierStart[3] = 2 },
		"not a permutation of 37": func(c *Coded) { c.RowOrder[3] = c.RowOrder[4] },
		"is 1073741824":           func(c *Coded) { c.RowOrder[3] = 1 << 30 },
		"row order of 9 rows":     func(c *Coded) { c.RowOrder = c.RowOrder[:9] },
		"chunk_offset[1] is":      func(c *Coded) { c.ChunkOffset[1] += 8 },
		"but chunk 2 ends at":     func(c *Coded) { c.MainWords[2] += 100 },
		"stream of":               func(c *Coded) { c.LaneTail[5] += 200 },
		"lane_tail":               func(c *Coded) { c.LaneTail = c.LaneTail[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			c := *good
			c.RowOrder, c.Outliers, c.OutlierStart = slices.Clone(c.RowOrder), slices.Clone(c.Outliers), slices.Clone(c.OutlierStart)
			c.ChunkOffset, c.MainWords, c.LaneTail = slices.Clone(c.ChunkOffset), slices.Clone(c.MainWords), slices.Clone(c.LaneTail)
			spoil(&c)
			w, err := Create(filepath.Join(t.TempDir(), "x.ellm"))
			require.NoError(t, err)
			defer w.Abort()
			require.ErrorContains(t, w.Coded("blk.0.x", &c), name)
		})
	}
}

// Damaged parts are refused when a file is opened, and errors say where they are.
func TestDamagedOutliers(t *testing.T) {
	c, table, _ := sampleCoded(rand.New(rand.NewPCG(11, 12)), 0)
	b := c.packOutliers()
	got := &Coded{Rows: c.Rows, Cols: c.Cols, Coding: c.Coding}
	require.ErrorContains(t, got.unpackOutliers(nil, unlimited), "cut off")
	require.ErrorContains(t, got.unpackOutliers([]byte{9, 255}, unlimited), "at most 8")
	for n := 1; n < len(b); n++ {
		require.Error(t, got.unpackOutliers(b[:n], unlimited), "%d bytes", n)
	}
	require.ErrorContains(t, got.unpackOutliers(append(slices.Clone(b), 0), unlimited), "are left")
	require.Nil(t, got.Outliers)

	path := filepath.Join(t.TempDir(), "a.ellm")
	w, err := Create(path)
	require.NoError(t, err)
	defer w.Abort()
	require.NoError(t, w.Coded("blk.0.x", c))
	at := w.index.Tensors[0].Parts["outliers"]
	w.index.Tensors[0].Parts["outliers"] = [2]int64{at[0], at[1] - 1}
	_, err = w.Finish(&Meta{}, []*huffman.Table{table})
	require.NoError(t, err)
	_, err = Open(path)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "TNSR blk.0.x at offset")
	require.ErrorContains(t, err, "outliers: ")
}

// FuzzExpand expands arbitrary bytes: nothing worse than an error may happen, and what is accepted is a right list.
func FuzzExpand(f *testing.F) {
	c := sparse(9, 3, 4, Outlier{8, 2, 127}, Outlier{8, 2, 127}, Outlier{3, 0, -128})
	f.Add(uint16(9), uint16(3), uint8(4), c.packOutliers())
	f.Add(uint16(60000), uint16(1), uint8(1), []byte{0, 0, 0, 0, 0, 255, 255, 255, 255})
	f.Add(uint16(9), uint16(3), uint8(4), append([]byte{2}, make([]byte, 60)...))
	lanes, _, _ := sampleCoded(rand.New(rand.NewPCG(11, 12)), 0)
	f.Fuzz(func(t *testing.T, rows, cols uint16, perGroup uint8, b []byte) {
		l := *lanes
		l.MainWords = []uint16{rows % 128, cols % 128, 0, 1, 2, uint16(perGroup)}
		if l.unpackTails(b, unlimited) == nil {
			require.NoError(t, l.checkLanes())
		}
		c := &Coded{Rows: int(rows) + 1, Cols: int(cols) + 1, Coding: Coding{RowsPerGroup: 1 + int(perGroup)%MaxRowsPerGroup}}
		if err := c.unpackOutliers(b, unlimited); err == nil {
			require.NoError(t, c.checkOutliers())
			require.LessOrEqual(t, len(c.Outliers), 8*len(b)/2)
			if len(c.Outliers) > 0 {
				requireSameOutliers(t, c)
			}
		}
		if order, err := unpackOrder(b, c.Rows, unlimited); err == nil {
			require.Len(t, order, c.Rows)
			c.RowOrder = order
			require.NoError(t, c.checkOrder())
		}
	})
}

// BenchmarkOutliers expands as many outliers as a model of 1.5 G weights has.
func BenchmarkOutliers(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 10))
	var all []Outlier
	for range 100000 {
		all = append(all, Outlier{rng.IntN(60000), rng.IntN(1536) * rng.IntN(1536) / 1536, rng.IntN(20) + 1})
	}
	c := sparse(60000, 1536, 30, all...)
	packed := c.packOutliers()
	for b.Loop() {
		for range 20 {
			if err := c.unpackOutliers(packed, unlimited); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// unlimited allows any size of expanded parts.
func unlimited(int64) error { return nil }
