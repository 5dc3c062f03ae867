package gpu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// form is how a tensor lies in device memory.
type form int

const (
	formVector form = iota // float32 values
	formRaw                // the file's floats
	formCoded              // the file's streams, decoded by whoever reads them
	formPlane              // fixed-width codes or floats, decoded at load
	formPacked             // codes of few bits, decoded and packed at load
)

// use tells what the program does with a tensor.
type use int

const (
	useVector  use = 1 << iota // normalization weight, bias
	useEmbed                   // rows are looked up
	useProduct                 // multiplied with activations
)

// weight is a tensor of the model on the device.
type weight struct {
	*format.Tensor
	use     use
	form    form
	decoded bool             // under plan hybrid
	vector  driver.DevicePtr // formVector
	desc    matrixDesc       // other forms; kernels read the copy at descDev
	descDev driver.DevicePtr
	packed  packing // how formPacked would be
	product product // if use has useProduct
}

// part is a piece of a weight: size bytes of device memory, whose address goes to *dst.
type part struct {
	dst  *driver.DevicePtr
	size int64
	data func() []byte // contents; nil = computed on the device
	skip int64         // bytes from where *dst points to the block: those of elements left out in front
}

// hostPart is a part that is copied as it is.
func hostPart[T uint8 | uint16 | uint32 | int32 | float32](dst *driver.DevicePtr, s []T) part {
	b := bytesOf(s)
	return part{dst: dst, size: int64(len(b)), data: func() []byte { return b }}
}

// slicePart is a part for elements from … to − 1 of s, at the indices that they have in s.
func slicePart[T uint8 | uint16 | uint32 | int32 | float32](dst *driver.DevicePtr, s []T, from, to int) part {
	p := hostPart(dst, s[from:to])
	p.skip = int64(len(bytesOf(s[:from])))
	return p
}

// bytesOf returns the memory of s; hosts and devices are little endian.
func bytesOf[T uint8 | uint16 | uint32 | int32 | float32](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// structBytes encodes a descriptor in its memory layout.
func structBytes(s any) ([]byte, error) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, s); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// parts lists what w needs in device memory for good, in the given form. The plan adds up the sizes, load takes and fills them.
func (w *weight) parts(f form) []part {
	var ps []part
	switch f {
	case formVector:
		return []part{{dst: &w.vector, size: 4 * int64(w.Rows) * int64(w.Cols), data: func() []byte { return bytesOf(floats(w.Raw)) }}}
	case formRaw:
		return []part{hostPart(&w.desc.Data, w.Raw.Data)}
	case formCoded:
		ps = append(w.streamParts(), w.directoryParts()...)
	case formPlane:
		ps = append(ps, part{dst: &w.desc.Data, size: w.planeBytes(w.Rows)})
	case formPacked:
		ps = w.packedParts()
	}
	return append(ps, w.scaleParts()...)
}

// streamParts are the two big parts of the coded form, which load can upload a few groups at a time.
func (w *weight) streamParts() []part {
	ps := []part{hostPart(&w.desc.Stream, w.Coded.Stream)}
	if w.Coded.Low != nil {
		ps = append(ps, hostPart(&w.desc.Low, w.Coded.Low))
	}
	return ps
}

// pieceParts lists what decoding groups g … end − 1 reads of the coded form.
func (w *weight) pieceParts(g, end int) []part {
	c, d, tiles := w.Coded, &w.desc, w.Coded.Tiles()
	first, last := g*tiles, end*tiles
	ps := []part{slicePart(&d.Stream, c.Stream, int(c.ChunkOffset[first]), min(int(c.ChunkOffset[last])+c.MaxGuardWords(), len(c.Stream))),
		slicePart(&d.ChunkTable, c.ChunkTable, first, last), slicePart(&d.ChunkOffset, c.ChunkOffset, first, last+1),
		slicePart(&d.MainWords, c.MainWords, first, last), slicePart(&d.LaneTail, c.LaneTail, 32*first, 32*last)}
	if c.Low != nil {
		ps = append(ps, slicePart(&d.Low, c.Low, c.LowOffset(g, 0), c.LowOffset(end, 0)))
	}
	if len(c.Outliers) > 0 {
		// An empty run of outliers is a block all the same, since its absence means that there are none at all.
		from, to := int(c.OutlierStart[g]), int(c.OutlierStart[end])
		if from == to {
			from, to = max(0, from-1), max(1, to)
		}
		ps = append(ps, slicePart(&d.OutlierStart, c.OutlierStart, g, end+1), slicePart(&d.Outliers, c.Outliers, from, to))
	}
	if v := w.values(); v != nil {
		ps = append(ps, hostPart(&d.Values, v))
	}
	return ps
}

