package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// newPass lays a pass out in memory that take hands out, and schedules it. It needs no device.
func newPass(l *kernels.Launcher, lay *devicePlan, prog *model.Program, sms int, take func(int64) (driver.DevicePtr,
	error)) (*pass, *scheduler, error) {
	p := &pass{Launcher: l, prog: prog, sms: sms, nCtx: lay.nCtx, batch: lay.batch, logitRows: lay.logitBatch(prog),
		splits: lay.splits, tiles: lay.tiles, kvQ8: lay.kvQ8, kvBytes: lay.kvBytes, pages: lay.Pages}
	s := &lay.fwd
	p.planeBytes, p.preparedStride = s.plane, s.preparedStride
	type array struct {
		dst  *driver.DevicePtr
		size int64
	}
	var tasks, partial driver.DevicePtr
	arrays := []array{{&p.scaled, s.scaled}, {&p.planes[0], s.plane}, {&p.planes[1], s.plane}, {&p.idsDev, s.ids},
		{&p.freqs, s.freqs}, {&p.states.dev, s.states}, {&p.states.moves, s.moves},
		{&p.prepared, s.prepared}, {&p.side, s.side}, {&tasks, s.tasks}, {&partial, s.partial}}
	for i := range p.buffers {
		arrays = append(arrays, array{&p.buffers[i], s.buffers[i]})
	}
	caches := make([]cachePair, lay.caches)
	for i := range caches {
		arrays = append(arrays, array{&caches[i].keys, lay.kvBytes}, array{&caches[i].values, lay.kvBytes})
	}
	for _, a := range arrays {
		if a.size == 0 {
			continue
		}
		var err error
		if *a.dst, err = take(a.size); err != nil {
			return nil, nil, err
		}
	}
	p.caches, p.states.place = caches, engine.StateFloats(prog)
	sched, err := p.schedule(lay.weights, tasks, partial, caches)
	return p, sched, err
}

// openPass is newPass on the device, ready to run.
func openPass(l *kernels.Launcher, lay *devicePlan, f *format.Reader, prog *model.Program, work *arena, sms int) (*pass, error) {
	p, s, err := newPass(l, lay, prog, sms, work.take)
	if err != nil {
		return nil, err
	}
	if err := s.upload(); err != nil {
		return nil, err
	}
	freqs, err := rotationFreqs(f, prog, lay.nCtx)
	if err != nil {
		return nil, err
	}
	if len(freqs) > 0 {
		if err := l.Dev.CopyHtoD(p.freqs, bytesOf(freqs)); err != nil {
			return nil, err
		}
	}
	if p.row, err = l.Dev.HostFloats(prog.Config.NVocab); err != nil {
		return nil, err
	}
	if p.Stream, err = l.Dev.NewStream(); err != nil {
		return nil, err
	}
	if p.planeBytes > 0 {
		if p.ring, err = newPlaneRing(l.Dev, p.planes); err != nil {
			return nil, errors.Join(err, p.Stream.Destroy())
		}
	}
	return p, nil
}

// rotationFreqs returns the radians per position of each rotated pair of dimensions, of one position embedding after the other,
// for a context of nCtx positions.
func rotationFreqs(f *format.Reader, prog *model.Program, nCtx int) (all []float32, err error) {
	for i := range prog.Ropes {
		r := &prog.Ropes[i]
		var divisors []float32
		if name := r.DivisorsFor(nCtx); name != "" {
			t, ok := f.Tensor(name)
			if !ok || t.Raw == nil || t.Rows*t.Cols != r.Dim/2 {
				return nil, fmt.Errorf("%s: tensor %s is missing or not a vector of %d", f.Path(), name, r.Dim/2)
			}
			if err := f.Verify(t); err != nil {
				return nil, err
			}
			divisors = floats(t.Raw)
		}
		for _, x := range r.Frequencies(divisors) {
			all = append(all, float32(x))
		}
	}
	return all, nil
}

// run executes a batch, which has been checked, and leaves the wanted logits in logits.
func (p *pass) run(ctx context.Context, b engine.Batch, logits []float32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.copyPages(b.Copies); err != nil {
		return err
	}
	rows := b.Rows()
	p.logits = logits
	if err := errors.Join(p.place(b), p.placeStates(b)); err != nil {
		return err
	}
	run := p.runActions
	if p.n <= gemvBatch && rows == p.n && p.observer == nil && !p.Sync {
		run = p.runGraph
	}
	if err := run(tokenRange{p.n - rows, rows}); err != nil {
		return err
	}
	if p.observer != nil {
		if err := p.observer.read(); err != nil {
			return err
		}
	}
	if rows == 0 {
		return p.Dev.Synchronize()
	}
	if rows <= gemvBatch { // larger results were already copied in pieces
		return p.fetchLogits(logits[:rows*p.prog.Width(model.BufLogits)])
	}
	return nil
}

