package gpu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	quadRows  = 4  // rows that packed codes interleave (cuda/packed.cuh)
	pieceCols = 32 // columns of a piece
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

// weight is a tensor of the model. Planning weighs its forms without changing it; form and product are set when the plan is
// decided, addresses when it is loaded.
type weight struct {
	*format.Tensor
	use     model.Use
	packed  packing // how formPacked is, or would be
	form    form
	product product          // if use has model.UseProduct
	vector  driver.DevicePtr // formVector
	desc    kernels.Matrix   // other forms; kernels read descriptor(form), which is at descDev
	descDev driver.DevicePtr
}

// product is how a matrix is multiplied.
type product struct {
	gemv       kernels.ID // one of gemv_*, of one vector
	gemvGrid   int
	tableBytes int  // of a block's shared memory: its code table
	sumBytes   int  // and for each vector its sums
	rowLanes   int  // lanes of a packed product that share a row
	prepared   bool // gemv reads the prepared vectors
	gemm       kernels.ID
	gemmRows   int  // of a block of gemm, which does gemmTokens tokens
	gemmUnit   int  // tokens that it computes together, wanted or not
	halfGemm   bool // gemm reads the prepared vectors
	hasWide    bool // gemmWide does more than gemmTokens tokens, wideTokens in a block
	gemmWide   kernels.ID
}

// packing is how a weight's codes are packed when it is decoded at load.
type packing struct {
	bits int // 0: the codes cannot be packed
	// clipped tells that some levels do not fit the width; they are stored as exceptions, in room estimated from the code tables.
	clipped  bool
	room     uint32  // exceptions
	expected float64 // how many there will be
	gemv     kernels.ID
}

// descriptor returns what kernels read of w in a form. The plane that a packed matrix is decoded to is described by formPlane.
func (w *weight) descriptor(f form) kernels.Matrix {
	d := w.desc
	if f == formPacked {
		d.Type, d.RowLanes = kernels.TypePacked, int32(w.product.rowLanes)
	}
	return d
}

// deviceBlock is an array of a weight: size bytes of device memory, whose address goes to *dst.
type deviceBlock struct {
	dst  *driver.DevicePtr
	size int64
	data func() []byte // contents; nil = computed on the device
	skip int64         // bytes from where *dst points to the memory: those of elements left out in front
}

// hostBlock is an array that is copied as it is.
func hostBlock[T uint8 | uint16 | uint32 | int32 | float32](dst *driver.DevicePtr, s []T) deviceBlock {
	b := bytesOf(s)
	return deviceBlock{dst: dst, size: int64(len(b)), data: func() []byte { return b }}
}

