package gpu

import (
	"math/bits"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

const (
	quadRows  = 4  // rows that packed codes interleave (cuda/packed.cuh)
	pieceCols = 32 // columns of a piece
	// A width is chosen only if at most this share of the weights is estimated to lie outside.
	maxClipped = 0.02
	// clippedCost is what a clipped weight costs in time where instructions limit a product, as many bits to read: its word, and about forty
	// instructions, while a weight that is not clipped takes two.
	clippedCost = 128
	// clipReserve is how much more remainders than estimated there is room for.
	clipReserve = 1.25
	// warpsPerSM is about how many warps of a packed product a multiprocessor holds at a time.
	warpsPerSM = 24
)

// packing is how a weight's codes are packed when it is decoded at load.
type packing struct {
	bits int // 0: the codes cannot be packed
	// clipped tells that codes do not hold all levels: what lies outside is kept apart, in room estimated from the code tables.
	clipped  bool
	room     uint32  // remainders
	expected float64 // how many there will be
	gemv     kernelID
}

// packedKernels returns the products for codes of each width, by kind of scale. min: blocks have minima.
func packedKernels(d *matrixDesc, min bool) map[int]kernelID {
	switch {
	case d.ScaleKind == scaleTensor, d.ScaleKind == scaleRow:
		return map[int]kernelID{
			3: kernelGemvPacked3,
			4: kernelGemvPacked4,
			5: kernelGemvPacked5,
			6: kernelGemvPacked6,
			8: kernelGemvPacked8,
		}
	case d.ScaleKind != scaleBlock || d.BlockShift < 4:
		return nil
	case d.BlockShift == 4 && min:
		return map[int]kernelID{
			3: kernelGemvPacked3Block16Min,
			8: kernelGemvPacked8Block16Min,
		}
	case d.BlockShift == 4:
		return map[int]kernelID{
			3: kernelGemvPacked3Block16,
			6: kernelGemvPacked6Block16,
			8: kernelGemvPacked8Block16,
		}
	case min:
		return map[int]kernelID{
			4: kernelGemvPacked4Block32Min,
			5: kernelGemvPacked5Block32Min,
			8: kernelGemvPacked8Block32Min,
		}
	}
	return map[int]kernelID{
		4: kernelGemvPacked4Block32,
		5: kernelGemvPacked5Block32,
		8: kernelGemvPacked8Block32,
	}
}

// describePacked chooses the width of the packed codes: the one that takes least time, what it leaves out included.
func (w *weight) describePacked(tables []*huffman.Table) {
	c, d, k := w.Coded, &w.desc, &w.Coded.Coding
	if k.Float != format.NotFloat {
		return
	}
	codes, first := k.Levels<<k.LowBits, int(k.Zero) // without outliers
	if len(k.Values) > 0 {
		lo, hi := codeRange(c)
		codes, first = hi-lo+1, lo
	}
	if codes > 256 {
		return
	}
	var shares []float64
	if len(k.Values) == 0 {
		shares = levelShares(c, tables)
	}
	least := 0.0
	kernels := packedKernels(d, c.DMin != nil)
	for _, width := range []int{3, 4, 5, 6, 8} {
		clip := window{}
		if kernels[width] == 0 {
			continue
		}
		if 1<<width < codes {
			if shares == nil || width <= k.LowBits {
				continue
			}
			if clip = bestWindow(shares, 1<<(width-k.LowBits)); clip.outside > maxClipped {
				continue
			}
		}
		cost := float64(width) + clippedCost*clip.outside
		if w.packed.bits != 0 && cost >= least {
			continue
		}
		least = cost
		room, expected := uint32(len(c.Outliers)), clip.outside*float64(w.Rows)*float64(w.Cols)+float64(len(c.Outliers))
		if clip.outside > 0 {
			room += uint32(clipReserve*clip.outside*float64(w.Rows)*float64(w.Cols)) + 64
		}
		w.packed = packing{width, clip.outside > 0, room, expected, kernels[width]}
		d.PackedBits, d.PackedFirst, d.PackedZero = int32(width), int32(clip.first), int32(first+clip.first<<k.LowBits)
	}
	d.PackedCenter = max(0, min(1<<d.PackedBits-1, int32(usualCode(c))-d.PackedZero))
}

// levelShares estimates how often each level occurs, outliers aside, from the lengths of the pairs' codes. What is rare comes out too often, since
// a code's length is limited.
func levelShares(c *format.Coded, tables []*huffman.Table) []float64 {
	cells := make([]int, len(tables)) // rows × steps
	for i, t := range c.ChunkTable {
		cells[t] += c.GroupRows(i/c.Tiles()) * c.TileSteps(i%c.Tiles())
	}
	n := c.Coding.Levels
	shares := make([]float64, n)
	for i, t := range tables {
		if cells[i] == 0 || t.Levels != n {
			continue
		}
		for pair, length := range t.Lens {
			if length > 0 {
				p := float64(cells[i]) / float64(c.Rows*c.Steps()) / float64(uint(2)<<length)
				shares[pair/n] += p
				shares[pair%n] += p
			}
		}
	}
	return shares
}

// window is a run of levels, and the share of the weights outside.
type window struct {
	first   int
	outside float64
}

// bestWindow returns the run of n levels that leaves least outside.
func bestWindow(shares []float64, n int) window {
	best := window{outside: 2}
	for first := range len(shares) - n + 1 {
		w := window{first: first}
		for a, p := range shares {
			if a < first || a >= first+n {
				w.outside += p
			}
		}
		if w.outside < best.outside {
			best = w
		}
	}
	return best
}

// packedParts are the packed codes and what they leave out.
func (w *weight) packedParts() []part {
	d := &w.desc
	quads := int64(ceilDiv(w.Rows, quadRows))
	ps := []part{{dst: &d.Data, size: quads * quadRows * int64(ceilDiv(w.Cols, pieceCols)) * int64(d.PackedBits) * wordBytes}}
	if w.packed.room > 0 {
		ps = append(ps, part{dst: &d.RemainderStart, size: (quads + 1) * wordBytes}, part{dst: &d.Remainders, size: int64(w.packed.room) * wordBytes})
	}
	return ps
}

// stageGroups returns how many groups are whole quads of rows, and how many load decodes at a time, to bytes, before it packs them.
func (w *weight) stageGroups(piece int64) (unit, most int) {
	rows := w.Coded.Coding.RowsPerGroup
	unit = quadRows >> min(bits.TrailingZeros(uint(rows)), 2)
	fit := int(piece) / (unit * rows * int(w.desc.Stride))
	return unit, max(fit, 1) * unit
}

// stageBytes returns the bytes that the rows decoded at a time take.
func (w *weight) stageBytes(piece int64) int64 {
	_, most := w.stageGroups(piece)
	return int64(min(most*w.Coded.Coding.RowsPerGroup, w.Rows)) * int64(w.desc.Stride)
}

// packedBase is what decoded codes are counted from before they are packed.
func (w *weight) packedBase() float32 {
	d := &w.desc
	return float32(d.PackedZero - d.PackedFirst<<d.LowBits)
}

// rowLanes returns how many lanes of a warp should share a row of a packed product: few waste fewer of them on the end of a row and share its
// overhead, many give work to more warps.
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

// decodePacked decodes groups first … first + n − 1 to plane and packs them. The descriptor on the device says TYPE_PACKED, which only later readers heed.
func (l *loader) decodePacked(w *weight, first, n int, plane driver.DevicePtr) error {
	if err := l.decodeChunks(w, first, n, l.sms, plane); err != nil {
		return err
	}
	d := &w.desc
	row := first * w.Coded.Coding.RowsPerGroup
	quad, quads := int32(row/quadRows), int32(ceilDiv(min(n*w.Coded.Coding.RowsPerGroup, w.Rows-row), quadRows))
	grid := driver.D1(min(ceilDiv(int(quads), gemvWarps), blocksPerSM*l.sms))
	if w.packed.room > 0 {
		if err := l.packCount(grid, 0, w.descDev, quad, quads, plane, d.RemainderStart); err != nil {
			return err
		}
		if err := l.packStarts(driver.D1(1), 0, quad, quads, d.RemainderStart); err != nil {
			return err
		}
	}
	return l.packCodes(grid, 0, w.descDev, quad, quads, plane, d.Data, d.RemainderStart, d.Remainders, w.packed.room)
}

// remaindersFit tells whether what was clipped has found room.
func (l *loader) remaindersFit(w *weight) (bool, error) {
	if w.form != formPacked || w.packed.room == 0 {
		return true, nil
	}
	n := make([]uint32, 1)
	end := w.desc.RemainderStart + driver.DevicePtr(ceilDiv(w.Rows, quadRows))*wordBytes
	err := l.dev.CopyDtoH(bytesOf(n), end)
	return n[0] <= w.packed.room, err
}

// unpack writes rows first … first + n − 1 of a packed matrix to plane, as decode does; first is a multiple of quadRows.
func (l *launcher) unpack(w *weight, first, n, sms int, plane driver.DevicePtr) error {
	quads := ceilDiv(n, quadRows)
	grid := driver.D1(min(ceilDiv(quads, gemvWarps), blocksPerSM*sms))
	if w.desc.Type == typeI32 {
		return l.unpackCodesI32(grid, 0, w.descDev, int32(first/quadRows), int32(quads), plane)
	}
	return l.unpackCodesU8(grid, 0, w.descDev, int32(first/quadRows), int32(quads), plane)
}
