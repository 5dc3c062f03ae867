package gpu

import (
	"context"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// codeTableBytes is the size of struct code_table.
const codeTableBytes = 16

// loader fills the weights' arena. Tensors stream: each is checked, copied piece by piece, and its pages of the file given back.
type loader struct {
	*launcher
	file    *format.Reader
	weights *arena
	work    *arena // pieces of what is decoded on the way
	piece   int64  // most bytes of each kind that are in the work area at a time
	tables  driver.DevicePtr
	sms     int
}

func (l *loader) load(ctx context.Context, ws []*weight, progress func(done, total int64)) error {
	if err := l.loadTables(l.file.Tables()); err != nil {
		return fmt.Errorf("code tables: %w", err)
	}
	var done, total int64
	for _, w := range ws {
		if w.Coded != nil {
			total += w.Bytes
		}
	}
	verified, stop := l.verifyAhead(ws)
	defer stop()
	for _, w := range ws {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.where = w.Name
		if err := <-verified; err != nil {
			return fmt.Errorf("tensor %s: %w", w.Name, err)
		}
		if err := l.loadWeight(w); err != nil {
			return fmt.Errorf("tensor %s: %w", w.Name, err)
		}
		if w.Coded != nil {
			done += w.Bytes
			if progress != nil {
				progress(done, total)
			}
		}
	}
	return l.dev.Synchronize()
}

// verifyAhead reads and checks each tensor while the one before it is uploaded and decoded. Tensors' results come in order; stop ends it.
func (l *loader) verifyAhead(ws []*weight) (verified <-chan error, stop func()) {
	results, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for _, w := range ws {
			select {
			case results <- l.file.Verify(w.Tensor):
			case <-end:
				return
			}
		}
	}()
	return results, func() {
		close(end)
		<-ended // the file may be closed afterwards
	}
}

// loadTables uploads the look-up tables: entry i is the symbol that the low bits i of a stream begin with, a0 | a1<<8 | length<<16.
func (l *loader) loadTables(tables []*huffman.Table) error {
	list := make([]byte, 0, (len(tables)+1)*codeTableBytes)
	for _, t := range tables {
		short := huffman.Table{Levels: t.Levels, MaxLen: longestCode(t), Lens: t.Lens}
		p, err := l.weights.put(bytesOf(short.Lookup()))
		if err != nil {
			return err
		}
		b, err := structBytes(&codeTableDesc{Entries: p, MaxLen: int64(short.MaxLen)})
		if err != nil {
			return err
		}
		list = append(list, b...)
	}
	list = list[:cap(list)] // one more, zero: a file without tables has a list all the same
	var err error
	l.tables, err = l.weights.put(list)
	return err
}

func (l *loader) loadWeight(w *weight) error {
	if err := l.file.Verify(w.Tensor); err != nil {
		return err
	}
	defer l.file.Release(w.Tensor)
	empty := l.weights.used
	if err := l.placeParts(w); err != nil || w.form == formVector {
		return err
	}
	if w.form == formPlane || w.form == formPacked {
		if err := l.decodePlane(w); err != nil {
			return err
		}
	}
	if fits, err := l.remaindersFit(w); err != nil {
		return err
	} else if !fits {
		// The estimate was wrong. The coded form takes no more memory than was planned for.
		w.form = formCoded
		if err := l.weights.rewind(empty); err != nil {
			return err
		}
		if err := l.placeParts(w); err != nil {
			return err
		}
	}
	if w.Coded != nil && w.Coded.Scale.Kind == format.ScaleBlock {
		if err := l.expandScales(w); err != nil {
			return err
		}
	}
	if w.use&useProduct != 0 {
		w.product = l.chooseProduct(w, l.sms)
	}
	return l.putDesc(w)
}

// placeParts takes and fills the parts of w, and room for its descriptor.
func (l *loader) placeParts(w *weight) error {
	for _, p := range w.parts(w.form) {
		if err := place(l.weights, p); err != nil {
			return err
		}
	}
	if w.form == formVector {
		return nil
	}
	desc, err := structBytes(&w.desc)
	if err != nil {
		return err
	}
	w.desc.Tables = l.tables
	w.descDev, err = l.weights.take(int64(len(desc)))
	return err
}

// place takes a part's block and fills it if the host has its contents.
func place(a *arena, p part) error {
	ptr, err := a.take(p.size)
	if err != nil {
		return err
	}
	*p.dst = ptr
	if p.data == nil {
		return nil
	}
	return a.dev.CopyHtoD(ptr, p.data())
}

func (l *loader) putDesc(w *weight) error {
	d := w.desc
	if w.form == formPacked {
		d.Type = typePacked
	}
	b, err := structBytes(&d)
	if err != nil {
		return err
	}
	return l.dev.CopyHtoD(w.descDev, b)
}

