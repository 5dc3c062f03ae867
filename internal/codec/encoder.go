package codec

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// chunkAlign is the multiple of words at which chunks start.
const chunkAlign = 8

// Encoder assembles one coded matrix from groups of rows. Group may be called from several goroutines.
type Encoder struct {
	pool   *Pool
	c      *format.Coded
	groups []codedGroup
}

// codedGroup is a group's contribution, kept until all are there.
type codedGroup struct {
	stream   []uint32 // its chunks, one after the other, aligned
	ends     []int    // per tile: words of stream up to its end
	outliers []uint32
}

// NewEncoder prepares a matrix of rows × cols. A RowsPerGroup of 0 is chosen for 3 bits per weight. order maps stored positions
// to rows, or is nil.
func NewEncoder(pool *Pool, rows, cols int, coding format.Coding, scale format.Scale, order []uint32) (*Encoder, error) {
	if rows < 1 || rows > format.MaxRows || cols < 1 || cols > format.MaxCols {
		return nil, fmt.Errorf("codec: a matrix of %d × %d exceeds %d × %d", rows, cols, format.MaxRows, format.MaxCols)
	}
	if coding.RowsPerGroup == 0 {
		coding.RowsPerGroup = format.ChooseRowsPerGroup(rows, cols, 3)
	}
	c := &format.Coded{Rows: rows, Cols: cols, Coding: coding, Scale: scale, RowOrder: order}
	if len(pool.coders) > 256 || pool.choose(coding.Levels, nil, 0) < 0 {
		return nil, fmt.Errorf("codec: no table of %d levels among %d", coding.Levels, len(pool.coders))
	}
	c.ChunkTable = make([]uint8, c.Chunks())
	c.MainWords = make([]uint16, c.Chunks())
	c.LaneTail = make([]uint8, huffman.Lanes*c.Chunks())
	if coding.LowBits > 0 {
		c.Low = make([]uint32, c.LowOffset(c.Groups(), 0))
	}
	return &Encoder{pool: pool, c: c, groups: make([]codedGroup, c.Groups())}, nil
}

// Coded returns the matrix under construction: its geometry is final, its scale parts are the caller's to fill.
func (e *Encoder) Coded() *format.Coded { return e.c }

// Group codes group g: GroupRows(g) × Cols codes, rows in stored order.
func (e *Encoder) Group(g int, codes []int32) error {
	c := e.c
	rows, stride := c.GroupRows(g), c.Steps()*format.StepCols
	if len(codes) != rows*c.Cols {
		return fmt.Errorf("codec: group %d has %d codes, expected %d × %d", g, len(codes), rows, c.Cols)
	}
	levels := make([]uint8, rows*stride)
	splitLevels(levels, codes, &c.Coding, c.Cols, stride)
	out, first, col := &e.groups[g], g*c.Tiles(), 0
	coders := make([]*coder, c.Tiles())
	for k := range coders {
		coders[k] = e.chooseTable(first+k, levels, stride, rows)
	}
	tile := c.StepsPerTile() * format.StepCols
	for r := range rows {
		for k, coder := range coders {
			from, to := r*stride+k*tile, r*stride+min((k+1)*tile, stride)
			out.outliers = coder.substitute(out.outliers, levels[from:to],
				codes[r*c.Cols+k*tile:min(r*c.Cols+(k+1)*tile, (r+1)*c.Cols)], r, k*tile, c.Coding.LowBits)
		}
	}
	for k, coder := range coders {
		words, mainWords, tail, err := coder.table.EncodeChunk(out.stream, levels[col:], stride, c.TileSteps(k), rows)
		if err != nil {
			return err
		}
		for len(words)%chunkAlign != 0 {
			words = append(words, 0)
		}
		out.stream, out.ends = words, append(out.ends, len(words))
		c.MainWords[first+k] = uint16(mainWords)
		copy(c.LaneTail[huffman.Lanes*(first+k):], tail[:])
		if c.Coding.LowBits > 0 {
			packLow(c.Low[c.LowOffset(g, k):], codes, c, col, c.TileSteps(k), rows)
		}
		col += c.TileSteps(k) * format.StepCols
	}
	return nil
}

