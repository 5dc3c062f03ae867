package gpu

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
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
	// maxShared bounds the dynamic shared memory of a block: 48 KB, of which kernels have some themselves.
	maxShared = 47 << 10
	// gemmTokens are the tokens of a block of the products of many vectors, wideTokens those of more than gemmTokens on tensor
	// cores of compute capability 8.0 and later.
	gemmTokens, wideTokens = 64, 128
	gemmRows               = 128 // of a block of the half-precision ones
	// warpsPerSM is about how many warps of a packed product a multiprocessor holds at a time.
	warpsPerSM = 24
)

// processor is what the choice of kernels depends on.
type processor struct {
	sms   int
	mma   bool // it has the tensor-core products that gemm_mma_* use
	async bool // and the asynchronous copies to shared memory that gemm_wide_* use
}

func processorOf(i driver.Info) processor {
	return processor{sms: max(i.SMs, 1), mma: i.CCMajor > 7 || i.CCMajor == 7 && i.CCMinor >= 5, async: i.CCMajor >= 8}
}

// settle decides how w lies in device memory, and which kernels multiply it there.
func (w *weight) settle(f form, on processor) {
	w.form = f
	if w.use&model.UseProduct != 0 {
		w.product = chooseProduct(w, f, on)
	}
}

// chooseProduct picks the kernels for w in a form.
func chooseProduct(w *weight, f form, on processor) product {
	p := product{}
	p.chooseGemm(&w.desc, on)
	switch d := &w.desc; f {
	case formCoded:
		p.gemv, p.prepared = w.fusedGemv()
		p.gemvGrid = fusedGrid(w.Coded, on.sms)
		p.tableBytes, p.sumBytes = tableShared(d.MaxLen), 4*gemvWarps*w.Coded.Coding.RowsPerGroup
	case formPacked:
		p.rowLanes = w.rowLanes(on.sms)
		p.gemv, p.prepared = w.packed.gemv, true
		p.gemvGrid = min(ceilDiv(ceilDiv(w.Rows, quadRows)*p.rowLanes, 32*gemvWarps), blocksPerSM*on.sms)
	default:
		p.gemvGrid = min(ceilDiv(w.Rows, gemvWarps), blocksPerSM*on.sms)
		p.gemv = residentGemv(d)
	}
	return p
}

// residentGemv picks the product of one vector with a plane or a raw matrix.
func residentGemv(d *kernels.Matrix) kernels.ID {
	switch {
	case d.Stride%8 != 0 || d.Cols%4 != 0:
	case d.Type == kernels.TypeF16:
		return kernels.GemvF16ID
	case d.Type == kernels.TypeBf16:
		return kernels.GemvBf16ID
	}
	return kernels.GemvAnyID
}

// gemvShared returns the bytes of dynamic shared memory that a block of gemv needs for t vectors.
func (p *product) gemvShared(t int) int { return p.tableBytes + t*p.sumBytes }

// gemvLaunch multiplies n vectors in `blocks` blocks for each t of them; shared returns what a block needs.
func gemvLaunch(kernel kernels.ID, blocks, n int, shared func(t int) int) launch {
	most := gemvBatch
	for most > 1 && shared(most) > maxShared {
		most /= 2
	}
	id, t := kernel.Vectors(n, most)
	return launch{kernel: id, grid: driver.D2(blocks, ceilDiv(n, t)), shared: shared(t)}
}

// gemmLaunch multiplies some rows with n vectors.
func (p *product) gemmLaunch(rows, n int) launch {
	if p.hasWide && n > gemmTokens {
		return launch{kernel: p.gemmWide, grid: driver.D2(ceilDiv(rows, gemmRows), ceilDiv(n, wideTokens))}
	}
	return launch{kernel: p.gemm, grid: driver.D2(ceilDiv(rows, p.gemmRows), ceilDiv(n, gemmTokens))}
}

