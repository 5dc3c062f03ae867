package codec

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

const (
	// outlierBits is about what an outlier takes in the file: 13 where outliers gather in columns, 16 where not.
	outlierBits = 14
	// outlierCost is what longer codes may take for an outlier to be avoided: more than it takes itself, because products take longer with it.
	outlierCost = 20
)

// coder is a code table prepared for encoding. Symbols are pairs of 0 … Levels, where Levels stands for a level outside the
// alphabet (or a padding column). A pair without a code is coded as another one, and outliers make up the difference.
type coder struct {
	table *huffman.Table
	cost  []uint32 // per symbol: bits, and outlierCost for each outlier
	subst []uint16 // per symbol: the pair coded in its place, a0<<8 | a1
}

// symbols returns the number of symbols of a coder with the given levels.
func symbols(levels int) int { return (levels + 1) * (levels + 1) }

func newCoder(t *huffman.Table) *coder {
	a := t.Levels
	c := &coder{table: t, cost: make([]uint32, symbols(a)), subst: make([]uint16, symbols(a))}
	length := func(x, y int) uint32 { return uint32(t.Lens[x*a+y]) }
	bestX, bestY := 0, 0
	for x := range a {
		for y := range a {
			if n := length(x, y); n > 0 && (length(bestX, bestY) == 0 || n < length(bestX, bestY)) {
				bestX, bestY = x, y
			}
		}
	}
	for x := range a + 1 {
		for y := range a + 1 {
			s := x*(a+1) + y
			if x < a && y < a && length(x, y) > 0 {
				c.cost[s], c.subst[s] = length(x, y), uint16(x<<8|y)
				continue
			}
			c.cost[s], c.subst[s] = length(bestX, bestY)+2*outlierCost, uint16(bestX<<8|bestY)
			for z := range a {
				if y < a && length(z, y) > 0 && length(z, y)+outlierCost < c.cost[s] {
					c.cost[s], c.subst[s] = length(z, y)+outlierCost, uint16(z<<8|y)
				}
				if x < a && length(x, z) > 0 && length(x, z)+outlierCost < c.cost[s] {
					c.cost[s], c.subst[s] = length(x, z)+outlierCost, uint16(x<<8|z)
				}
			}
		}
	}
	return c
}

// total returns what a histogram over symbols costs.
func (c *coder) total(hist []uint64) uint64 {
	total := uint64(0)
	for s, n := range hist {
		total += n * uint64(c.cost[s])
	}
	return total
}

// bits returns about the bits that a histogram over symbols takes in a file, outliers included.
func (c *coder) bits(hist []uint64) uint64 {
	total, a := c.total(hist), c.table.Levels
	for s, n := range hist {
		x, y, pair := s/(a+1), s%(a+1), int(c.subst[s])
		if pair>>8 != x {
			total -= n * (outlierCost - outlierBits)
		}
		if pair&0xff != y {
			total -= n * (outlierCost - outlierBits)
		}
	}
	return total
}

// Pool is a set of code tables ready for encoding. It is safe for concurrent use.
type Pool struct{ coders []*coder }

// NewPool prepares tables, which must be valid.
func NewPool(tables []*huffman.Table) (*Pool, error) {
	p := &Pool{}
	for i, t := range tables {
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("codec: table %d: %w", i, err)
		}
		p.coders = append(p.coders, newCoder(t))
	}
	return p, nil
}

// choose returns the table of the given alphabet that codes hist in the fewest bits, or −1.
func (p *Pool) choose(levels int, hist []uint32) int {
	type count struct{ sym, n uint32 }
	var seen []count
	for s, n := range hist {
		if n > 0 {
			seen = append(seen, count{uint32(s), n})
		}
	}
	best, bestBits := -1, uint64(0)
	for i, c := range p.coders {
		if c.table.Levels != levels {
			continue
		}
		total := uint64(0)
		for _, s := range seen {
			total += uint64(s.n) * uint64(c.cost[s.sym])
		}
		if best < 0 || total < bestBits {
			best, bestBits = i, total
		}
	}
	return best
}

// splitLevels writes the levels of rows × cols codes into dst, rows × stride, with levels standing for what lies outside the alphabet
// and for columns cols … stride−1.
func splitLevels(dst []uint8, codes []int32, k *format.Coding, cols, stride int) {
	shift, levels := uint(k.LowBits), uint32(k.Levels)
	for r := range len(codes) / cols {
		out := dst[r*stride : (r+1)*stride]
		for i, q := range codes[r*cols : (r+1)*cols] {
			out[i] = uint8(min(uint32(q>>shift), levels))
		}
		for i := cols; i < stride; i++ {
			out[i] = uint8(levels)
		}
	}
}

// countPairs adds the pairs of one row of levels to hist.
func countPairs(hist []uint32, row []uint8, levels int) {
	for i := 0; i+1 < len(row); i += 2 {
		hist[int(row[i])*(levels+1)+int(row[i+1])]++
	}
}
