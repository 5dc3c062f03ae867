package cpu

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPool(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		p := newPool(n)
		for i := range 300 {
			var seen [50]atomic.Int32
			var workers atomic.Int32
			p.run(func(int) {
				workers.Add(1)
				for {
					u, ok := p.item(len(seen))
					if !ok {
						return
					}
					seen[u].Add(1)
				}
			})
			require.Equal(t, int32(n), workers.Load())
			for u := range seen {
				require.Equal(t, int32(1), seen[u].Load())
			}
			if i%100 == 99 {
				time.Sleep(5 * time.Millisecond) // long enough for all to fall asleep
			}
		}
		p.run(func(w int) { // the caller must wait for a slow worker
			if w > 0 {
				time.Sleep(5 * time.Millisecond)
			}
		})
		p.close()
	}
}

// TestPoolWaits lets many short jobs follow each other while the threads fall asleep at every point: run must not return before
// all workers have.
func TestPoolWaits(t *testing.T) {
	p := newPool(3)
	defer p.close()
	plain := make([]int, 3*16) // without atomics: the race detector sees a job that outlives run
	for i := range 2000 {
		p.run(func(w int) {
			if (i+w)%97 == 0 {
				time.Sleep(200 * time.Microsecond)
			}
			plain[16*w]++
		})
		for w := range 3 {
			require.Equal(t, i+1, plain[16*w])
		}
	}
}

func BenchmarkPool(b *testing.B) {
	p := newPool(2)
	defer p.close()
	f := func(int) {}
	for b.Loop() {
		p.run(f)
	}
}
