package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// codeTableBytes is the size of struct code_table.
const codeTableBytes = 16

// loader fills the weights' arena. Tensors stream: each is checked, copied stretch by stretch, and its pages of the file given
// back. Copies are queued on one stream, what the device makes of them on another (the launcher's): while a stretch is decoded,
// the next is uploaded to the other staging buffer.
type loader struct {
	staging
	file    *format.Reader
	weights *arena
	bytes   driver.DevicePtr // rows that are decoded to bytes before they are packed
	stretch int64            // most bytes of each kind that are in a staging buffer
	tables  driver.DevicePtr
	on      processor
}

// newLoader returns a loader that works in `work`.
func newLoader(l *kernels.Launcher, f *format.Reader, weights, work *arena, size loadSizes, on processor) (*loader, error) {
	ld := &loader{staging: staging{Launcher: l}, file: f, weights: weights, stretch: size.stretch, on: on}
	if err := ld.open(work, size); err != nil {
		return nil, errors.Join(err, ld.close())
	}
	return ld, nil
}

func (l *loader) open(work *arena, size loadSizes) (err error) {
	for i := range l.buffers {
		if l.buffers[i], err = newStagingBuffer(l.Dev, work, size.staging); err != nil {
			return err
		}
	}
	if size.unpacked > 0 {
		if l.bytes, err = work.take(size.unpacked); err != nil {
			return err
		}
	}
	if l.upload, err = l.Dev.NewStream(); err != nil {
		return err
	}
	l.Stream, err = l.Dev.NewStream()
	return err
}