// mixedGemv returns the kernel that multiplies with matrices of which some have kernel a and some b, in one launch.
func mixedGemv(a, b kernels.ID) (mixed kernels.ID, ok bool) {
	families := [...][]kernels.ID{
		{kernels.GemvPackedMixedID, kernels.GemvPacked3ID, kernels.GemvPacked4ID, kernels.GemvPacked5ID, kernels.GemvPacked6ID,
			kernels.GemvPacked8ID},
		{kernels.GemvFusedG2ID, kernels.GemvFusedG3ID}, // which differ in the tables that they can take
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

// rowLanes returns how many lanes of a warp should share a row of a packed product: few waste fewer of them on the end of a row
// and share its overhead, many give work to more warps.
func (w *weight) rowLanes(sms int) int {
	const overhead = 0.4 // of a row, in pieces
	best, least := 0, 0.0
	for lanes := 4; lanes <= 32; lanes *= 2 {
		passes := float64(ceilDiv(ceilDiv(w.Cols, pieceCols), lanes)) + overhead
		cost := passes * max(1, float64(ceilDiv(w.Rows, quadRows)*lanes)/float64(32*warpsPerSM*sms))
		if best == 0 || cost < least {
			best, least = lanes, cost
		}
	}
	return best
}

// fusedGrid returns the blocks of a fused product: a warp for every group, or where that leaves multiprocessors without work, for
// every chunk.
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
func (w *weight) fusedGemv() (k kernels.ID, prepared bool) {
	c, d := &w.Coded.Coding, &w.desc
	if !w.fusedInHalf() {
		return kernels.GemvFusedF32ID, false
	}
	if d.ScaleKind != kernels.ScaleBlock && c.LowBits == 0 && d.MaxLen <= tripleMaxLen {
		return kernels.GemvFusedG3ID, true
	}
	byLowBits := fusedKernels(d)
	if c.LowBits >= len(byLowBits) {
		return kernels.GemvFusedF32ID, false
	}
	return byLowBits[c.LowBits], true
}

// fusedInHalf tells whether the levels of w are small integers that the fused kernels multiply in half precision.
func (w *weight) fusedInHalf() bool {
	c, d := &w.Coded.Coding, &w.desc
	integers := len(c.Values) == 0 && c.Float == format.NotFloat && c.LowBits <= fusedLowBits
	inTable := d.TableBias >= fusedLeast && d.TableBias+d.Levels-1 <= fusedMost
	return integers && inTable && (d.ScaleKind != kernels.ScaleBlock || d.CodeOffset == 0)
}

// fusedKernels returns the fused half-precision kernels of a kind of scale, by low bits.
func fusedKernels(d *kernels.Matrix) []kernels.ID {
	switch {
	case d.ScaleKind != kernels.ScaleBlock:
		return []kernels.ID{kernels.GemvFusedG2ID, kernels.GemvFusedLow1ID, kernels.GemvFusedLow2ID, kernels.GemvFusedLow3ID,
			kernels.GemvFusedLow4ID}
	case d.BlockShift < 4:
		return nil
	case d.BlockShift == 4:
		return []kernels.ID{kernels.GemvFusedBlock160ID, kernels.GemvFusedBlock161ID, kernels.GemvFusedBlock162ID}
	case d.BlockShift == 5:
		return []kernels.ID{kernels.GemvFusedBlock320ID, kernels.GemvFusedBlock321ID, kernels.GemvFusedBlock322ID,
			kernels.GemvFusedBlock323ID, kernels.GemvFusedBlock324ID}
	}
	return []kernels.ID{kernels.GemvFusedBlock640ID, kernels.GemvFusedBlock641ID}
}

// chooseGemm picks the product of many vectors with a decoded or raw matrix: on tensor cores where there are any, or else in
// packed half precision, which both need prepared vectors; or in float32.
func (p *product) chooseGemm(d *kernels.Matrix, on processor) {
	switch {
	case d.Steps == 0 || d.ScaleKind == kernels.ScaleBlock && d.BlockShift < 4: // raw: rows are not padded to whole steps
		float := [...]kernels.ID{kernels.TypeU8: kernels.GemmU8ID, kernels.TypeI32: kernels.GemmI32ID,
			kernels.TypeF32: kernels.GemmF32ID,
			kernels.TypeF16: kernels.GemmF16ID, kernels.TypeBf16: kernels.GemmBf16ID}
		p.gemm, p.gemmRows, p.gemmUnit = float[d.Type], 64, gemmTokens
	case on.mma:
		tensor := [...]kernels.ID{kernels.TypeU8: kernels.GemmMmaU8ID, kernels.TypeI32: kernels.GemmMmaI32ID,
			kernels.TypeF16: kernels.GemmMmaF16ID, kernels.TypeBf16: kernels.GemmMmaBf16ID}
		p.gemm, p.gemmRows, p.gemmUnit, p.halfGemm = tensor[d.Type], gemmRows, 8, true
		if p.hasWide = on.async && d.Type == kernels.TypeU8; p.hasWide {
			p.gemmWide = kernels.GemmWideU8ID
		}
		if p.hasWide && d.ScaleKind == kernels.ScaleBlock {
			p.gemmWide = kernels.GemmWideBlockU8ID
		}
	default:
		half := [...]kernels.ID{kernels.TypeU8: kernels.GemmHalfU8ID, kernels.TypeI32: kernels.GemmHalfI32ID,
			kernels.TypeF16: kernels.GemmHalfF16ID, kernels.TypeBf16: kernels.GemmHalfBf16ID}
		p.gemm, p.gemmRows, p.gemmUnit, p.halfGemm = half[d.Type], gemmRows, 16, true
	}
}
