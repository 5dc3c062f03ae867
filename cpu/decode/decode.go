// Package decode turns coded chunks (docs/format.md, section 6) into integer codes, as fast as the processor can.
// internal/huffman holds the plain decoder that says what is right; every decoder here gives the same bits.
package decode

import (
	"fmt"
	"slices"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// maxFastLow is the number of low bits of which four pairs fit a word, as the vector decoders take them.
const maxFastLow = 4

// Matrix decodes the chunks of one matrix. It is safe for concurrent use.
type Matrix struct {
	c   *format.Coded
	isa isa.ISA
	lut [][]uint32 // per table of the pool; nil where this matrix does not use it
	// Base is added to a byte code to give the integer code q (without outliers): q = Base + u.
	Base  int
	wide  bool
	split bool
	lanes *sync.Pool
}

// splitBits is the most low bits that Low unpacks.
const splitBits = 8

// splits reports whether c's low bits are decoded separately: level and low bits together exceed a byte, or vector decoders do
// not take them.
func splits(c *format.Coded) bool {
	k := &c.Coding
	return k.Float == format.NotFloat && k.Values == nil && c.Scale.Kind != format.ScaleBlock && k.LowBits <= splitBits &&
		(k.Levels<<k.LowBits > 256 || k.LowBits > maxFastLow)
}

// Tables are the code tables of a model, and what its matrices make of them: matrices with equally many low bits share decoding
// tables, which are as large as a third of a processor's first-level cache.
type Tables struct {
	pool    []*huffman.Table
	lookups map[lookupKey][]uint32
	scratch sync.Pool // of *lanes
}

// lanes is memory for the words of a chunk's lanes, each lane's in one piece.
type lanes struct {
	words  []uint32
	stride int // words from one lane to the next
}

type lookupKey struct {
	table, low int
}

// NewTables is for New.
func NewTables(pool []*huffman.Table) *Tables {
	return &Tables{pool: pool, lookups: map[lookupKey][]uint32{}, scratch: sync.Pool{New: func() any { return new(lanes) }}}
}

// Bytes returns the memory of the decoding tables made so far.
func (t *Tables) Bytes() (n int64) {
	for _, lut := range t.lookups {
		n += 4 * int64(len(lut))
	}
	return n
}

// New prepares the decoding of c, whose indexes Reader.Verify has checked. It may change tables.
func New(c *format.Coded, tables *Tables, i isa.ISA) (*Matrix, error) {
	m := &Matrix{c: c, isa: i, lut: make([][]uint32, len(tables.pool)), Base: int(c.Coding.Zero), lanes: &tables.scratch}
	m.split = splits(c)
	low := c.Coding.LowBits
	if m.split {
		low = 0
	}
	m.wide = c.Coding.Levels<<low > 256
	if low > maxFastLow || m.wide {
		m.isa = isa.Generic
	}
	if v := c.Coding.Values; v != nil {
		lo, hi := slices.Min(v), slices.Max(v)
		if int(hi)-int(lo) > 255 {
			return nil, fmt.Errorf("values from %d to %d do not fit a byte", lo, hi)
		}
		m.Base = int(lo)
	}
	for _, t := range c.ChunkTable {
		if int(t) >= len(tables.pool) {
			return nil, fmt.Errorf("a chunk refers to code table %d of %d", t, len(tables.pool))
		}
		if m.lut[t] == nil {
			m.lut[t] = m.lookup(tables, int(t), low)
		}
	}
	return m, nil
}

// lookup returns the decoding table of code table t, for codes with `low` low bits.
func (m *Matrix) lookup(tables *Tables, t, low int) []uint32 {
	values := m.c.Coding.Values
	if m.wide {
		low = 0 // low bits follow later
	}
	key := lookupKey{t, low}
	if lut := tables.lookups[key]; lut != nil && values == nil {
		return lut
	}
	value := func(a uint32) uint32 { return a << low }
	if values != nil {
		value = func(a uint32) uint32 { return uint32(int(values[a]) - m.Base) }
	}
	lut := tables.pool[t].Lookup()
	for i, e := range lut {
		lut[i] = (value(e&0xff)|value(e>>8&0xff)<<8)<<16 | e>>16
	}
	if values == nil {
		tables.lookups[key] = lut
	}
	return lut
}

// Wide says that codes do not fit a byte: use ChunkWide.
func (m *Matrix) Wide() bool { return m.wide }

// Split says that Chunk gives levels alone, and Low what belongs below them: q = Base + (level << LowBits | low).
func (m *Matrix) Split() bool { return m.split }

// chunk is one chunk's input.
type chunk struct {
	words     []uint32 // from its first word to the end of the stream, which has guard words
	length    int      // of the chunk, in words
	mainWords int
	tail      []uint8
	lut       []uint32
	low       []uint32
	lowBits   int
	steps     int
	rows      int
	scratch   *sync.Pool
}

// chunk describes tile k of group g, with its low bits.
func (m *Matrix) chunk(g, k int) chunk {
	c := m.c
	i := g*c.Tiles() + k
	ch := chunk{
		words: c.Stream[c.ChunkOffset[i]:], length: int(c.ChunkOffset[i+1] - c.ChunkOffset[i]), mainWords: int(c.MainWords[i]),
		tail: c.LaneTail[huffman.Lanes*i:][:huffman.Lanes],
		lut:  m.lut[c.ChunkTable[i]], lowBits: c.Coding.LowBits, steps: c.TileSteps(k), rows: c.GroupRows(g), scratch: m.lanes,
	}
	if ch.lowBits > 0 {
		ch.low = c.Low[c.LowOffset(g, k):]
	}
	return ch
}

// Chunk decodes tile k of group g to one byte per weight: row r of the group stands at dst[r*stride:], steps·64 bytes. Outliers
// are left out.
func (m *Matrix) Chunk(g, k int, dst []byte, stride int) {
	ch := m.chunk(g, k)
	if m.split {
		ch.lowBits = 0
	}
	dst = dst[:(ch.rows-1)*stride+ch.steps*format.StepCols]
	switch m.isa {
	case isa.AVX512:
		decodeAVX512(&ch, dst, stride)
	case isa.AVX2:
		decodeAVX2(&ch, dst, stride)
	default:
		decodeGeneric(&ch, dst, stride)
	}
}

// Low unpacks the low bits of tile k of group g to one byte per weight, in the order of Chunk.
func (m *Matrix) Low(g, k int, dst []byte, stride int) {
	ch := m.chunk(g, k)
	dst = dst[:(ch.rows-1)*stride+ch.steps*format.StepCols]
	switch m.isa {
	case isa.AVX512:
		lowAVX512(&ch, dst, stride)
	case isa.AVX2:
		lowAVX2(&ch, dst, stride)
	default:
		lowGeneric(&ch, dst, stride)
	}
}

// Group decodes all tiles of group g: row r stands at dst[r*stride:].
func (m *Matrix) Group(g int, dst []byte, stride int) {
	for k := range m.c.Tiles() {
		m.Chunk(g, k, dst[k*m.c.StepsPerTile()*format.StepCols:], stride)
	}
}

// ChunkWide decodes tile k of group g to (level << low bits | low) in 16 bits, strides counted in values. Outliers are left out.
func (m *Matrix) ChunkWide(g, k int, dst []uint16, stride int) {
	ch := m.chunk(g, k)
	decodeWide(&ch, dst, stride)
}

// GroupWide is Group for wide codes.
func (m *Matrix) GroupWide(g int, dst []uint16, stride int) {
	for k := range m.c.Tiles() {
		m.ChunkWide(g, k, dst[k*m.c.StepsPerTile()*format.StepCols:], stride)
	}
}
