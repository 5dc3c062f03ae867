package format

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Limits of the format; readers refuse what exceeds them before allocating.
const (
	MaxCols         = 1 << 17
	MaxRows         = 1 << 26
	MaxRowsPerGroup = 128
	MaxTileSteps    = 32
	MaxLowBits      = 11
	StepCols        = 2 * huffman.Lanes // columns of one step: a pair per lane
)

// DType is the element type of a raw tensor.
type DType string

const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// Size returns the bytes per element, or 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F32:
		return 4
	case F16, BF16:
		return 2
	}
	return 0
}

// FloatKind says that codes are floating-point numbers split into exponent (level) and the rest (low bits).
type FloatKind string

const (
	NotFloat  FloatKind = ""
	FloatBF16 FloatKind = "bf16"
	FloatF16  FloatKind = "f16"
)

// Coding tells how levels and low bits form integer codes (docs/format.md, 6.2).
type Coding struct {
	RowsPerGroup int       `json:"rows_per_group"`
	Levels       int       `json:"levels"`
	LowBits      int       `json:"low_bits"`
	Zero         int32     `json:"zero"`
	Values       []int16   `json:"values,omitempty"`
	Float        FloatKind `json:"float,omitempty"`
}

// ScaleKind tells how codes become weights (docs/format.md, 6.6).
type ScaleKind string

const (
	ScaleTensor ScaleKind = "tensor"
	ScaleRow    ScaleKind = "row"
	ScaleBlock  ScaleKind = "block"
	ScaleNone   ScaleKind = "none"
)

// Scale holds the parameters of ScaleKind.
type Scale struct {
	Kind    ScaleKind `json:"kind"`
	Scale   float32   `json:"scale,omitempty"`
	Min     float32   `json:"min,omitempty"`
	Block   int       `json:"block,omitempty"`
	Super   int       `json:"super,omitempty"`
	SubBits int       `json:"sub_bits,omitempty"`
	SubBias int       `json:"sub_bias,omitempty"`
}

// Coded is a matrix of entropy-coded weights. When read, slices are views of the file mapping, but for those of Expanded: they
// must not be written to, nor used after Reader.Close. Field comments give lengths; docs/format.md section 6 their meaning.
type Coded struct {
	Rows, Cols int
	Coding     Coding
	Scale      Scale

	RowOrder     []uint32 // Rows: stored position → row; nil: natural order
	ChunkTable   []uint8  // Chunks(): which table codes them
	ChunkOffset  []uint32 // Chunks()+1: where they start in Stream
	MainWords    []uint16 // Chunks()
	LaneTail     []uint8  // 32*Chunks()
	Stream       []uint32 // ChunkOffset[Chunks()] + GuardWords()
	Low          []uint32 // LowOffset(Groups(), 0), or nil if LowBits is 0
	OutlierStart []uint32 // Groups()+1: group g has the outliers from OutlierStart[g] to OutlierStart[g+1]−1; or nil
	Outliers     []uint32 // see PackOutlier; those of a group by row, then column

	RowScale []uint16  // ScaleRow: float16[Rows]
	D        []uint16  // ScaleBlock: float16[Rows*Cols/Super]
	DMin     []uint16  // likewise, or nil
	SubScale []byte    // ScaleBlock: Rows*Cols/Block values of SubBits bits, or nil
	SubMin   []byte    // likewise
	ColScale []float32 // Cols, or nil
}

// Steps returns the number of 64-column steps of a row.
func (c *Coded) Steps() int { return (c.Cols + StepCols - 1) / StepCols }

// Tiles returns the number of column tiles.
func (c *Coded) Tiles() int { return (c.Steps() + MaxTileSteps - 1) / MaxTileSteps }

// StepsPerTile returns the steps of every tile but the last.
func (c *Coded) StepsPerTile() int { t := c.Tiles(); return (c.Steps() + t - 1) / t }

// TileSteps returns the steps of tile k.
func (c *Coded) TileSteps(k int) int {
	s := c.StepsPerTile()
	return min(s, c.Steps()-k*s)
}

// Groups returns the number of row groups.
func (c *Coded) Groups() int {
	return (c.Rows + c.Coding.RowsPerGroup - 1) / c.Coding.RowsPerGroup
}

// GroupRows returns the rows of group g.
func (c *Coded) GroupRows(g int) int {
	return min(c.Coding.RowsPerGroup, c.Rows-g*c.Coding.RowsPerGroup)
}

// Chunks returns Groups() · Tiles(); chunk = group·Tiles() + tile.
func (c *Coded) Chunks() int { return c.Groups() * c.Tiles() }

// laneReach returns how many words a decoder may touch for one lane of steps · rows pairs whatever the words are: those of the
// longest codes, and two ahead.
func laneReach(steps, rows int) int { return (huffman.MaxCodeLen*steps*rows+31)/32 + 2 }

// GuardWords returns the zero words that follow the last chunk, so that no chunk's decoder leaves the stream. ChunkOffset and
// MainWords must be set.
func (c *Coded) GuardWords() int { return c.guardWords(c.ChunkOffset) }

