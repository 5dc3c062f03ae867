package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

var update = flag.Bool("update", false, "write the numbers in docs/weights.md again")

const (
	weightsPage = "../../docs/weights.md"
	drawn       = "blk.0.attn_output.weight"
	width       = 4 // bits of planes and packed words on the page
)

// TestWeightsPage follows 64 columns of a row through all forms, checks each form against the one before, and compares the
// numbers with those in docs/weights.md. "go test ./internal/e2e -run WeightsPage -update" writes the page's numbers again.
func TestWeightsPage(t *testing.T) {
	l := drawRow(t)
	blocks := map[string]string{
		"source": floats(l.source), "q-values": integers(l.q), "levels": l.levels(), "code words": l.codeWords(t),
		"decoded bytes": integers(l.u), "planes": l.planes(t), "corrections": l.corrections(),
		"escapes": l.escapes(t), "quads": l.quads(t), "product": l.product(t),
	}
	b, err := os.ReadFile(weightsPage)
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```text ([a-z -]+)\n.*?```")
	var seen []string
	page := block.ReplaceAllStringFunc(string(b), func(old string) string {
		name := block.FindStringSubmatch(old)[1]
		seen = append(seen, name)
		return "```text " + name + "\n" + strings.TrimRight(blocks[name], "\n") + "\n```"
	})
	assert.Len(t, seen, len(blocks), "blocks of the page: %v", seen)
	if *update {
		require.NoError(t, os.WriteFile(weightsPage, []byte(page), 0o644))
	}
	assert.Equal(t, page, string(b), "the numbers have changed: go test ./internal/e2e -run WeightsPage -update")
}

// life is a stretch of 64 columns, the first step of a row, in all its forms.
type life struct {
	stored, row int
	source      []float32
	q, u        []int32 // q-values; decoded bytes
	coding      format.Coding
	scale       float32
	table       *huffman.Table
	stream      []uint32           // the chunk's words, interleaved by lane
	bit         [huffman.Lanes]int // where the row begins in each lane's bit string
	low         int32              // the range of the planes begins here
}

// drawRow compresses the test model and finds the first row without outliers of which a decoded byte does not fit
// the planes.
func drawRow(t *testing.T) *life {
	in := testmodel.Path(t)
	src, err := source.Open(in)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, src.Close()) })
	out := filepath.Join(t.TempDir(), "x.ellm")
	_, err = convert.Compress(context.Background(), src, out, convert.Options{BPW: 4, Tuning: convert.Tuning{NoColumns: true}}, nil)
	require.NoError(t, err)
	f, err := format.Open(out)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Close()) })
	tensor, ok := f.Tensor(drawn)
	require.True(t, ok)
	c := tensor.Coded
	require.Zero(t, c.Coding.LowBits, "the page draws a matrix without low bits")
	d, err := codec.NewDecoder(c, f.Tables())
	require.NoError(t, err)
	codes, weights, err := d.Group(0, nil, nil)
	require.NoError(t, err)
	original := sourceRows(t, src, c)
	low := bestRange(codes, 1<<width)
	for stored := range c.GroupRows(0) {
		u := codes[stored*c.Cols:][:format.StepCols]
		fits := slices.Min(u) >= low && slices.Max(u) < low+1<<width
		if fits || hasOutliers(c, stored) {
			continue
		}
		l := &life{
			stored: stored, row: c.Row(stored), source: original[c.Row(stored)*c.Cols:][:format.StepCols], u: u,
			coding: c.Coding, table: f.Tables()[c.ChunkTable[0]], stream: c.Stream[:32*int(c.MainWords[0])], low: low,
			scale: c.Scale.Scale * float16.Frombits(c.RowScale[stored]).Float32(),
		}
		for i, k := range u {
			l.q = append(l.q, c.Coding.Zero+k)
			require.Equal(t, l.scale*float32(l.q[i]), weights[stored*c.Cols+i], "column %d", i)
		}
		l.findBits(t, c)
		return l
	}
	t.Fatal("every row fits")
	return nil
}

// findBits decodes chunk 0 with the plain decoder, checks l.u, and adds up the code words of earlier rows in each lane.
func (l *life) findBits(t *testing.T, c *format.Coded) {
	t.Helper()
	steps, stride := c.TileSteps(0), c.TileSteps(0)*format.StepCols
	levels := make([]uint8, c.GroupRows(0)*stride)
	words := c.Stream[c.ChunkOffset[0]:c.ChunkOffset[1]]
	require.NoError(t, huffman.DecodeChunk(l.table.Lookup(), l.table.MaxLen, words, int(c.MainWords[0]), c.LaneTail[:huffman.Lanes],
		steps, c.GroupRows(0), levels, stride))
	for i, u := range l.u {
		require.EqualValues(t, u, levels[l.stored*stride+i], "column %d", i)
	}
	for at := 0; at < l.stored*stride; at += 2 {
		symbol := int(levels[at])*l.table.Levels + int(levels[at+1])
		l.bit[at/2%huffman.Lanes] += int(l.table.Lens[symbol])
	}
}