// decodePlane decodes w into its plane, or into packed codes, as many groups at a time as fit the pieces. The descriptor's stream pointers are moved so that
// the file's offsets, counted from the beginning of the tensor, hit the piece.
func (l *loader) decodePlane(w *weight) error {
	for _, p := range w.directoryParts() {
		if err := place(l.work, p); err != nil {
			return err
		}
	}
	c, final := w.Coded, w.desc
	stream, err := l.work.take(min(4*int64(len(c.Stream)), l.piece))
	if err != nil {
		return err
	}
	var low driver.DevicePtr
	if c.Low != nil {
		if low, err = l.work.take(min(4*int64(len(c.Low)), l.piece)); err != nil {
			return err
		}
	}
	unit, most := 1, c.Groups()
	var stage driver.DevicePtr
	if w.form == formPacked {
		unit, most = w.stageGroups(l.piece)
		if stage, err = l.work.take(w.stageBytes(l.piece)); err != nil {
			return err
		}
		w.desc.Type, w.desc.DataZero = typeU8, w.packedBase()
	}
	for g := 0; g < c.Groups(); {
		end, err := pieceEnd(c, g, min(g+most, c.Groups()), unit, l.piece)
		if err != nil {
			return err
		}
		first := c.ChunkOffset[g*c.Tiles()]
		if err := l.dev.CopyHtoD(stream, bytesOf(c.Stream[first:min(int(c.ChunkOffset[end*c.Tiles()])+c.MaxGuardWords(), len(c.Stream))])); err != nil {
			return err
		}
		w.desc.Stream = stream - 4*driver.DevicePtr(first)
		if c.Low != nil {
			if err := l.dev.CopyHtoD(low, bytesOf(c.Low[c.LowOffset(g, 0):c.LowOffset(end, 0)])); err != nil {
				return err
			}
			w.desc.Low = low - 4*driver.DevicePtr(c.LowOffset(g, 0))
		}
		if err := l.putDesc(w); err != nil {
			return err
		}
		if w.form == formPacked {
			err = l.decodePacked(w, g, end-g, stage)
		} else {
			err = l.decode(w, g, end-g, l.sms, w.desc.Data+driver.DevicePtr(w.planeBytes(g*c.Coding.RowsPerGroup)))
		}
		if err != nil {
			return err
		}
		g = end
	}
	if err := l.dev.Synchronize(); err != nil {
		return err
	}
	w.desc = final
	return l.work.reset()
}

// pieceEnd returns the end, at most `last`, of the longest run of groups from g on whose streams, and low bits, take at most `most` bytes each. The
// run is a multiple of `unit` groups or ends with the last group.
func pieceEnd(c *format.Coded, g, last, unit int, most int64) (int, error) {
	first, firstLow := int64(c.ChunkOffset[g*c.Tiles()]), int64(c.LowOffset(g, 0))
	end := g
	for end < last {
		words := int64(c.ChunkOffset[(end+1)*c.Tiles()]) - first + int64(c.MaxGuardWords())
		lowWords := int64(0)
		if c.Low != nil {
			lowWords = int64(c.LowOffset(end+1, 0)) - firstLow
		}
		if 4*max(words, lowWords) > most {
			break
		}
		end++
	}
	if end < c.Groups() {
		end = g + (end-g)/unit*unit
	}
	if end == g {
		return 0, fmt.Errorf("group %d and those next to it take more than %d bytes; compress the model again", g, most)
	}
	return end, nil
}

// scaleRows returns the rows whose sub-scales are expanded at a time, into at most `most` bytes: a multiple of 32, so that packed values start on a whole word.
func (w *weight) scaleRows(most int64) int {
	if w.Coded.Scale.Kind != format.ScaleBlock {
		return w.Rows
	}
	fit := int(most / max(w.blockScaleBytes(1), 1))
	return min(w.Rows, max(fit/32*32, 32))
}

// subScaleParts lists the two-level scales of rows [r0, r0+n) as block_scales reads them; r0 is a multiple of 32.
// The order is d, dmin, sub_scale, sub_min; absent ones have no size. dst is for the caller to set.
func (w *weight) subScaleParts(r0, n int) []part {
	c := w.Coded
	if c.Scale.Kind != format.ScaleBlock {
		return nil
	}
	supers, blocks := c.Cols/c.Scale.Super, c.Cols/c.Scale.Block
	halves := func(v []uint16) part {
		if v == nil {
			return part{}
		}
		return hostPart(nil, v[r0*supers:(r0+n)*supers])
	}
	packed := func(v []byte) part {
		if v == nil || c.Scale.SubBits == 0 {
			return part{}
		}
		bit := int64(blocks) * int64(c.Scale.SubBits)
		return hostPart(nil, v[int64(r0)*bit/8:(int64(r0+n)*bit+7)/8])
	}
	return []part{halves(c.D), halves(c.DMin), packed(c.SubScale), packed(c.SubMin)}
}

// expandScales computes the effective scale (and minimum) of every block, float16 in units of a power of two.
func (l *loader) expandScales(w *weight) error {
	c, d := w.Coded, &w.desc
	for r := 0; r < w.Rows; {
		n := min(w.scaleRows(l.piece), w.Rows-r)
		var src [4]driver.DevicePtr
		for i, p := range w.subScaleParts(r, n) {
			if p.size == 0 {
				continue
			}
			p.dst = &src[i]
			if err := place(l.work, p); err != nil {
				return err
			}
		}
		const threads = 256
		grid := driver.D1(min(ceilDiv(ceilDiv(n, quadRows)*quadRows*int(d.BlockStride), threads), blocksPerSM*l.sms))
		at := driver.DevicePtr(w.blockScaleBytes(r))
		if err := l.blockScales(grid, 0, src[0], src[1], src[2], src[3], int32(n), d.Blocks, d.BlockStride, int32(c.Scale.Super/c.Scale.Block),
			int32(c.Scale.SubBits), int32(c.Scale.SubBias), 1/d.BlockUnit, 1/d.MinUnit, d.BlockScale+at, d.BlockMin+at); err != nil {
			return err
		}
		if err := l.dev.Synchronize(); err != nil {
			return err
		}
		if err := l.work.reset(); err != nil {
			return err
		}
		r += n
	}
	return nil
}