// chooseTable sets the table of a chunk of a group with the given levels: the one that is shortest for it.
func (e *Encoder) chooseTable(chunk int, levels []uint8, stride, rows int) *coder {
	c := e.c
	first := chunk % c.Tiles() * c.StepsPerTile() * format.StepCols
	end := min(first+c.StepsPerTile()*format.StepCols, c.Cols)
	hist := make([]uint32, symbols(c.Coding.Levels))
	for r := range rows {
		countPairs(hist, levels[r*stride+first:r*stride+end], c.Coding.Levels)
	}
	table := e.pool.choose(c.Coding.Levels, hist, costOf(&c.Coding))
	c.ChunkTable[chunk] = uint8(table)
	return e.pool.coders[table]
}

// substitute replaces pairs of a part of a row of levels, from column `first` on, that have no code and appends the outliers that
// restore the true levels.
func (c *coder) substitute(outliers []uint32, levels []uint8, codes []int32, row, first, lowBits int) []uint32 {
	a := c.table.Levels
	for i := 0; i < len(levels); i += 2 {
		x, y := levels[i], levels[i+1]
		pair := c.subst[int(x)*(a+1)+int(y)]
		if pair == uint16(x)<<8|uint16(y) {
			continue
		}
		levels[i], levels[i+1] = uint8(pair>>8), uint8(pair)
		for j := i; j < min(i+2, len(codes)); j++ {
			outliers = appendOutlier(outliers, row, first+j, int(codes[j]>>lowBits)-int(levels[j]))
		}
	}
	return outliers
}

// appendOutlier splits delta into signed bytes.
func appendOutlier(outliers []uint32, row, col, delta int) []uint32 {
	for delta != 0 {
		d := max(-128, min(127, delta))
		outliers = append(outliers, format.PackOutlier(format.Outlier{Row: row, Col: col, Delta: d}))
		delta -= d
	}
	return outliers
}

// packLow writes the low bits of one chunk, which starts at column col, as docs/format.md 6.4 lays them out. dst is zero.
func packLow(dst []uint32, codes []int32, c *format.Coded, col, steps, rows int) {
	s := uint(c.Coding.LowBits)
	mask := int32(1)<<s - 1
	for lane := range huffman.Lanes {
		acc, have, at := uint64(0), uint(0), lane
		for r := range rows {
			row := codes[r*c.Cols : (r+1)*c.Cols]
			for j := range steps {
				i := col + j*format.StepCols + 2*lane
				pair := uint64(0)
				if i < c.Cols {
					pair = uint64(row[i] & mask)
				}
				if i+1 < c.Cols {
					pair |= uint64(row[i+1]&mask) << s
				}
				acc |= pair << have
				if have += 2 * s; have >= 32 {
					dst[at] = uint32(acc)
					at += huffman.Lanes
					acc >>= 32
					have -= 32
				}
			}
		}
		if have > 0 {
			dst[at] = uint32(acc)
		}
	}
}

// Finish returns the coded matrix once every group has been coded.
func (e *Encoder) Finish() (*format.Coded, error) {
	c := e.c
	words, outliers := int64(c.MaxGuardWords()), 0
	for g := range e.groups {
		if len(e.groups[g].ends) != c.Tiles() {
			return nil, fmt.Errorf("codec: group %d was not coded", g)
		}
		words += int64(len(e.groups[g].stream))
		outliers += len(e.groups[g].outliers)
	}
	if words > 1<<32-1 || int64(outliers) > 1<<32-1 {
		return nil, fmt.Errorf("codec: the coded matrix has %d words and %d outliers, at most 2^32 fit", words, outliers)
	}
	c.Stream = make([]uint32, 0, words)
	c.ChunkOffset = make([]uint32, 1, c.Chunks()+1)
	if outliers > 0 {
		c.Outliers = make([]uint32, 0, outliers)
		c.OutlierStart = make([]uint32, 1, c.Groups()+1)
	}
	for g := range e.groups {
		start := len(c.Stream)
		for _, end := range e.groups[g].ends {
			c.ChunkOffset = append(c.ChunkOffset, uint32(start+end))
		}
		c.Stream = append(c.Stream, e.groups[g].stream...)
		if outliers > 0 {
			c.Outliers = append(c.Outliers, e.groups[g].outliers...)
			c.OutlierStart = append(c.OutlierStart, uint32(len(c.Outliers)))
		}
		e.groups[g] = codedGroup{}
	}
	c.Stream = c.Stream[:len(c.Stream)+c.GuardWords()] // zeros
	return c, nil
}