// hasOutliers reports whether a stored row of group 0 has outliers in its first step.
func hasOutliers(c *format.Coded, stored int) bool {
	return len(c.Outliers) > 0 && slices.ContainsFunc(c.Outliers[:c.OutlierStart[1]], func(e uint32) bool {
		o := format.UnpackOutlier(e)
		return o.Row == stored && o.Col < format.StepCols
	})
}

// sourceRows returns the matrix as the source has it.
func sourceRows(t *testing.T, src source.Model, c *format.Coded) []float32 {
	t.Helper()
	w := make([]float32, c.Rows*c.Cols)
	i := slices.IndexFunc(src.Tensors(), func(i source.TensorInfo) bool { return i.Name == drawn })
	require.NoError(t, src.ReadRows(i, 0, c.Rows, w))
	return w
}

// bestRange returns where the range of n values begins that holds most of the codes.
func bestRange(codes []int32, n int32) (low int32) {
	most := -1
	for from := slices.Min(codes); from <= slices.Max(codes); from++ {
		inside := 0
		for _, k := range codes {
			if k >= from && k < from+n {
				inside++
			}
		}
		if inside > most {
			low, most = from, inside
		}
	}
	return low
}

// levels describes the coding and shows the levels of the first pairs.
func (l *life) levels() string {
	var b strings.Builder
	fmt.Fprintf(&b, "zero %d, %d levels, %d low bits: level = q − zero\n", l.coding.Zero, l.coding.Levels, l.coding.LowBits)
	for lane := range 4 {
		even, odd := l.u[2*lane], l.u[2*lane+1]
		fmt.Fprintf(&b, "lane %d: columns %d, %d: q-values %d, %d: levels %d, %d: symbol %d·%d + %d = %d\n", lane, 2*lane, 2*lane+1,
			l.q[2*lane], l.q[2*lane+1], even, odd, even, l.coding.Levels, odd, even*int32(l.coding.Levels)+odd)
	}
	return b.String()
}

// codeWords shows the code words of the first lanes, and finds all of the row's in the stream.
func (l *life) codeWords(t *testing.T) string {
	codes := l.table.Codes()
	var b strings.Builder
	total := 0
	for lane := range huffman.Lanes {
		symbol := l.u[2*lane]*int32(l.coding.Levels) + l.u[2*lane+1]
		n := l.table.Lens[symbol]
		require.Positive(t, n, "symbol %d", symbol)
		total += int(n)
		if lane < 4 {
			bits := reverse(fmt.Sprintf("%0*b", n, codes[symbol]))
			fmt.Fprintf(&b, "lane %d: symbol %3d has the code word %s (%d bits)\n", lane, symbol, bits, n)
		}
		for i := range int(n) {
			at := l.bit[lane] + i
			require.Less(t, at/32*32+lane, len(l.stream), "the row lies in the interleaved words")
			assert.EqualValues(t, codes[symbol]>>i&1, l.stream[at/32*32+lane]>>(at%32)&1, "lane %d, bit %d", lane, at)
		}
	}
	fmt.Fprintf(&b, "the row's 64 weights take %d bits, %.2f per weight\n", total, float64(total)/format.StepCols)
	return b.String()
}

// planes packs the row as cpu/dot does, and unpacks it again.
func (l *life) planes(t *testing.T) string {
	k := dot.With(isa.Generic)
	codes := make([]byte, format.StepCols)
	for i, u := range l.u {
		codes[i] = byte(min(max(u-l.low, 0), 1<<width-1))
	}
	nibble, bits := make([]byte, dot.NibbleBytes(width)), make([]byte, dot.BitBytes(width))
	k.Pack(width, nibble, bits, codes, 1)
	back := make([]byte, format.StepCols)
	k.Unpack(width, back, nibble, bits, 1)
	assert.Equal(t, codes, back)
	return fmt.Sprintf("range %d … %d, stored number = u − %d, clipped\n%s", l.low, l.low+1<<width-1, l.low, hex(nibble))
}

// corrections lists what the planes lack, column by column.
func (l *life) corrections() string {
	var b strings.Builder
	for col, d := range l.outside() {
		fmt.Fprintf(&b, "column %2d: u = %2d, difference %+3d, entry 0x%04x\n", col, l.u[col], d, dot.PackCorrection(col, int(d)))
	}
	return sorted(b.String())
}

// outside returns the differences of bytes that do not fit the range.
func (l *life) outside() map[int]int32 {
	m := map[int]int32{}
	for i, u := range l.u {
		if d := u - min(max(u, l.low), l.low+1<<width-1); d != 0 {
			m[i] = d
		}
	}
	return m
}

