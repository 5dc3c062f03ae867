// Package cpu runs models on the processor, without cgo. It is both the reference that GPU kernels are compared with and what
// users without a GPU run. Products take float32 activations and, whatever the plan, the same decoded integers in the same order: plans, thread counts
// and the split of a prompt into batches do not change a bit of the result on one machine.
package cpu

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Backend is the engine.Backend of this package.
type Backend struct {
	k      *kernels
	decode decode.ISA
	dot    dot.ISA
	plan   engine.MemoryPlan
	prog   *model.Program
	file   *format.Reader

	threads  int
	pool     *pool
	workers  []*worker
	stages   []stage
	matrices []*matrix // in file order
	tables   *decode.Tables
	memory   arena // of resident matrices
	nCtx     int
	texts    int
	maxBatch int
	bufs     [model.NumBuffers][]float32 // maxBatch × stride(b)
	logits   []float32
	rope     rope
	cache    cache
	inputs   []activations // of the current stage, by slot
	run      current
	profile  profile
	profiled bool // Load was asked for it
}

// New returns a backend that uses the best instructions this processor has.
func New() engine.Backend {
	b := &Backend{k: genericKernels(), decode: decode.Best(), dot: dot.Best(), threads: runtime.GOMAXPROCS(0)}
	if k := simdKernels(); len(k) > 0 {
		b.k = k[0]
	}
	return b
}

// Describe implements engine.Backend.
func (b *Backend) Describe() string {
	return fmt.Sprintf("cpu: %d threads, products %s, attention %s, decoding %s", b.threads, b.dot, b.k.name, b.decode)
}

// Memory implements engine.Backend.
func (b *Backend) Memory() engine.MemoryPlan { return b.plan }

// Close implements engine.Backend.
func (b *Backend) Close() error {
	if b.pool != nil {
		b.pool.close()
	}
	*b = Backend{k: b.k, decode: b.decode, dot: b.dot, plan: b.plan, threads: runtime.GOMAXPROCS(0)}
	return nil
}

// Load implements engine.Backend.
func (b *Backend) Load(ctx context.Context, f *format.Reader, prog *model.Program, opt engine.LoadOptions) error {
	if b.pool != nil {
		return errors.New("cpu: Load called twice")
	}
	if err := b.setup(f, prog, opt); err != nil {
		return err
	}
	if err := b.load(ctx, opt); err != nil {
		return errors.Join(err, b.Close())
	}
	return nil
}

// setup takes over Load's arguments.
func (b *Backend) setup(f *format.Reader, prog *model.Program, opt engine.LoadOptions) error {
	if opt.NCtx < 1 || opt.NCtx > maxContext {
		return fmt.Errorf("cpu: context of %d tokens, expected 1 to %d", opt.NCtx, maxContext)
	}
	if opt.KVType != "" && opt.KVType != engine.KVF16 && opt.KVType != engine.KVQ8 {
		return fmt.Errorf("cpu: unknown type of KV cache %q; use %s or %s", opt.KVType, engine.KVF16, engine.KVQ8)
	}
	if opt.Texts < 0 || opt.Texts > maxContext/opt.NCtx {
		return fmt.Errorf("cpu: %d texts of %d tokens, expected at most %d", opt.Texts, opt.NCtx, maxContext/opt.NCtx)
	}
	b.texts = max(opt.Texts, 1)
	b.cache = cacheShape(&prog.Config, opt.NCtx, b.texts, opt.KVType)
	b.prog, b.file, b.nCtx, b.profiled = prog, f, opt.NCtx, opt.Profile
	b.maxBatch = defaultBatch
	if opt.MaxBatch > 0 {
		b.maxBatch = opt.MaxBatch
	}
	b.maxBatch = min(b.maxBatch, b.nCtx)
	if opt.Threads > 0 {
		b.threads = min(opt.Threads, runtime.GOMAXPROCS(0))
	}
	return nil
}

const (
	defaultBatch = 256
	maxContext   = 1 << 20
)

func (b *Backend) load(ctx context.Context, opt engine.LoadOptions) error {
	if err := b.link(ctx); err != nil {
		return err
	}
	resident, err := b.choosePlan(opt)
	if err != nil {
		return err
	}
	if opt.Announce != nil {
		opt.Announce(b.plan)
	}
	b.pool = newPool(b.threads)
	if err := b.decodeAll(ctx, resident, opt.Progress); err != nil {
		return err
	}
	return b.allocate()
}

// decodeAll decodes the given matrices on all threads and gives their pages of the file back.
func (b *Backend) decodeAll(ctx context.Context, resident []*matrix, progress func(done, total int64)) error {
	total, done := int64(0), int64(0)
	for _, m := range resident {
		total += m.tensor.Bytes
	}
	for _, m := range resident {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.decodeMatrix(m); err != nil {
			return err
		}
		b.file.Release(m.tensor)
		if done += m.tensor.Bytes; progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// decodeMatrix makes m resident.
func (b *Backend) decodeMatrix(m *matrix) error {
	groups := m.coded.Groups()
	if m.floats != nil {
		f := m.floats.alloc(m.rows)
		b.each(groups, func() func(g int) {
			s := newFloatScratch(m)
			return func(g int) { m.decodeFloats(g, f, g*m.coded.Coding.RowsPerGroup, &s) }
		})
		m.floats, m.unitRows = f, plainUnit
		return nil
	}
	p := newPacking(m, m.form, b.k, b.dot, &b.memory)
	b.each(groups, func() func(g int) {
		s := p.scratch()
		return func(g int) { p.group(g, s) }
	})
	m.packed, m.unitRows = p.finish(), plainUnit
	return nil
}

// each calls, on all threads, what start returns for each of them with the numbers 0 … n−1, each once.
func (b *Backend) each(n int, start func() func(i int)) {
	b.pool.run(func(int) {
		f := start()
		for {
			i, ok := b.pool.unit(n)
			if !ok {
				return
			}
			f(i)
		}
	})
}

// allocate makes everything a forward pass writes to.
func (b *Backend) allocate() error {
	for i := range b.bufs {
		if buf := model.Buffer(i); buf != model.BufLogits {
			b.bufs[i] = make([]float32, b.maxBatch*b.stride(buf))
		}
	}
	b.logits = make([]float32, b.prog.Config.NVocab)
	b.cache.alloc(b.prog.Config.NLayers, false)
	b.allocInputs(false)
	resident := map[*matrix]bool{}
	for _, m := range b.matrices {
		resident[m] = m.isResident()
	}
	size := b.workerSizes(resident)
	for range b.pool.n {
		w, _ := size.alloc(&b.prog.Config, false)
		w.k, w.isa = b.k, b.dot
		b.workers = append(b.workers, w)
	}
	b.run.bind(b)
	return nil
}

// stride returns the distance between the rows of buf: its width, padded with zeros that are never written.
func (b *Backend) stride(buf model.Buffer) int { return roundUp(b.prog.Width(buf), format.StepCols) }
