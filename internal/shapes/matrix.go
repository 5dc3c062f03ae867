package shapes

import (
	"math"
	"math/rand/v2"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// sampleRows is how many rows of a matrix are made and coded; they are repeated as often as it takes.
const sampleRows = 128

// spread returns the standard deviation of codes, in steps, whose entropy is about `bits`, from that of a continuous normal
// distribution.
func spread(bits float64) float64 { return math.Exp2(bits) / math.Sqrt(2*math.Pi*math.E) }

// matrix returns the codes of a matrix of normal weights with a scale per row, and their tables, the first of which has the index
// firstTable in the file.
func matrix(rows, cols int, sigma float64, firstTable int) (*format.Coded, []*huffman.Table, error) {
	rng := rand.New(rand.NewPCG(uint64(rows), uint64(cols)))
	m := codec.Matrix{Rows: sampleRows, Cols: cols, Codes: make([]int32, sampleRows*cols),
		Scale: format.Scale{Kind: format.ScaleRow, Scale: 1}}
	for i := range m.Codes {
		m.Codes[i] = int32(math.Round(sigma * rng.NormFloat64()))
	}
	m.Coding, _, _ = codec.Choose(m.Codes, cols, codec.Candidates(m.Codes), false)
	for i := range m.Codes {
		m.Codes[i] -= codec.Base(&m.Coding)
	}
	m.RowScale = make([]uint16, sampleRows)
	sample, tables, err := codec.EncodeMatrix(&m)
	if err != nil {
		return nil, nil, err
	}
	return repeat(sample, rows, firstTable), tables, nil
}

// repeat returns a matrix of any number of rows whose groups are those of c in turn. The streams are zeros of the right lengths.
func repeat(c *format.Coded, rows, firstTable int) *format.Coded {
	out := &format.Coded{Rows: rows, Cols: c.Cols, Coding: c.Coding, Scale: c.Scale, RowScale: make([]uint16, rows),
		ChunkOffset: []uint32{0}}
	if len(c.Outliers) > 0 {
		out.OutlierStart = []uint32{0}
	}
	whole, tiles := c.Rows/c.Coding.RowsPerGroup, c.Tiles()
	for g := range out.Groups() {
		from := g % whole
		first, last := from*tiles, (from+1)*tiles
		for k := first; k < last; k++ {
			out.ChunkTable = append(out.ChunkTable, c.ChunkTable[k]+uint8(firstTable))
			words := int(c.ChunkOffset[k+1]-c.ChunkOffset[k]) * out.GroupRows(g) / c.Coding.RowsPerGroup // the last group may be lower
			out.ChunkOffset = append(out.ChunkOffset, out.ChunkOffset[len(out.ChunkOffset)-1]+uint32(words))
		}
		out.MainWords = append(out.MainWords, c.MainWords[first:last]...)
		out.LaneTail = append(out.LaneTail, c.LaneTail[huffman.Lanes*first:huffman.Lanes*last]...)
		if out.OutlierStart != nil {
			out.Outliers = append(out.Outliers, c.Outliers[c.OutlierStart[from]:c.OutlierStart[from+1]]...)
			out.OutlierStart = append(out.OutlierStart, uint32(len(out.Outliers)))
		}
	}
	out.Stream = make([]uint32, int(out.ChunkOffset[len(out.ChunkOffset)-1])+out.GuardWords())
	if out.Coding.LowBits > 0 {
		out.Low = make([]uint32, out.LowOffset(out.Groups(), 0))
	}
	return out
}