// values returns the list of codes instead of zero + level; nil = none.
func (w *weight) values() []int32 {
	var v []int32
	for _, x := range w.Coded.Coding.Values {
		v = append(v, int32(x))
	}
	return v
}

// directoryParts are the rest of the coded form.
func (w *weight) directoryParts() []part {
	c, d := w.Coded, &w.desc
	ps := []part{hostPart(&d.ChunkTable, c.ChunkTable), hostPart(&d.ChunkOffset, c.ChunkOffset),
		hostPart(&d.MainWords, c.MainWords), hostPart(&d.LaneTail, c.LaneTail)}
	if len(c.Outliers) > 0 {
		ps = append(ps, hostPart(&d.OutlierStart, c.OutlierStart), hostPart(&d.Outliers, c.Outliers))
	}
	if v := w.values(); v != nil {
		ps = append(ps, hostPart(&d.Values, v))
	}
	return ps
}

// scaleParts are the row order and the scales, which both the coded form and the plane need.
func (w *weight) scaleParts() []part {
	c, d := w.Coded, &w.desc
	var ps []part
	if c.RowOrder != nil {
		ps = append(ps, hostPart(&d.RowOrder, c.RowOrder),
			part{dst: &d.RowPosition, size: 4 * int64(c.Rows), data: func() []byte { return bytesOf(inverse(c.RowOrder)) }})
	}
	switch c.Scale.Kind {
	case format.ScaleRow:
		ps = append(ps, hostPart(&d.RowScale, c.RowScale))
	case format.ScaleBlock:
		ps = append(ps, part{dst: &d.BlockScale, size: w.blockScaleBytes(c.Rows)})
		if c.DMin != nil {
			ps = append(ps, part{dst: &d.BlockMin, size: w.blockScaleBytes(c.Rows)})
		}
	}
	if c.ColScale != nil {
		ps = append(ps, hostPart(&d.ColScale, c.ColScale))
	}
	return ps
}

// blockScaleBytes returns the bytes of some rows' effective block scales, or minima: a float16 per block of a row. They come in fours of rows.
func (w *weight) blockScaleBytes(rows int) int64 {
	return 2 * int64(w.desc.BlockStride) * quadRows * int64(ceilDiv(rows, quadRows))
}

// planeBytes returns the bytes of a decoded plane of some rows.
func (w *weight) planeBytes(rows int) int64 {
	return int64(rows) * int64(w.desc.Stride) * elementBytes(w.desc.Type)
}

func elementBytes(typ int32) int64 {
	switch typ {
	case typeU8:
		return 1
	case typeF32, typeI32:
		return 4
	}
	return 2
}

// inverse returns where each row is stored.
func inverse(order []uint32) []uint32 {
	inv := make([]uint32, len(order))
	for i, r := range order {
		inv[r] = uint32(i)
	}
	return inv
}

// floats returns the values of a raw tensor.
func floats(r *format.Raw) []float32 {
	v := make([]float32, r.Rows*r.Cols)
	le := binary.LittleEndian
	for i := range v {
		switch r.DType {
		case format.F32:
			v[i] = math.Float32frombits(le.Uint32(r.Data[4*i:]))
		case format.F16:
			v[i] = float16.Frombits(le.Uint16(r.Data[2*i:])).Float32()
		case format.BF16:
			v[i] = math.Float32frombits(uint32(le.Uint16(r.Data[2*i:])) << 16)
		}
	}
	return v
}