func (c *Coded) guardWords(offset []uint32) int {
	guard, end := 0, int(offset[c.Chunks()])
	for i := range c.Chunks() {
		reach := laneReach(c.TileSteps(i%c.Tiles()), c.GroupRows(i/c.Tiles())) - int(c.MainWords[i])
		guard = max(guard, int(offset[i+1])+reach-end)
	}
	return guard
}

// MaxGuardWords returns what GuardWords is at most, from the geometry alone.
func (c *Coded) MaxGuardWords() int { return laneReach(c.StepsPerTile(), c.Coding.RowsPerGroup) }

func (c *Coded) lowWords(steps, rows int) int {
	return huffman.Lanes * ((2*c.Coding.LowBits*steps*rows + 31) / 32)
}

// LowOffset returns the word of Low at which chunk (group g, tile k) starts; LowOffset(Groups(), 0) is the length.
func (c *Coded) LowOffset(g, k int) int {
	s, t := c.StepsPerTile(), c.Tiles()
	group := func(rows int) int {
		return (t-1)*c.lowWords(s, rows) + c.lowWords(c.TileSteps(t-1), rows)
	}
	if n := c.Groups(); g >= n {
		return (n-1)*group(c.Coding.RowsPerGroup) + group(c.GroupRows(n-1))
	}
	return g*group(c.Coding.RowsPerGroup) + k*c.lowWords(s, c.GroupRows(g))
}

// CompactParts names the parts that take more in memory than in the file.
func CompactParts() []string { return []string{"row_order", "lane_tail", "outliers"} }

// Expanded returns the bytes of what is made from CompactParts: RowOrder, ChunkOffset, LaneTail, Outliers and OutlierStart.
func (c *Coded) Expanded() int64 {
	return 4*int64(len(c.RowOrder)+len(c.ChunkOffset)+len(c.Outliers)+len(c.OutlierStart)) + int64(len(c.LaneTail))
}

// Row returns the row of the matrix stored at position i.
func (c *Coded) Row(i int) int {
	if c.RowOrder == nil {
		return i
	}
	return int(c.RowOrder[i])
}

// Outlier is one weight whose level lies outside the table's alphabet.
type Outlier struct{ Row, Col, Delta int } // Row within the group; Delta in levels

// PackOutlier returns the form that Coded.Outliers holds: bits 0–6 row within the group, bits 7–23 column, bits 24–31 δ. Delta
// must fit a signed byte; larger ones are split over several entries, which add up.
func PackOutlier(o Outlier) uint32 {
	return uint32(o.Row)&0x7f | uint32(o.Col)&0x1ffff<<7 | uint32(uint8(int8(o.Delta)))<<24
}

// UnpackOutlier is the inverse of PackOutlier.
func UnpackOutlier(v uint32) Outlier {
	return Outlier{Row: int(v & 0x7f), Col: int(v >> 7 & 0x1ffff), Delta: int(int8(v >> 24))}
}

// ChooseRowsPerGroup picks the group height for a matrix whose coded part takes about bits per weight: each lane's string
// should be about 4,000 bits, so that its padding (16 bits) and directory (about 9 bits) stay below 0.7 % of it.
func ChooseRowsPerGroup(rows, cols int, bits float64) int {
	c := Coded{Rows: rows, Cols: cols}
	r := int(4096 / (2 * max(bits, 0.5) * float64(c.StepsPerTile())))
	return max(1, min(r, MaxRowsPerGroup, rows))
}

// Raw is an uncoded tensor: a vector (Rows = 1) or a small matrix kept as it was.
type Raw struct {
	Rows, Cols int
	DType      DType
	Data       []byte // Rows*Cols*DType.Size()
}

// Tensor is an entry of the tensor index.
type Tensor struct {
	Name       string
	Rows, Cols int
	Bytes      int64               // stored bytes of its section
	Parts      map[string][2]int64 // name → offset in the section and bytes, of a tensor from a file
	Coded      *Coded              // one of Coded and Raw is set
	Raw        *Raw
}

// Size returns the bytes that t's parts take in a file, without what aligns them there.
func (t *Tensor) Size() int64 {
	if t.Coded == nil {
		return int64(len(t.Raw.Data))
	}
	n := int64(0)
	for _, p := range t.Coded.parts() {
		n += int64(len(p.bytes()))
	}
	return n
}

func (t *Tensor) checkContents(tables []*huffman.Table) error {
	if t.Coded != nil {
		return t.Coded.checkContents(tables)
	}
	return t.Raw.checkVector()
}

// CorruptError says what is wrong in a file and where.
type CorruptError struct {
	Path    string
	Section string // "header", "section table", "META", "TNSR blk.0.attn_q.weight", …
	Offset  int64  // in the file; −1 = unknown
	Msg     string // what was found, what was expected
}

func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("%s: %s%s: %s (damaged or incomplete file? obtain it again, or compress the model again)", e.Path,
		e.Section, at, e.Msg)
}
