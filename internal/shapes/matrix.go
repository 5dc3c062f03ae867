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
		for k := from * tiles; k < (from+1)*tiles; k++ {
			out.ChunkTable = append(out.ChunkTable, c.ChunkTable[k]+uint8(firstTable))
			appendChunk(out, c, k, out.GroupRows(g))
		}
		if out.OutlierStart != nil {
			for _, o := range c.Outliers[c.OutlierStart[from]:c.OutlierStart[from+1]] {
				if format.UnpackOutlier(o).Row < out.GroupRows(g) {
					out.Outliers = append(out.Outliers, o)
				}
			}
			out.OutlierStart = append(out.OutlierStart, uint32(len(out.Outliers)))
		}
	}
	out.Stream = make([]uint32, int(out.ChunkOffset[len(out.ChunkOffset)-1])+out.GuardWords())
	if out.Coding.LowBits > 0 {
		out.Low = make([]uint32, out.LowOffset(out.Groups(), 0))
	}
	return out
}

// chunkAlign is what the words of a chunk are padded to a multiple of (docs/format.md).
const chunkAlign = 8

// appendChunk appends the lengths of c's chunk k; where a group has fewer rows, those of as much of it.
func appendChunk(out, c *format.Coded, k, rows int) {
	words, main := int(c.ChunkOffset[k+1]-c.ChunkOffset[k]), c.MainWords[k]
	tails := c.LaneTail[huffman.Lanes*k:][:huffman.Lanes]
	if rows < c.Coding.RowsPerGroup { // all lanes are about as long
		words = words * rows / c.Coding.RowsPerGroup
		main, tails = uint16(words/huffman.Lanes), make([]uint8, huffman.Lanes)
		for i := range words % huffman.Lanes {
			tails[i] = 1
		}
		words = (words + chunkAlign - 1) / chunkAlign * chunkAlign
	}
	out.ChunkOffset = append(out.ChunkOffset, out.ChunkOffset[len(out.ChunkOffset)-1]+uint32(words))
	out.MainWords = append(out.MainWords, main)
	out.LaneTail = append(out.LaneTail, tails...)
}