// close gives back streams and events, and leaves the launcher on the default stream.
func (l *loader) close() error {
	errs := []error{destroy(l.upload, l.Stream)}
	l.Stream = nil
	for i := range l.buffers {
		errs = append(errs, l.buffers[i].free())
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
		l.Label = w.Name
		err := <-verified
		if err == nil {
			places[i], err = l.weights.carve(w.arenaBytes(w.form) + w.descriptorBytes())
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

// reload falls back to the coded form for matrices with more exceptions than the reserved room. That takes no more memory than
// was planned for.
func (l *loader) reload(ws []*weight, places []*arena) error {
	if err := l.Dev.Synchronize(); err != nil {
		return err
	}
	for i, w := range ws {
		fits, err := l.exceptionsFit(w)
		if err == nil && !fits {
			w.settle(formCoded, l.on)
			if err = places[i].reset(); err == nil {
				err = l.loadWeight(w, places[i])
			}
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", w.Name, err)
		}
	}
	return l.Dev.Synchronize()
}

// verifyAhead reads and checks each tensor while the one before it is uploaded and decoded. Tensors' results come in order; stop
// ends it.
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

// loadTables uploads the look-up tables: entry i is the symbol that the low bits i of a stream begin with, a0 | a1<<8 |
// length<<16.
func (l *loader) loadTables(tables []*huffman.Table) error {
	list := make([]byte, 0, (len(tables)+1)*codeTableBytes)
	for _, t := range tables {
		short := huffman.Table{Levels: t.Levels, MaxLen: longestCode(t), Lens: t.Lens}
		p, err := l.weights.put(bytesOf(short.Lookup()))
		if err != nil {
			return err
		}
		b, err := structBytes(&kernels.CodeTable{Entries: p, MaxLen: int64(short.MaxLen)})
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
	for _, p := range w.blocks(w.form) {
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
	return l.putDescriptor(w, w.form, to)
}

// place allocates a block and queues the copy of its contents if the host has them.
func (l *loader) place(a *arena, b deviceBlock) error {
	ptr, err := a.take(b.size)
	if err != nil {
		return err
	}
	*b.dst = ptr - driver.DevicePtr(b.skip)
	if b.data == nil {
		return nil
	}
	return l.Dev.CopyHtoDOn(l.upload, ptr, b.data())
}

// putDescriptor places the descriptor of w in a form.
func (l *loader) putDescriptor(w *weight, f form, to *arena) error {
	d := w.descriptor(f)
	b, err := structBytes(&d)
	if err != nil {
		return err
	}
	return l.place(to, hostBlock(&w.descDev, b))
}

// decodePlane decodes w into its plane, or into packed codes, as many groups at a time as fit a staging buffer.
func (l *loader) decodePlane(w *weight) error {
	c := w.Coded
	unit, most := 1, c.Groups()
	if w.form == formPacked {
		unit, most = w.unpackedGroups(l.stretch)
	}
	for g := 0; g < c.Groups(); {
		end, err := stretchEnd(c, g, min(g+most, c.Groups()), unit, l.stretch)
		if err != nil {
			return err
		}
		if err := l.decodeStretch(w, g, end); err != nil {
			return err
		}
		g = end
	}
	return nil
}

// decodeStretch decodes groups g … end − 1 of w, by a descriptor of these alone.
func (l *loader) decodeStretch(w *weight, g, end int) error {
	stretch := *w
	if w.form == formPacked {
		stretch.desc.Type, stretch.desc.DataZero = kernels.TypeU8, w.packedBase()
	}
	return l.staged(func(a *arena) error {
		for _, b := range stretch.stretchBlocks(g, end) {
			if err := l.place(a, b); err != nil {
				return err
			}
		}
		return l.putDescriptor(&stretch, w.form, a)
	}, func() error {
		if w.form == formPacked {
			return l.decodePacked(&stretch, g, end-g, l.bytes)
		}
		return decode(l.Launcher, &stretch, g, end-g, l.on.sms,
			stretch.desc.Data+driver.DevicePtr(stretch.planeBytes(g*w.Coded.Coding.RowsPerGroup)))
	})
}

// stretchEnd returns the end, at most `last`, of the longest run of groups from g on whose streams, and low bits, take at most
// `most` bytes each. The run is a multiple of `unit` groups or ends with the last group.
func stretchEnd(c *format.Coded, g, last, unit int, most int64) (int, error) {
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

// expandScales computes the effective scale (and minimum) of every block, float16 in units of a power of two.
func (l *loader) expandScales(w *weight) error {
	for r := 0; r < w.Rows; {
		n := min(w.scaleRows(l.stretch), w.Rows-r)
		var src [4]driver.DevicePtr
		if err := l.staged(func(a *arena) error {
			for i, p := range w.subScaleBlocks(r, n) {
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
	grid := driver.D1(min(ceilDiv(ceilDiv(n, quadRows)*quadRows*int(d.BlockStride), threads), blocksPerSM*l.on.sms))
	at := driver.DevicePtr(w.blockScaleBytes(r))
	return l.BlockScales(grid, kernels.BlockScalesArgs{D: src[0], DMin: src[1], Sub: src[2], SubMin: src[3], Rows: int32(n),
		Blocks: d.Blocks, Stride: d.BlockStride,
		PerSuper: int32(c.Scale.Super / c.Scale.Block), SubBits: int32(c.Scale.SubBits), SubBias: int32(c.Scale.SubBias),
		InvUnit: 1 / d.BlockUnit, InvMinUnit: 1 / d.MinUnit,
		Out: d.BlockScale + at, OutMin: d.BlockMin + at})
}

// decodePacked decodes groups first … first + n − 1 to plane and packs them. The descriptor on the device says TYPE_PACKED, which
// only later readers heed.
func (l *loader) decodePacked(w *weight, first, n int, plane driver.DevicePtr) error {
	if err := decodeChunks(l.Launcher, w, first, n, l.on.sms, plane); err != nil {
		return err
	}
	d := &w.desc
	row := first * w.Coded.Coding.RowsPerGroup
	quad, quads := int32(row/quadRows), int32(ceilDiv(min(n*w.Coded.Coding.RowsPerGroup, w.Rows-row), quadRows))
	grid := driver.D1(min(ceilDiv(int(quads), gemvWarps), blocksPerSM*l.on.sms))
	if w.packed.room > 0 {
		if err := l.PackCount(grid, kernels.PackCountArgs{W: w.descDev, FirstQuad: quad, NQuads: quads, Plane: plane,
			Starts: d.ExceptionStart}); err != nil {
			return err
		}
		if err := l.PackStarts(driver.D1(1), kernels.PackStartsArgs{FirstQuad: quad, NQuads: quads,
			Starts: d.ExceptionStart}); err != nil {
			return err
		}
	}
	return l.PackCodes(grid, kernels.PackCodesArgs{W: w.descDev, FirstQuad: quad, NQuads: quads, Plane: plane, Planes: d.Data,
		Starts:     d.ExceptionStart,
		Exceptions: d.Exceptions, Room: w.packed.room})
}

// exceptionsFit tells whether the exceptions fit the reserved room.
func (l *loader) exceptionsFit(w *weight) (bool, error) {
	if w.form != formPacked || w.packed.room == 0 {
		return true, nil
	}
	n := make([]uint32, 1)
	end := w.desc.ExceptionStart + driver.DevicePtr(ceilDiv(w.Rows, quadRows))*wordBytes
	err := l.Dev.CopyDtoH(bytesOf(n), end)
	return n[0] <= w.packed.room, err
}
