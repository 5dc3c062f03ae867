package gpu

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

const (
	gemvWarps = 8 // warps of a block of the products of one vector
	// blocksPerSM bounds the grids of kernels whose blocks walk over their work.
	blocksPerSM = 8
	// tripleMaxLen is the longest code of which the fused kernels decode three per refill of their bit buffer.
	tripleMaxLen = 10
	// The fused half-precision kernels' tables hold integers from fusedLeast to fusedMost.
	fusedLeast, fusedMost = -31, 32
	// fusedLowBits is the most low bits that the fused half-precision kernels take.
	fusedLowBits = 4
)

type (
	gemmFunc func(grid driver.Dim, shared int, w, data driver.DevicePtr, firstRow, nRows int32, x, xp driver.DevicePtr, xpStride int64, nTokens int32, bias, y driver.DevicePtr) error
)

// decodeFunc decodes groups to a plane.
type decodeFunc func(grid driver.Dim, shared int, w driver.DevicePtr, firstGroup, nGroups int32, plane driver.DevicePtr) error

// product is how a matrix is multiplied.
type product struct {
	gemv       kernelID // one of gemv_*
	gemvGrid   int
	gemvShared int
	prepared   bool // gemv reads the prepared vector
	gemm       gemmFunc
	gemmRows   int  // of a block of gemm, which does gemmTokens tokens
	gemmUnit   int  // tokens that it computes together, wanted or not
	halfGemm   bool // gemm reads the prepared vectors
}

// chooseProduct picks the kernels for w in its form.
func (l *launcher) chooseProduct(w *weight, sms int) product {
	p := product{}
	l.chooseGemm(&p, &w.desc)
	if w.form == formCoded {
		p.gemv, p.prepared = w.fusedGemv()
		p.gemvGrid = fusedGrid(w.Coded, sms)
		p.gemvShared = tableShared(w.desc.MaxLen) + 4*gemvWarps*w.Coded.Coding.RowsPerGroup
		return p
	}
	if w.form == formPacked {
		lanes := w.rowLanes(sms)
		w.desc.RowLanes = int32(lanes)
		p.gemv, p.prepared = w.packed.gemv, true
		p.gemvGrid = min(ceilDiv(ceilDiv(w.Rows, quadRows)*lanes, 32*gemvWarps), blocksPerSM*sms)
		return p
	}
	p.gemvGrid = min(ceilDiv(w.Rows, gemvWarps), blocksPerSM*sms)
	switch d := &w.desc; {
	case d.Type == typeF16 && d.Stride%8 == 0 && d.Cols%4 == 0:
		p.gemv = kernelGemvF16
	case d.Type == typeBf16 && d.Stride%8 == 0 && d.Cols%4 == 0:
		p.gemv = kernelGemvBf16
	default:
		p.gemv = kernelGemvAny
	}
	return p
}

// multiply launches any of the gemv_* kernels: all take the same arguments (cuda/gemv_task.cuh).
func (l *launcher) multiply(kernel kernelID, grid driver.Dim, shared int, tasks, x, xp driver.DevicePtr, xpStride int64, firstToken int, after driver.DevicePtr) error {
	return l.launch(kernel, grid, 32*gemvWarps, shared, uint64(tasks), uint64(x), uint64(xp), uint64(xpStride), uint64(uint32(firstToken)), uint64(after))
}

// mixedGemv returns the kernel that multiplies with matrices of which some have kernel a and some b, in one launch.
func mixedGemv(a, b kernelID) (mixed kernelID, ok bool) {
	families := [...][]kernelID{
		{kernelGemvPackedMixed, kernelGemvPacked3, kernelGemvPacked4, kernelGemvPacked5, kernelGemvPacked6, kernelGemvPacked8},
		{kernelGemvFusedG2, kernelGemvFusedG3}, // which differ in the tables that they can take
	}
	if a == b {
		return a, true
	}
	for _, f := range families {
		if slices.Contains(f, a) && slices.Contains(f, b) {
			return f[0], true
		}
	}
	return 0, false
}

// fusedGrid returns the blocks of a fused product: a warp for every group, or where that leaves multiprocessors without work, for every chunk.
func fusedGrid(c *format.Coded, sms int) int {
	const enough = 2 // blocks for a multiprocessor
	n := ceilDiv(c.Groups(), gemvWarps)
	if n < enough*sms {
		n = ceilDiv(c.Groups()*min(c.Tiles(), gemvWarps), gemvWarps)
	}
	return min(n, blocksPerSM*sms)
}

// tableShared returns the bytes of shared memory for a code table.
func tableShared(maxLen int32) int { return 4 << maxLen }

