// Package parallel runs loops on all cores. A fault of a worker on mapped memory (package fault) is raised in the caller.
package parallel

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
)

// Do calls f(0) … f(n−1), started in this order, and waits for them.
func Do(n int, f func(i int)) {
	With(make([]struct{}, runtime.GOMAXPROCS(0)), n, func(i int, _ *struct{}) { f(i) })
}

// With is Do with a goroutine for each element of scratch, which that goroutine alone uses.
func With[S any](scratch []S, n int, f func(i int, s *S)) {
	var (
		wg     sync.WaitGroup
		next   atomic.Int64
		failed atomic.Pointer[fault.Error]
	)
	for w := range min(n, len(scratch)) {
		wg.Go(func() {
			if e := fault.Capture(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					f(i, &scratch[w])
				}
			}); e != nil {
				next.Store(int64(n))
				failed.Store(e)
			}
		})
	}
	wg.Wait()
	fault.Raise(failed.Load())
}

// Each calls f(0) … f(n−1), started in this order, until one fails or ctx ends, each goroutine with a scratch of its own. The
// error of the smallest i is returned, so that runs agree.
func Each[S any](ctx context.Context, n int, f func(i int, s *S) error) error {
	var mu sync.Mutex
	var first error
	var at atomic.Int64 // the smallest i that failed: what comes after it is not started
	at.Store(int64(n))
	With(make([]S, runtime.GOMAXPROCS(0)), n, func(i int, s *S) {
		if int64(i) > at.Load() {
			return
		}
		err := ctx.Err()
		if err == nil {
			err = f(i, s)
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			if int64(i) < at.Load() {
				first = err
				at.Store(int64(i))
			}
		}
	})
	return first
}