// setRuns notes which tokens of the batch follow each other in a sequence.
func (p *pass) setRuns(runs []engine.Run) {
	p.n, p.runs = 0, p.runs[:0]
	for i := range runs {
		p.runs = append(p.runs, tokenRun{tokenRange{p.n, runs[i].N}, runs[i].Pos})
		p.n += runs[i].N
	}
}

// place uploads the batch's positions, tokens and page tables. All have fixed places, since graphs read them.
func (p *pass) place(b engine.Batch) error {
	p.setRuns(b.Runs)
	if p.ids == nil {
		p.ids = make([]int32, 3*p.batch)
	}
	ids := p.ids[:3*p.batch]
	tables := map[int]int32{} // of sequences
	for i, r := range p.runs {
		run := &b.Runs[i]
		table, ok := tables[run.Seq]
		if !ok {
			// Runs of a sequence share its table: the longest, which the last run has.
			table = int32(len(ids) - 3*p.batch)
			tables[run.Seq] = table
			ids = append(ids, longestTable(b.Runs, run.Seq)...)
		}
		for t := range r.n {
			at := r.first + t
			ids[at], ids[p.batch+at], ids[2*p.batch+at] = int32(r.pos+t), b.Tokens[at], table
		}
	}
	p.ids, p.Label = ids, "token ids"
	return p.Dev.CopyHtoDOn(p.Stream, p.idsDev, bytesOf(ids))
}

// longestTable returns the page table that covers all runs of a sequence.
func longestTable(runs []engine.Run, seq int) (pages []int32) {
	for i := range runs {
		r := &runs[i]
		if n := engine.PagesFor(r.Pos + r.N); r.Seq == seq && n > len(pages) {
			pages = r.Pages[:n]
		}
	}
	return pages
}

// copyPages copies pages within every cache: values, and those of 8 bits with their scales.
func (p *pass) copyPages(copies []engine.PageCopy) error {
	if len(copies) == 0 {
		return nil
	}
	p.Label = "copy of a page"
	width := int64(engine.PageTokens) * int64(p.prog.Width(model.BufK))
	type array struct{ from, page int64 } // bytes
	arrays := []array{{0, 2 * width}}
	if p.kvQ8 {
		arrays = []array{{0, width}, {int64(p.pages) * width, 2 * width / kvBlock}}
	}
	for _, c := range copies {
		for _, pair := range p.caches {
			for _, cache := range []driver.DevicePtr{pair.keys, pair.values} {
				for _, a := range arrays {
					args := kernels.CopyWordsArgs{Dst: cache + driver.DevicePtr(a.from+int64(c.To)*a.page),
						Src: cache + driver.DevicePtr(a.from+int64(c.From)*a.page), N: a.page / wordBytes}
					if err := p.CopyWords(p.addLaunch(args.N).grid, args); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// runGraph executes the schedule for up to gemvBatch tokens, all with logits, as one graph. Nothing in its launches' arguments
// depends on the tokens: they, their positions and pages are in device memory.
func (p *pass) runGraph(wanted tokenRange) error {
	g := &p.graphs[p.n]
	if g.Graph == nil && !p.noGraph {
		before := p.Launched
		graph, err := p.Dev.Capture(p.Stream, func() error { // which may run twice
			p.Launched = before
			return p.runActions(wanted)
		})
		switch {
		case errors.Is(err, driver.ErrNoGraphs):
			p.noGraph = true
		case err != nil:
			return err
		}
		g.Graph, g.launches, p.Launched = graph, p.Launched-before, before
	}
	if p.noGraph {
		return p.runActions(wanted)
	}
	p.Launched += g.launches
	p.Label = "tokens"
	return g.Launch(p.Stream)
}

// free gives back what is not in the arena.
func (p *pass) free() error {
	var errs []error
	for _, g := range p.graphs {
		if g.Graph != nil {
			errs = append(errs, g.Destroy())
		}
	}
	if p.ring != nil {
		errs = append(errs, p.ring.free())
	}
	return errors.Join(append(errs, p.Stream.Destroy())...)
}

// runActions executes the schedule. wanted are the tokens whose logits are wanted.
func (p *pass) runActions(wanted tokenRange) error {
	for _, a := range p.actions {
		s := a.tokens(p, wanted)
		if a.idle(s) {
			continue
		}
		p.Label = a.label()
		if p.observer != nil {
			p.observer.expect(costOf(a, p, s))
		}
		if err := a.run(p, s); err != nil {
			return err
		}
	}
	return nil
}
