// Package cpu runs models on the processor, without cgo. It is both the reference that GPU kernels are compared with and what
// users without a GPU run. Products take float32 activations and, whatever the plan, the same decoded integers in the same order:
// plans, thread counts, the split of a prompt into batches and what else is in these do not change a bit of the result on one
// machine.
package cpu

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Backend is the engine.Backend of this package.
type Backend struct {
	k      *vec.Kernels
	decode isa.ISA
	dot    dot.Kernels
	plan   engine.MemoryPlan
	prog   *model.Program
	file   *format.Reader

	threads int
	pool    *pool
	workers []*worker
	memory  buffer.Arena // of resident matrices
	linked
	nCtx     int
	slots    int // for sequences
	pages    int // of the cache
	maxBatch int
	bufs     [model.NumBuffers][]float32 // maxBatch × stride(b)
	logits   []float32
	ropes    []rope // as in prog
	cache    cache
	places   int                   // for states
	states   []float32             // places × state
	inputs   []product.Activations // of the current node, by slot
	run      current
	profile  profile
	profiled bool // Load was asked for it
}

// New returns a backend that uses the best instructions this processor has.
func New() engine.Backend {
	return &Backend{k: vec.Best(), decode: decode.Best(), dot: dot.Best(), threads: runtime.GOMAXPROCS(0)}
}

// Describe implements engine.Backend.
func (b *Backend) Describe() string {
	return fmt.Sprintf("cpu: %d threads, products %s, attention %s, decoding %s", b.threads, b.dot, b.k.Name, b.decode)
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
	if err := f.Guard(func() error { return b.load(ctx, opt) }); err != nil {
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
	switch opt.Activations {
	case 0:
	case 8, 16:
		b.dot = b.dot.WithBits(opt.Activations)
	default:
		return fmt.Errorf("cpu: activations of %d bits; use 8 or 16", opt.Activations)
	}
	b.slots, b.pages = max(opt.Sequences, 1), opt.Pages()
	if opt.Sequences < 0 || opt.CacheTokens < 0 || b.slots > maxSequences || b.pages > maxPages {
		return fmt.Errorf("cpu: %d sequences and a cache of %d pages, expected at most %d and %d", opt.Sequences, b.pages,
			maxSequences, maxPages)
	}
	b.cache = cacheShape(&prog.Config, prog.Count(model.OpAttention), b.pages, opt.KVType)
	b.places = opt.StatePlaces(prog)
	b.prog, b.file, b.nCtx, b.profiled = prog, f, opt.NCtx, opt.Profile
	b.maxBatch = opt.Batch(defaultBatch)
	if opt.Threads > 0 {
		b.threads = min(opt.Threads, runtime.GOMAXPROCS(0))
	}
	return nil
}

const (
	defaultBatch = 256
	maxContext   = 1 << 20
	maxSequences = 1 << 10
	maxPages     = 1 << 20
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

// link finds the program's weights in the file and prepares what depends on them.
func (b *Backend) link(ctx context.Context) (err error) {
	l := linker{prog: b.prog, file: b.file, decode: b.decode, dot: b.dot}
	if b.linked, err = l.link(ctx); err != nil {
		return err
	}
	for i := range b.nodes {
		b.nodes[i].entry = b.profile.entry(b.nodes[i].name())
	}
	b.ropes = newRopes(b.prog, b.vectors, b.nCtx, b.maxBatch)
	return nil
}

// decodeAll decodes the given matrices on all threads and gives their pages of the file back.
func (b *Backend) decodeAll(ctx context.Context, resident []*weights.Matrix, progress func(done, total int64)) error {
	total, done := int64(0), int64(0)
	for _, m := range resident {
		total += m.Tensor.Bytes
	}
	for _, m := range resident {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.MakeResident(b.k, b.dot, &b.memory, b.each)
		b.file.Release(m.Tensor)
		if done += m.Tensor.Bytes; progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// each calls, on all threads, what start returns for each of them with the numbers 0 … n−1, each once.
func (b *Backend) each(n int, start func() func(i int)) {
	b.pool.run(func(int) {
		f := start()
		for {
			i, ok := b.pool.item(n)
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
	b.logits = make([]float32, b.slots*b.prog.Config.NVocab)
	b.cache.alloc(false)
	b.states = make([]float32, b.places*b.state)
	b.allocInputs(false)
	resident := map[*weights.Matrix]bool{}
	for _, m := range b.matrices {
		resident[m] = m.IsResident()
	}
	size := b.workerSizes(resident)
	for range b.pool.n {
		w, _ := size.alloc(b.k, b.dot, false)
		b.workers = append(b.workers, w)
	}
	b.run.bind(b)
	return nil
}

// stride returns the distance between the rows of buf: its width, padded with zeros that are never written.
func (b *Backend) stride(buf model.Buffer) int {
	return buffer.RoundUp(b.prog.Width(buf), format.StepCols)
}

// Profile implements engine.Profiler. Products read weights as often as there are batches.
func (b *Backend) Profile() []engine.ProfileEntry { return b.profile.sorted() }

// ResetProfile implements engine.Profiler.
func (b *Backend) ResetProfile() { b.profile.reset() }