// fusedGemv picks the fused kernel with the most codes per refill, and the float32 one where none of the faster ones applies.
func (w *weight) fusedGemv() (k kernelID, prepared bool) {
	c, d := &w.Coded.Coding, &w.desc
	top := d.TableBias + d.Levels - 1
	half := len(c.Values) == 0 && c.Float == format.NotFloat && c.LowBits <= fusedLowBits &&
		d.TableBias >= fusedLeast && top <= fusedMost &&
		(d.ScaleKind != scaleBlock || d.CodeOffset == 0)
	if !half {
		return kernelGemvFusedF32, false
	}
	byLowBits := []kernelID{kernelGemvFusedG2, kernelGemvFusedLow1, kernelGemvFusedLow2, kernelGemvFusedLow3, kernelGemvFusedLow4}
	switch {
	case d.ScaleKind == scaleBlock && d.BlockShift < 4:
		return kernelGemvFusedF32, false
	case d.ScaleKind == scaleBlock && d.BlockShift == 4:
		byLowBits = []kernelID{kernelGemvFusedBlock160, kernelGemvFusedBlock161, kernelGemvFusedBlock162}
	case d.ScaleKind == scaleBlock && d.BlockShift == 5:
		byLowBits = []kernelID{kernelGemvFusedBlock320, kernelGemvFusedBlock321, kernelGemvFusedBlock322, kernelGemvFusedBlock323, kernelGemvFusedBlock324}
	case d.ScaleKind == scaleBlock:
		byLowBits = []kernelID{kernelGemvFusedBlock640, kernelGemvFusedBlock641}
	case c.LowBits == 0 && d.MaxLen <= tripleMaxLen:
		return kernelGemvFusedG3, true
	}
	if c.LowBits >= len(byLowBits) {
		return kernelGemvFusedF32, false
	}
	return byLowBits[c.LowBits], true
}

// chooseGemm picks the product of many vectors with a decoded or raw matrix: on tensor cores where there are any, or else in packed half
// precision, which both need prepared vectors; or in float32.
func (l *launcher) chooseGemm(p *product, d *matrixDesc) {
	half := map[int32]gemmFunc{typeU8: l.gemmHalfU8, typeI32: l.gemmHalfI32, typeF16: l.gemmHalfF16, typeBf16: l.gemmHalfBf16}
	p.gemm, p.gemmRows, p.gemmUnit, p.halfGemm = half[d.Type], 128, 16, true
	if l.mma {
		mma := map[int32]gemmFunc{typeU8: l.gemmMmaU8, typeI32: l.gemmMmaI32, typeF16: l.gemmMmaF16, typeBf16: l.gemmMmaBf16}
		p.gemm, p.gemmUnit = mma[d.Type], 8
	}
	if d.Steps == 0 || d.ScaleKind == scaleBlock && d.BlockShift < 4 { // raw: rows are not padded to whole steps
		p.gemm, p.gemmRows, p.gemmUnit, p.halfGemm = l.gemmFloat(d.Type), 64, gemmTokens, false
	}
}

func (l *launcher) gemmFloat(typ int32) gemmFunc {
	switch typ {
	case typeU8:
		return l.gemmU8
	case typeI32:
		return l.gemmI32
	case typeF32:
		return l.gemmF32
	case typeF16:
		return l.gemmF16
	}
	return l.gemmBf16
}

// decode writes groups [first, first+n) of a coded matrix to plane.
func (l *launcher) decode(w *weight, first, n, sms int, plane driver.DevicePtr) error {
	if err := l.decodeChunks(w, first, n, sms, plane); err != nil || len(w.Coded.Outliers) == 0 {
		return err
	}
	outliers := l.decodeOutliersU8
	switch w.desc.Type {
	case typeI32:
		outliers = l.decodeOutliersI32
	case typeF16, typeBf16:
		outliers = l.decodeOutliersFloat
	}
	const outlierThreads = 128
	return outliers(driver.D1(ceilDiv(n, outlierThreads)), 0, w.descDev, int32(first), int32(n), plane)
}

// decodeChunks is decode without outliers.
func (l *launcher) decodeChunks(w *weight, first, n, sms int, plane driver.DevicePtr) error {
	chunks := l.decodeChunksU8
	fast := [...]decodeFunc{l.decodeChunksU8Low0, l.decodeChunksU8Low1, l.decodeChunksU8Low2, l.decodeChunksU8Low3, l.decodeChunksU8Low4}
	switch w.desc.Type {
	case typeI32:
		chunks = l.decodeChunksI32
	case typeF16, typeBf16:
		chunks = l.decodeChunksFloat
	default:
		if w.Coded.Coding.LowBits < len(fast) {
			chunks = fast[w.Coded.Coding.LowBits]
		}
	}
	const warps = 8
	grid := driver.D1(min(ceilDiv(n*w.Coded.Tiles(), warps), blocksPerSM*sms))
	return chunks(grid, tableShared(w.desc.MaxLen), w.descDev, int32(first), int32(n), plane)
}
