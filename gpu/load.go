package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// codeTableBytes is the size of struct code_table.
const codeTableBytes = 16

// loader fills the weights' arena. Tensors stream: each is checked, copied piece by piece, and its pages of the file given back. Copies are queued on
// one stream, what the device makes of them on another (the launcher's): while a piece is decoded, the next is uploaded to the other slot.
type loader struct {
	*launcher
	file    *format.Reader
	weights *arena
	slots   [2]slot
	next    int              // slot
	stage   driver.DevicePtr // rows that are decoded to bytes before they are packed
	upload  driver.Stream
	piece   int64 // most bytes of each kind that are in a slot
	tables  driver.DevicePtr
	sms     int
}

// newLoader returns a loader that works in `work`.
func newLoader(l *launcher, f *format.Reader, weights, work *arena, size loadSizes, sms int) (*loader, error) {
	ld := &loader{launcher: l, file: f, weights: weights, piece: size.piece, sms: sms}
	var err error
	for i := range ld.slots {
		if ld.slots[i], err = newSlot(l.dev, work, size.slot); err != nil {
			return nil, err
		}
	}
	if size.stage > 0 {
		if ld.stage, err = work.take(size.stage); err != nil {
			return nil, err
		}
	}
	if ld.upload, err = l.dev.NewStream(); err != nil {
		return nil, err
	}
	l.stream, err = l.dev.NewStream()
	return ld, err
}

// close gives back streams and events, and leaves the launcher on the default stream.
func (l *loader) close() error {
	errs := []error{l.upload.Destroy(), l.stream.Destroy()}
	l.stream = nil
	for i := range l.slots {
		errs = append(errs, l.slots[i].free())
	}
	return errors.Join(errs...)
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
	places := make([]*arena, len(ws))
	for i, w := range ws {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.where = w.Name
		err := <-verified
		if err == nil {
			places[i], err = l.weights.carve(w.span(w.form) + w.descSpan())
		}
		if err == nil {
			err = l.loadWeight(w, places[i])
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", w.Name, err)
		}
		if w.Coded != nil {
			done += w.Bytes
			if progress != nil {
				progress(done, total)
			}
		}
	}
	return l.reload(ws, places)
}

// reload loads matrices once more, as they are coded, of which more had to be clipped than there was room for. That takes no more memory than was
// planned for.
func (l *loader) reload(ws []*weight, places []*arena) error {
	if err := l.dev.Synchronize(); err != nil {
		return err
	}
	for i, w := range ws {
		fits, err := l.remaindersFit(w)
		if err == nil && !fits {
			w.form = formCoded
			if err = places[i].reset(); err == nil {
				err = l.loadWeight(w, places[i])
			}
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", w.Name, err)
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

// loadWeight queues all that brings w to the device, into `to`.
func (l *loader) loadWeight(w *weight, to *arena) error {
	if err := l.file.Verify(w.Tensor); err != nil {
		return err
	}
	defer l.file.Release(w.Tensor)
	for _, p := range w.parts(w.form) {
		if err := l.place(to, p); err != nil {
			return err
		}
	}
	if w.form == formVector {
		return nil
	}
	w.desc.Tables = l.tables
	if w.form == formPlane || w.form == formPacked {
		if err := l.decodePlane(w); err != nil {
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
	return l.putDesc(w, to)
}

// place takes a part's block and queues the copy of its contents if the host has them.
func (l *loader) place(a *arena, p part) error {
	ptr, err := a.take(p.size)
	if err != nil {
		return err
	}
	*p.dst = ptr - driver.DevicePtr(p.skip)
	if p.data == nil {
		return nil
	}
	return l.dev.CopyHtoDOn(l.upload, ptr, p.data())
}

// putDesc places the descriptor of w.
func (l *loader) putDesc(w *weight, to *arena) error {
	d := w.desc
	if w.form == formPacked {
		d.Type = typePacked
	}
	b, err := structBytes(&d)
	if err != nil {
		return err
	}
	return l.place(to, hostPart(&w.descDev, b))
}

// decodePlane decodes w into its plane, or into packed codes, as many groups at a time as fit a slot.
func (l *loader) decodePlane(w *weight) error {
	c := w.Coded
	unit, most := 1, c.Groups()
	if w.form == formPacked {
		unit, most = w.stageGroups(l.piece)
	}
	for g := 0; g < c.Groups(); {
		end, err := pieceEnd(c, g, min(g+most, c.Groups()), unit, l.piece)
		if err != nil {
			return err
		}
		if err := l.decodePiece(w, g, end); err != nil {
			return err
		}
		g = end
	}
	return nil
}

// decodePiece decodes groups g … end − 1 of w, by a descriptor of these alone.
func (l *loader) decodePiece(w *weight, g, end int) error {
	piece := *w
	if w.form == formPacked {
		piece.desc.Type, piece.desc.DataZero = typeU8, w.packedBase()
	}
	return l.inSlot(func(a *arena) error {
		for _, p := range piece.pieceParts(g, end) {
			if err := l.place(a, p); err != nil {
				return err
			}
		}
		return l.putDesc(&piece, a)
	}, func() error {
		if w.form == formPacked {
			return l.decodePacked(&piece, g, end-g, l.stage)
		}
		return l.decode(&piece, g, end-g, l.sms, piece.desc.Data+driver.DevicePtr(piece.planeBytes(g*w.Coded.Coding.RowsPerGroup)))
	})
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
	for r := 0; r < w.Rows; {
		n := min(w.scaleRows(l.piece), w.Rows-r)
		var src [4]driver.DevicePtr
		if err := l.inSlot(func(a *arena) error {
			for i, p := range w.subScaleParts(r, n) {
				if p.size == 0 {
					continue
				}
				p.dst = &src[i]
				if err := l.place(a, p); err != nil {
					return err
				}
			}
			return nil
		}, func() error { return l.expandRows(w, r, n, src) }); err != nil {
			return err
		}
		r += n
	}
	return nil
}

// expandRows is expandScales for rows r … r + n − 1, whose parts are at src.
func (l *loader) expandRows(w *weight, r, n int, src [4]driver.DevicePtr) error {
	c, d := w.Coded, &w.desc
	const threads = 256
	grid := driver.D1(min(ceilDiv(ceilDiv(n, quadRows)*quadRows*int(d.BlockStride), threads), blocksPerSM*l.sms))
	at := driver.DevicePtr(w.blockScaleBytes(r))
	return l.blockScales(grid, 0, src[0], src[1], src[2], src[3], int32(n), d.Blocks, d.BlockStride, int32(c.Scale.Super/c.Scale.Block),
		int32(c.Scale.SubBits), int32(c.Scale.SubBias), 1/d.BlockUnit, 1/d.MinUnit, d.BlockScale+at, d.BlockMin+at)
}
