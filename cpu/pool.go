package cpu

import (
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
)

// spins is how often a waiting thread looks for work before it sleeps, tens of microseconds: longer than the pauses inside a
// forward pass. It does so without PAUSE instructions: virtual machines take a processor away that executes many, and give it
// back late.
const spins = 200_000

// pool runs a function on n threads at once: the caller and n−1 goroutines that live as long as the pool.
type pool struct {
	n       int
	fn      func(thread int)
	job     atomic.Uint32 // number of the current job
	pending atomic.Int32  // workers that have not finished it
	closed  bool
	next    atomic.Int64                // next item of the current job
	asleep  []sleeper                   // 0: the caller
	fault   atomic.Pointer[fault.Error] // of the current job on the mapped file
	done    sync.WaitGroup
}

// sleeper lets one thread sleep and be woken.
type sleeper struct {
	flag atomic.Bool
	wake chan struct{}
	_    [48]byte // a cache line of its own
}

// rouse wakes the thread if it sleeps or is about to.
func (s *sleeper) rouse() {
	if s.flag.CompareAndSwap(true, false) {
		s.wake <- struct{}{}
	}
}

// newPool starts a pool of n threads; more than runtime.GOMAXPROCS would wait for each other.
func newPool(n int) *pool {
	p := &pool{n: n, asleep: make([]sleeper, n)}
	for w := range p.n {
		p.asleep[w].wake = make(chan struct{}, 1)
	}
	for w := 1; w < p.n; w++ {
		p.done.Add(1)
		go p.work(w)
	}
	return p
}

// run calls fn(0) … fn(n−1) concurrently and returns when all have returned. A fault of one of them on the mapped file is raised
// in the caller then. It allocates nothing if fn was made before.
func (p *pool) run(fn func(thread int)) {
	p.runAll(fn)
	if p.fault.Load() != nil {
		fault.Raise(p.fault.Swap(nil))
	}
}

// call calls fn(w) of the current job.
func (p *pool) call(w int) {
	defer func() {
		if v := recover(); v != nil {
			e := fault.Of(v)
			if e == nil {
				panic(v)
			}
			p.fault.Store(e)
		}
	}()
	p.fn(w)
}

func (p *pool) runAll(fn func(thread int)) {
	p.next.Store(0)
	p.fn = fn
	if p.n == 1 {
		p.call(0)
		return
	}
	p.pending.Store(int32(p.n - 1))
	p.wakeAll()
	p.call(0)
	for range spins {
		if p.pending.Load() == 0 {
			return
		}
	}
	// A worker that is late with waking the caller from the job before may wake it too early from this one: look again.
	for s := &p.asleep[0]; p.pending.Load() > 0; {
		s.flag.Store(true)
		if p.pending.Load() == 0 && s.flag.CompareAndSwap(true, false) {
			return
		}
		<-s.wake
	}
}

func (p *pool) wakeAll() {
	p.job.Add(1)
	for w := 1; w < p.n; w++ {
		p.asleep[w].rouse()
	}
}

// item hands out the numbers 0 … n−1 of the current job, each once.
func (p *pool) item(n int) (int, bool) {
	i := int(p.next.Add(1)) - 1
	return i, i < n
}

// batch is item for some consecutive numbers first … end−1, none if first ≥ end: at most `most`, fewer towards the end, so that
// all threads end at nearly the same time.
func (p *pool) batch(n, most int) (first, end int) {
	left := n - int(p.next.Load()) // at least; other threads may take some meanwhile
	size := min(max(left/(4*p.n), 1), most)
	first = int(p.next.Add(int64(size))) - size
	return first, min(first+size, n)
}

func (p *pool) work(w int) {
	defer p.done.Done()
	debug.SetPanicOnFault(true)
	last := uint32(0)
	for {
		last = p.await(w, last)
		if p.closed {
			return
		}
		p.call(w)
		if p.pending.Add(-1) == 0 {
			p.asleep[0].rouse()
		}
	}
}

// await returns the number of a job newer than last.
func (p *pool) await(w int, last uint32) uint32 {
	s := &p.asleep[w]
	for {
		for range spins {
			if j := p.job.Load(); j != last {
				return j
			}
		}
		s.flag.Store(true)
		// A job that began before the flag was set did not wake this worker; one that began after has sent a token.
		if p.job.Load() != last && s.flag.CompareAndSwap(true, false) {
			continue
		}
		<-s.wake
	}
}

// close ends the workers.
func (p *pool) close() {
	p.closed = true
	if p.n > 1 {
		p.wakeAll()
	}
	p.done.Wait()
}