// describe fills in everything of the descriptor but addresses.
func (w *weight) describe(tables []*huffman.Table) error {
	d := &w.desc
	d.Rows, d.Cols = int32(w.Rows), int32(w.Cols)
	if w.Raw != nil {
		d.ScaleKind, d.Stride = scaleNone, int32(w.Cols)
		d.Type = map[format.DType]int32{format.F32: typeF32, format.F16: typeF16, format.BF16: typeBf16}[w.Raw.DType]
		return nil
	}
	c := w.Coded
	d.Steps, d.Tiles, d.StepsPerTile = int32(c.Steps()), int32(c.Tiles()), int32(c.StepsPerTile())
	d.RowsPerGroup, d.Groups = int32(c.Coding.RowsPerGroup), int32(c.Groups())
	d.Levels, d.LowBits, d.Zero = int32(c.Coding.Levels), int32(c.Coding.LowBits), c.Coding.Zero
	d.Stride = d.Steps * format.StepCols
	var seen [256]bool
	for i, t := range c.ChunkTable {
		if int(t) >= len(tables) {
			return fmt.Errorf("tensor %s: chunk_table[%d] is %d, but the file has %d tables", w.Name, i, t, len(tables))
		}
		if !seen[t] {
			d.MaxLen = max(d.MaxLen, int32(longestCode(tables[t])))
		}
		seen[t] = true
	}
	if err := w.describeScale(); err != nil {
		return err
	}
	if err := w.describePlane(); err != nil {
		return err
	}
	w.describePacked(tables)
	w.describeFusedTable()
	return nil
}

// longestCode is at most t.MaxLen; the look-up table on the device is that much smaller.
func longestCode(t *huffman.Table) int {
	n := uint8(1)
	for _, l := range t.Lens {
		n = max(n, l)
	}
	return int(n)
}

func (w *weight) describeScale() error {
	c, d := w.Coded, &w.desc
	d.Scale, d.Min = c.Scale.Scale, c.Scale.Min
	switch c.Scale.Kind {
	case format.ScaleTensor:
		d.ScaleKind = scaleTensor
	case format.ScaleRow:
		d.ScaleKind = scaleRow
	case format.ScaleNone:
		d.ScaleKind = scaleNone
	case format.ScaleBlock:
		d.ScaleKind, d.Blocks = scaleBlock, int32(c.Cols/c.Scale.Block)
		if bits.OnesCount(uint(c.Scale.Block)) != 1 {
			return fmt.Errorf("tensor %s: blocks of %d columns; the GPU kernels need a power of two (use --device cpu)", w.Name, c.Scale.Block)
		}
		d.BlockShift = int32(bits.TrailingZeros(uint(c.Scale.Block)))
		d.BlockStride = int32(ceilDiv(c.Steps()*format.StepCols, c.Scale.Block))
		d.BlockUnit, d.MinUnit = halfUnit(c.D, subBound(c.SubScale, c.Scale.SubBits, c.Scale.SubBias)), 1
		if c.DMin != nil {
			d.MinUnit = halfUnit(c.DMin, subBound(c.SubMin, c.Scale.SubBits, 0))
		}
	}
	return nil
}

// subBound returns the largest magnitude that a sub-scale can have.
func subBound(sub []byte, subBits, bias int) float64 {
	if sub == nil || subBits == 0 {
		return 1
	}
	if subBits == 8 { // a signed byte
		return math.Abs(float64(bias)) + 128
	}
	return math.Max(math.Abs(float64(bias)), math.Abs(float64(bias+1<<subBits-1)))
}

// halfUnit returns the power of two by which scales are divided before they are rounded to float16, so that d times a sub-scale of
// at most `sub` stays within ±1 and small ones stay out of the subnormal numbers.
func halfUnit(d []uint16, sub float64) float32 {
	m := 0.0
	for _, v := range d {
		if x := math.Abs(float64(float16.Frombits(v).Float32())); x > m && !math.IsInf(x, 0) {
			m = x
		}
	}
	if m == 0 {
		return 1
	}
	_, exp := math.Frexp(m * sub) // m·sub < 2^exp
	return float32(math.Ldexp(1, exp))
}

