package gpu

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// step is a product of the program with its operands on the device.
type step struct {
	*model.Node
	where  string // for errors
	weight *weight
	vector driver.DevicePtr // bias; 0 = none
}

// cachePair are the caches of a layer (cuda/kv_cache.cuh).
type cachePair struct{ keys, values driver.DevicePtr }

// pass executes the forward pass: activations, caches and the schedule, all in place before the first token.
type pass struct {
	*launcher
	prog      *model.Program
	sms       int
	nCtx      int
	batch     int // most tokens at a time
	logitRows int // most rows of logits at a time
	splits    int // of the positions that attention works on at a time
	kvQ8      bool
	kvBytes   int64 // of one cache
	actions   []action
	graph     driver.Graph // the launches of a token; nil = not captured yet
	noGraph   bool         // the driver cannot
	launches  int64        // of the graph
	n         int          // tokens of the batch being run
	pos       int          // of its first token
	logits    []float32    // where its logits go
	row       []float32    // where those of one token go

	buffers  [model.NumBuffers]driver.DevicePtr // float32 [batch][width]; logits: [logitRows][width]
	scaled   driver.DevicePtr                   // float32 [batch][cols]: inputs times column scales
	prepared driver.DevicePtr                   // [batch] vectors from x_prepare
	preparedStride,
	planeBytes int64
	ring  *planeRing       // decoded pieces of coded matrices; nil = none is coded
	ids   driver.DevicePtr // int32 [2][batch]: positions, tokens
	freqs driver.DevicePtr // float32 [rope_dim/2]
}

// span is a range of the batch's tokens.
type span struct{ tok0, n int }

func newPass(l *launcher, lay *layout, f *format.Reader, prog *model.Program, work *arena, sms int) (*pass, error) {
	p := &pass{launcher: l, prog: prog, sms: sms, nCtx: lay.nCtx, batch: lay.batch, logitRows: lay.logitRows(prog), splits: lay.splits, kvQ8: lay.kvQ8, kvBytes: lay.kvBytes}
	s := &lay.fwd
	p.planeBytes, p.preparedStride = s.plane, s.preparedStride
	type block struct {
		dst  *driver.DevicePtr
		size int64
	}
	var tasks, partial driver.DevicePtr
	var planes [2]driver.DevicePtr
	blocks := []block{{&p.scaled, s.scaled}, {&planes[0], s.plane}, {&planes[1], s.plane}, {&p.ids, s.ids}, {&p.freqs, s.freqs}, {&p.prepared, s.prepared}, {&tasks, s.tasks}, {&partial, s.partial}}
	for i := range p.buffers {
		blocks = append(blocks, block{&p.buffers[i], s.buffers[i]})
	}
	caches := make([]cachePair, lay.caches)
	for i := range caches {
		blocks = append(blocks, block{&caches[i].keys, lay.kvBytes}, block{&caches[i].values, lay.kvBytes})
	}
	for _, b := range blocks {
		if b.size == 0 {
			continue
		}
		var err error
		if *b.dst, err = work.take(b.size); err != nil {
			return nil, err
		}
	}
	var err error
	if p.actions, err = p.schedule(lay, tasks, partial, caches); err != nil {
		return nil, err
	}
	freqs, err := rotationFreqs(f, prog)
	if err != nil {
		return nil, err
	}
	if len(freqs) > 0 {
		if err := l.dev.CopyHtoD(p.freqs, bytesOf(freqs)); err != nil {
			return nil, err
		}
	}
	if p.row, err = l.dev.HostFloats(prog.Config.NVocab); err != nil {
		return nil, err
	}
	if p.stream, err = l.dev.NewStream(); err != nil {
		return nil, err
	}
	if s.plane > 0 {
		if p.ring, err = newPlaneRing(l.dev, planes); err != nil {
			return nil, errors.Join(err, p.stream.Destroy())
		}
	}
	return p, nil
}

// rotationFreqs returns radians per position of each rotated pair of dimensions: base^(−2i/rope_dim), scaled.
func rotationFreqs(f *format.Reader, prog *model.Program) ([]float32, error) {
	k := &prog.Config
	n := k.RopeDim / 2
	divisors := make([]float32, n)
	for i := range divisors {
		divisors[i] = 1
	}
	if prog.RopeFreqs != "" {
		t, ok := f.Tensor(prog.RopeFreqs)
		if !ok || t.Raw == nil || t.Rows*t.Cols != n {
			return nil, fmt.Errorf("%s: tensor %s is missing or not a vector of %d", f.Path(), prog.RopeFreqs, n)
		}
		if err := f.Verify(t); err != nil {
			return nil, err
		}
		divisors = floats(t.Raw)
	}
	scale := 1.0
	if k.RopeScale > 0 {
		scale = float64(k.RopeScale)
	}
	freqs := make([]float32, n)
	for i := range freqs {
		freqs[i] = float32(math.Pow(float64(k.RopeBase), -2*float64(i)/float64(k.RopeDim)) / scale / float64(divisors[i]))
	}
	return freqs, nil
}

