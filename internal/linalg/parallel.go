package linalg

import (
	"runtime"
	"sync"
)

// NewScratch returns scratch for a goroutine on every core.
func NewScratch() []Scratch { return make([]Scratch, runtime.GOMAXPROCS(0)) }

// Parallel calls f(0) … f(n−1), started in this order, on a goroutine for each scratch, and waits for them.
func Parallel(scratch []Scratch, n int, f func(k int, s *Scratch)) {
	var wg sync.WaitGroup
	next := make(chan int, n)
	for k := range n {
		next <- k
	}
	close(next)
	for w := range min(n, len(scratch)) {
		wg.Go(func() {
			for k := range next {
				f(k, &scratch[w])
			}
		})
	}
	wg.Wait()
}