// describePlane chooses the element type of the decoded form and the code that a stored 0 stands for.
func (w *weight) describePlane() error {
	c, d := w.Coded, &w.desc
	switch c.Coding.Float {
	case format.FloatBF16:
		d.FloatKind, d.Type = floatBf16, typeBf16
		d.FloatUnit = floatUnit(c, 127, 254)
		return nil
	case format.FloatF16:
		d.FloatKind, d.Type = floatF16, typeF16
		d.FloatUnit = floatUnit(c, 15, 30)
		return nil
	}
	lo, hi := codeRange(c)
	usual := max(lo, min(hi, usualCode(c)))
	switch {
	case hi-lo <= math.MaxUint8:
		d.Type, d.DataZero = typeU8, float32(lo)
		d.DataOffset = float32(usual - lo - 128)
	case lo > -maxCode && hi < maxCode:
		d.Type, d.DataOffset = typeI32, float32(usual-128)
	default:
		return fmt.Errorf("tensor %s: codes from %d to %d; the GPU kernels take codes within ±%d (use --device cpu)", w.Name, lo, hi, maxCode)
	}
	return nil
}

// maxCode bounds codes: float32 holds them exactly, half precision in units of 256.
const maxCode = 1 << 23

// codeRange bounds the integer codes that c can decode to, outliers included.
func codeRange(c *format.Coded) (lo, hi int) {
	k := &c.Coding
	if len(k.Values) > 0 {
		lo, hi = int(k.Values[0]), int(k.Values[0])
		for _, v := range k.Values {
			lo, hi = min(lo, int(v)), max(hi, int(v))
		}
		return lo, hi
	}
	least, most := outlierRange(c)
	return int(k.Zero) + least<<k.LowBits, int(k.Zero) + (k.Levels+most)<<k.LowBits - 1
}

// floatUnit returns a power of two that no weight of a float coding reaches twice. bias and most are the format's: of exponents, and the largest
// of a finite number.
func floatUnit(c *format.Coded, bias, most int) float32 {
	_, beyond := outlierRange(c)
	return float32(math.Ldexp(1, max(-100, min(int(c.Coding.Zero)+c.Coding.Levels-1+beyond, most)-bias)))
}

// outlierRange bounds what outliers add to levels, least ≤ 0 ≤ most.
func outlierRange(c *format.Coded) (least, most int) {
	sum := 0
	last := uint32(math.MaxUint32)
	for _, v := range c.Outliers {
		if at := v & 0xffffff; at != last { // entries of the same weight, which add up, follow each other
			last, sum = at, 0
		}
		sum += format.UnpackOutlier(v).Delta
		least, most = min(least, sum), max(most, sum)
	}
	return least, most
}

// usualCode estimates the commonest code: that of the weight nearest to 0, or the middle of the alphabet where minima move it. Kernels
// multiply the distance from it, because sums of small integers lose least in half precision.
func usualCode(c *format.Coded) int {
	k, s := &c.Coding, &c.Scale
	first, last := int(k.Zero), int(k.Zero)+k.Levels<<k.LowBits-1
	usual := 0
	switch {
	case s.Kind == format.ScaleTensor && s.Min != 0 && s.Scale != 0:
		usual = int(max(-1<<20, min(1<<20, math.Round(float64(-s.Min)/float64(s.Scale)))))
	case s.Kind == format.ScaleBlock && c.DMin != nil:
		usual = (first + last + 1) / 2
	}
	if len(k.Values) > 0 {
		return usual
	}
	return max(first, min(last, usual))
}

// describeFusedTable chooses the small integers that the fused kernels' tables hold: level + TableBias. Block scales have no place for
// an offset of the code, so there the zero point must be in the table. Otherwise the usual level becomes 0.
func (w *weight) describeFusedTable() {
	k, d := &w.Coded.Coding, &w.desc
	if w.Coded.Scale.Kind == format.ScaleBlock {
		d.TableBias = k.Zero >> k.LowBits
	} else {
		d.TableBias = -int32((usualCode(w.Coded) - int(k.Zero)) >> k.LowBits)
	}
	d.CodeOffset = k.Zero - d.TableBias<<k.LowBits
}