// run executes tokens at pos, pos+1, … in batches and leaves the logits of the last `rows` in logits.
func (p *pass) run(ctx context.Context, tokens []int32, pos, rows int, logits []float32) error {
	vocab := p.prog.Width(model.BufLogits)
	for start := 0; start < len(tokens); start += p.batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(p.batch, len(tokens)-start)
		left := len(tokens) - start - n      // tokens behind this batch
		wanted := max(0, min(n, rows-left))  // rows of this batch
		at := (rows - left - wanted) * vocab // where they go
		if wanted == 0 {
			at = 0
		}
		if err := p.runBatch(tokens[start:start+n], pos+start, wanted, logits[at:]); err != nil {
			return err
		}
	}
	if p.profile != nil {
		if err := p.profile.read(); err != nil {
			return err
		}
	}
	if rows > 0 { // the copy of the logits waited
		return nil
	}
	return p.dev.Synchronize()
}

func (p *pass) runBatch(tokens []int32, pos, rows int, logits []float32) error {
	n := len(tokens)
	ids := make([]int32, n, 2*n)
	for i := range ids {
		ids[i] = int32(pos + i)
	}
	p.where, p.n, p.pos, p.logits = "token ids", n, pos, logits
	if err := p.dev.CopyHtoDOn(p.stream, p.ids, bytesOf(append(ids, tokens...))); err != nil {
		return err
	}
	run := p.runActions
	if n == 1 && rows == 1 && p.profile == nil && !p.sync {
		run = p.runGraph
	}
	if err := run(span{n - rows, rows}); err != nil {
		return err
	}
	if rows > 0 && rows <= gemvBatch { // more have been copied piece by piece
		return p.fetchLogits(logits[:rows*p.prog.Width(model.BufLogits)])
	}
	return nil
}

// runGraph executes the schedule for one token as one graph. Nothing in its launches' arguments depends on the token: its number and position
// are in device memory.
func (p *pass) runGraph(wanted span) error {
	if p.graph == nil && !p.noGraph {
		before := p.count
		g, err := p.dev.Capture(p.stream, func() error { return p.runActions(wanted) })
		switch {
		case errors.Is(err, driver.ErrNoGraphs):
			p.noGraph = true
		case err != nil:
			return err
		}
		p.graph, p.launches, p.count = g, p.count-before, before
	}
	if p.noGraph {
		return p.runActions(wanted)
	}
	p.count += p.launches
	p.where = "token"
	return p.graph.Launch(p.stream)
}

// free gives back what is not in the arena.
func (p *pass) free() error {
	var errs []error
	if p.graph != nil {
		errs = append(errs, p.graph.Destroy())
	}
	if p.ring != nil {
		errs = append(errs, p.ring.free())
	}
	return errors.Join(append(errs, p.stream.Destroy())...)
}

// runActions executes the schedule. wanted are the tokens whose logits are wanted.
func (p *pass) runActions(wanted span) error {
	for _, a := range p.actions {
		where, last := a.about()
		s := span{0, p.n}
		if last {
			s = wanted
		}
		p.where, p.hint = where, hint{}
		if _, attends := a.(*attendAction); s.n == 0 && !attends { // caches are filled in any case
			continue
		}
		if err := a.run(p, s); err != nil {
			return err
		}
	}
	return nil
}

// at returns where token tok0 of a buffer is.
func (p *pass) at(b model.Buffer, tok0 int) driver.DevicePtr {
	return p.buffers[b] + driver.DevicePtr(4*tok0*p.prog.Width(b))
}

// position returns where the position of token tok0 is; it is also that of the first token of a span from there on.
func (p *pass) position(tok0 int) driver.DevicePtr { return p.ids + driver.DevicePtr(4*tok0) }

func (p *pass) tokenIDs(tok0 int) driver.DevicePtr {
	return p.ids + driver.DevicePtr(4*(p.n+tok0))
}

// elements returns the grid of an element-wise kernel over n values.
func (p *pass) elements(n int64) driver.Dim {
	const threads = 256
	return driver.D1(int(min((n+threads-1)/threads, int64(blocksPerSM*p.sms))))
}

func (p *pass) embed(w *weight, s span, dst driver.DevicePtr) error {
	if w.form == formCoded {
		return p.embedRowsCoded(driver.D2(w.Coded.Tiles(), s.n), 0, w.descDev, p.tokenIDs(s.tok0), dst)
	}
	const threads = 256
	return p.embedRows(driver.D2(ceilDiv(w.Cols, threads), s.n), 0, w.descDev, p.tokenIDs(s.tok0), dst)
}