// escapes packs the row as AVX-512 has it, with planes of 3 bits, and unpacks it again.
func (l *life) escapes(t *testing.T) string {
	const bits = 3
	k := dot.With(isa.Generic)
	low := bestRange(l.u, 1<<bits-1)
	codes := make([]byte, format.StepCols)
	for i, u := range l.u {
		codes[i] = byte(u)
	}
	w := dot.Rows{Width: bits, Escaped: true, Count: 1, Steps: 1, Scratch: make([]byte, dot.ScratchBytes(1)),
		NibbleStride: dot.NibbleBytes(bits), BitsStride: dot.BitBytes(bits), StartStride: 1, Start: []uint32{0}}
	w.Nibble, w.Bits = make([]byte, w.NibbleStride), make([]byte, w.BitsStride)
	w.Escape = make([]byte, dot.MaxEscapeBytes(1)+dot.EscapeSlack)
	n := k.PackEscapes(&w, int(low)-dot.RegularCode, w.Nibble, w.Bits, w.Escape, codes)
	w.Most = dot.EscapeCount(w.Escape)
	back := make([]byte, format.StepCols)
	k.UnpackRow(&w, 0, back)
	for i := range back {
		assert.Equal(t, codes[i], byte(int32(back[i])+low-dot.RegularCode), "column %d", i)
	}
	return fmt.Sprintf("planes of 3 bits hold %d … %d; %d escapes in %d bytes\nmain plane  %sthird bit   %sescapes     %s",
		low, low+1<<bits-2, w.Most, n, hex(w.Nibble), hex(w.Bits), hex(w.Escape[:n]))
}

// quads packs the row as cuda/packed.cuh describes it, and unpacks it again.
func (l *life) quads(t *testing.T) string {
	const fields = 16 / width
	var b strings.Builder
	for piece := range 2 {
		var words [width]uint32
		for i := range 16 {
			for half := range 2 {
				u := l.u[32*piece+2*i+half]
				stored := uint32(min(max(u-l.low, 0), 1<<width-1))
				words[i/fields] |= stored << (16*half + i%fields*width)
			}
		}
		for i := range 32 {
			got := words[i/2/fields] >> (16*(i%2) + i/2%fields*width) & (1<<width - 1)
			want := min(max(l.u[32*piece+i]-l.low, 0), 1<<width-1)
			assert.EqualValues(t, want, got, "column %d", 32*piece+i)
		}
		fmt.Fprintf(&b, "packed piece %d: %08x\n", piece, words)
	}
	for col, d := range l.outside() {
		entry := format.PackOutlier(format.Outlier{Row: l.stored % 4, Col: col, Delta: int(d)})
		fmt.Fprintf(&b, "exception entry: row %d of its quad, column %2d, difference %+3d: 0x%08x\n", l.stored%4, col, d, entry)
	}
	return sorted(b.String())
}

// product multiplies the row with a vector in every form.
func (l *life) product(t *testing.T) string {
	x := make([]float32, format.StepCols)
	var exact, rounded, q float64
	for c := range x {
		x[c] = float32(math.Sin(float64(c + 1)))
		exact += float64(l.source[c]) * float64(x[c])
		rounded += float64(l.scale) * float64(l.q[c]) * float64(x[c])
	}
	k := dot.With(isa.Generic)
	v := make([]int8, 2*format.StepCols)
	scale, sum := k.Quantize(v, x)
	codes := make([]byte, format.StepCols)
	for i, u := range l.u {
		codes[i] = byte(u)
		q += float64(u) * float64(256*int(v[i])+int(v[64+i]))
	}
	out := make([]int32, 2)
	k.Dot(out, &dot.Rows{Width: 8, Nibble: codes, NibbleStride: 64, Count: 1, Steps: 1}, v)
	whole := 256*int64(out[0]) + int64(out[1])
	assert.Equal(t, int64(q), whole, "whole numbers")
	result := float64(l.scale) * float64(scale) * float64(whole+int64(l.coding.Zero)*sum)
	assert.InDelta(t, rounded, result, 1e-4*math.Abs(rounded)+1e-6)
	return fmt.Sprintf("Σ w·x of the source                            %9.6f\nΣ scale·q·x                                 "+
		"   %9.6f\n"+
		"activations: x ≈ %.4g · v, Σ v = %d\nΣ u·v, whole numbers                           %d\n"+
		"scale · %.4g · (Σ u·v + zero · Σ v)       %9.6f\n", exact, rounded, scale, sum, whole, scale, result)
}

func floats(v []float32) string {
	return table(v, 8, func(x float32) string { return fmt.Sprintf("%9.5f", x) })
}

func integers(v []int32) string {
	return table(v, 16, func(x int32) string { return fmt.Sprintf("%4d", x) })
}

func hex(v []byte) string { return table(v, 32, func(x byte) string { return fmt.Sprintf("%02x", x) }) }

// table formats n values a line.
func table[T any](v []T, n int, one func(T) string) string {
	var b strings.Builder
	for line := range slices.Chunk(v, n) {
		for i, x := range line {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(one(x))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// sorted sorts lines, which come in the order of a map.
func sorted(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