// sliceBlock is an array of elements from … to − 1 of s, at the indices that they have in s.
func sliceBlock[T uint8 | uint16 | uint32 | int32 | float32](dst *driver.DevicePtr, s []T, from, to int) deviceBlock {
	p := hostBlock(dst, s[from:to])
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

// blocks lists w's permanent device memory in a form. The plan adds up the sizes, load allocates and fills them.
func (w *weight) blocks(f form) []deviceBlock {
	var ps []deviceBlock
	switch f {
	case formVector:
		return []deviceBlock{{dst: &w.vector, size: 4 * int64(w.Rows) * int64(w.Cols),
			data: func() []byte { return bytesOf(floats(w.Raw)) }}}
	case formRaw:
		return []deviceBlock{hostBlock(&w.desc.Data, w.Raw.Data)}
	case formCoded:
		ps = append(w.streamBlocks(), w.directoryBlocks()...)
	case formPlane:
		ps = append(ps, deviceBlock{dst: &w.desc.Data, size: w.planeBytes(w.Rows)})
	case formPacked:
		ps = w.packedBlocks()
	}
	return append(ps, w.scaleBlocks()...)
}

// residentForm returns the form that w has once decoded.
func (w *weight) residentForm() form {
	if w.packed.bits > 0 {
		return formPacked
	}
	return formPlane
}

// formName names a form of w.
func (w *weight) formName(f form) string {
	if f == formPacked {
		return fmt.Sprintf("%d bits", w.packed.bits)
	}
	return [...]string{formVector: "vector", formRaw: "raw", formCoded: "coded", formPlane: "decoded"}[f]
}

// readBytes returns what a product reads of w in a form.
func (w *weight) readBytes(f form) float64 {
	n := int64(0)
	for _, b := range w.blocks(f) {
		if b.dst != &w.desc.RowPosition { // for embeddings only
			n += b.size
		}
	}
	return float64(n)
}

// descriptorBytes returns the bytes of the arena that the descriptor of w takes.
func (w *weight) descriptorBytes() int64 {
	if w.use&model.UseVector != 0 {
		return 0
	}
	return allocationBytes(int64(binary.Size(&w.desc)))
}

// arenaBytes returns the bytes of the arena that w takes in a form, its descriptor aside.
func (w *weight) arenaBytes(f form) int64 {
	n := int64(0)
	for _, p := range w.blocks(f) {
		n += allocationBytes(p.size)
	}
	if f == formPacked && w.packed.clipped { // load falls back to the coded form if there are more exceptions than room
		n = max(n, w.arenaBytes(formCoded))
	}
	return n
}

// packedBlocks are the packed codes and what they leave out.
func (w *weight) packedBlocks() []deviceBlock {
	d := &w.desc
	quads := int64(ceilDiv(w.Rows, quadRows))
	ps := []deviceBlock{{dst: &d.Data, size: quads * quadRows * int64(ceilDiv(w.Cols, pieceCols)) * int64(d.PackedBits) * wordBytes}}
	if w.packed.room > 0 {
		ps = append(ps, deviceBlock{dst: &d.ExceptionStart, size: (quads + 1) * wordBytes}, deviceBlock{dst: &d.Exceptions,
			size: int64(w.packed.room) * wordBytes})
	}
	return ps
}

// streamBlocks are the two big arrays of the coded form, which load can upload a few groups at a time.
func (w *weight) streamBlocks() []deviceBlock {
	ps := []deviceBlock{hostBlock(&w.desc.Stream, w.Coded.Stream)}
	if w.Coded.Low != nil {
		ps = append(ps, hostBlock(&w.desc.Low, w.Coded.Low))
	}
	return ps
}

// stretchBlocks lists what decoding groups g … end − 1 reads of the coded form.
func (w *weight) stretchBlocks(g, end int) []deviceBlock {
	c, d, tiles := w.Coded, &w.desc, w.Coded.Tiles()
	first, last := g*tiles, end*tiles
	ps := []deviceBlock{sliceBlock(&d.Stream, c.Stream, int(c.ChunkOffset[first]), min(int(c.ChunkOffset[last])+c.MaxGuardWords(),
		len(c.Stream))),
		sliceBlock(&d.ChunkTable, c.ChunkTable, first, last), sliceBlock(&d.ChunkOffset, c.ChunkOffset, first, last+1),
		sliceBlock(&d.MainWords, c.MainWords, first, last), sliceBlock(&d.LaneTail, c.LaneTail, 32*first, 32*last)}
	if c.Low != nil {
		ps = append(ps, sliceBlock(&d.Low, c.Low, c.LowOffset(g, 0), c.LowOffset(end, 0)))
	}
	if len(c.Outliers) > 0 {
		// Even an empty list is uploaded: a null pointer would mean "no outliers in the whole matrix".
		from, to := int(c.OutlierStart[g]), int(c.OutlierStart[end])
		if from == to {
			from, to = max(0, from-1), max(1, to)
		}
		ps = append(ps, sliceBlock(&d.OutlierStart, c.OutlierStart, g, end+1), sliceBlock(&d.Outliers, c.Outliers, from, to))
	}
	if v := w.values(); v != nil {
		ps = append(ps, hostBlock(&d.Values, v))
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

// directoryBlocks are the rest of the coded form.
func (w *weight) directoryBlocks() []deviceBlock {
	c, d := w.Coded, &w.desc
	ps := []deviceBlock{hostBlock(&d.ChunkTable, c.ChunkTable), hostBlock(&d.ChunkOffset, c.ChunkOffset),
		hostBlock(&d.MainWords, c.MainWords), hostBlock(&d.LaneTail, c.LaneTail)}
	if len(c.Outliers) > 0 {
		ps = append(ps, hostBlock(&d.OutlierStart, c.OutlierStart), hostBlock(&d.Outliers, c.Outliers))
	}
	if v := w.values(); v != nil {
		ps = append(ps, hostBlock(&d.Values, v))
	}
	return ps
}

// scaleBlocks are the row order and the scales, which both the coded form and the plane need.
func (w *weight) scaleBlocks() []deviceBlock {
	c, d := w.Coded, &w.desc
	var ps []deviceBlock
	if c.RowOrder != nil {
		ps = append(ps, hostBlock(&d.RowOrder, c.RowOrder),
			deviceBlock{dst: &d.RowPosition, size: 4 * int64(c.Rows), data: func() []byte { return bytesOf(inverse(c.RowOrder)) }})
	}
	switch c.Scale.Kind {
	case format.ScaleRow:
		ps = append(ps, hostBlock(&d.RowScale, c.RowScale))
	case format.ScaleBlock:
		ps = append(ps, deviceBlock{dst: &d.BlockScale, size: w.blockScaleBytes(c.Rows)})
		if c.DMin != nil {
			ps = append(ps, deviceBlock{dst: &d.BlockMin, size: w.blockScaleBytes(c.Rows)})
		}
	}
	if c.ColScale != nil {
		ps = append(ps, hostBlock(&d.ColScale, c.ColScale))
	}
	return ps
}

// blockScaleBytes returns the bytes of some rows' effective block scales, or minima: a float16 per block of a row. They come in
// fours of rows.
func (w *weight) blockScaleBytes(rows int) int64 {
	return 2 * int64(w.desc.BlockStride) * quadRows * int64(ceilDiv(rows, quadRows))
}

// planeBytes returns the bytes of a decoded plane of some rows.
func (w *weight) planeBytes(rows int) int64 {
	return int64(rows) * int64(w.desc.Stride) * elementBytes(w.desc.Type)
}

func elementBytes(typ int32) int64 {
	switch typ {
	case kernels.TypeU8:
		return 1
	case kernels.TypeF32, kernels.TypeI32:
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
