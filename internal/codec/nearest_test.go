package codec

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// What codes a pair that has no code is found by trying all pairs, in the order of what is preferred.
func TestPairsWithoutCodeBecomeTheNearest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		a := 1 + rng.IntN(9)
		table := &huffman.Table{Levels: a, Lens: make([]uint8, a*a)}
		table.Lens[rng.IntN(a*a)] = 1 + uint8(rng.IntN(12))
		for i := range table.Lens {
			if rng.IntN(4) == 0 {
				table.Lens[i] = 1 + uint8(rng.IntN(12))
			}
		}
		c := newCoder(table)
		for x := range a + 1 {
			for y := range a + 1 {
				s := x*(a+1) + y
				bits, outs := nearestBits(c, x, y)
				require.Equal(t, bits, c.bits[s], "pair %d, %d of %v", x, y, table.Lens)
				require.Equal(t, outs, c.outs[s], "pair %d, %d of %v", x, y, table.Lens)
				u, v := int(c.subst[s]>>8), int(c.subst[s]&255)
				require.Equal(t, bits, c.length(u, v))
				differ := uint8(0)
				for _, d := range []bool{u != x, v != y} {
					if d {
						differ++
					}
				}
				require.LessOrEqual(t, differ, outs)
			}
		}
	}
}

// nearestBits returns the shortest code of the pairs that differ from x, y in the fewest levels, and in how many.
func nearestBits(c *coder, x, y int) (bits, outs uint8) {
	a := c.table.Levels
	best := [3]uint8{}
	for u := range a {
		for v := range a {
			differ := 0
			if u != x {
				differ++
			}
			if v != y {
				differ++
			}
			if n := c.length(u, v); n > 0 && (best[differ] == 0 || n < best[differ]) {
				best[differ] = n
			}
		}
	}
	for outs, n := range best {
		if n > 0 {
			return n, uint8(outs)
		}
	}
	return 0, 2
}
