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
					u, ok := p.unit(len(seen))
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
