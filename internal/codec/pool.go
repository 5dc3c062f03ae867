package codec

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

const (
	// outlierBits is about what an outlier takes in the file: 13 where outliers gather in columns, 16 where not.
	outlierBits = 14
	// outlierCost is what longer codes may take for an outlier to be avoided: more than it takes itself, because products take
	// longer with it.
	outlierCost = 20
	// choiceCost is the same where a coding is chosen: from a sample of rows, which knows less about rare levels.
	choiceCost = 32
	// valueCost is the same for codings with values, of which GPUs know no outliers.
	valueCost = 1 << 20
)

// costOf returns what an outlier costs in a matrix with the given coding.
func costOf(k *format.Coding) uint64 {
	if k.Values != nil {
		return valueCost
	}
	return outlierCost
}

// coder is a code table prepared for encoding. Symbols are pairs of 0 … Levels, where Levels stands for a level outside the
// alphabet (or a padding column). A pair without a code is coded as another one, and outliers make up the difference.
type coder struct {
	table *huffman.Table
	subst []uint16 // per symbol: the pair coded in its place, a0<<8 | a1
	bits  []uint8  // per symbol: the length of that pair's code
	outs  []uint8  // per symbol: outliers, 0 to 2
}

// symbols returns the number of symbols of a coder with the given levels.
func symbols(levels int) int { return (levels + 1) * (levels + 1) }

func newCoder(t *huffman.Table) *coder {
	a := t.Levels
	n := symbols(a)
	c := &coder{table: t, subst: make([]uint16, n), bits: make([]uint8, n), outs: make([]uint8, n)}
	near := c.shortest()
	for x := range a + 1 {
		for y := range a + 1 {
			c.useNearest(x, y, &near)
		}
	}
	return c
}

// length returns the code length of a pair, 0 if it has no code.
func (c *coder) length(x, y int) uint8 { return c.table.Lens[x*c.table.Levels+y] }

// shortest are the levels of a table's shortest codes.
type shortest struct {
	x, y   int   // the first pair with the shortest code of all
	second []int // for every first level the second one, −1: no pair has a code
	first  []int // for every second level the first one, −1: likewise
}

func (c *coder) shortest() shortest {
	a := c.table.Levels
	near := shortest{first: make([]int, a), second: make([]int, a)}
	for i := range a {
		near.first[i], near.second[i] = -1, -1
	}
	for x := range a {
		for y := range a {
			n := c.length(x, y)
			if n == 0 {
				continue
			}
			if z := near.second[x]; z < 0 || n < c.length(x, z) {
				near.second[x] = y
			}
			if z := near.first[y]; z < 0 || n < c.length(z, y) {
				near.first[y] = x
			}
			if l := c.length(near.x, near.y); l == 0 || n < l {
				near.x, near.y = x, y
			}
		}
	}
	return near
}

// useNearest sets what codes the pair x, y: itself; else a pair that differs in one level, by the shortest code, of several by
// the lowest other level; else the pair with the shortest code of all.
func (c *coder) useNearest(x, y int, near *shortest) {
	a := c.table.Levels
	u, v, outs := near.x, near.y, uint8(2)
	switch {
	case x < a && y < a && c.length(x, y) > 0:
		u, v, outs = x, y, 0
	default:
		if y < a && near.first[y] >= 0 {
			u, v, outs = near.first[y], y, 1
		}
		if x < a && near.second[x] >= 0 {
			z := near.second[x]
			n, m := c.length(x, z), c.length(u, v)
			if outs == 2 || n < m || n == m && z < u {
				u, v, outs = x, z, 1
			}
		}
	}
	s := x*(a+1) + y
	c.subst[s], c.bits[s], c.outs[s] = uint16(u<<8|v), c.length(u, v), outs
}

// total returns the bits of a histogram over symbols, each outlier counted as that many bits.
func (c *coder) total(hist []uint64, each uint64) uint64 {
	total := uint64(0)
	for s, n := range hist {
		total += n * (uint64(c.bits[s]) + uint64(c.outs[s])*each)
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

// choose returns the table of the given alphabet that codes hist in the fewest bits, each outlier counted as that many bits, or
// −1.
func (p *Pool) choose(levels int, hist []uint32, each uint64) int {
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
			total += uint64(s.n) * (uint64(c.bits[s.sym]) + uint64(c.outs[s.sym])*each)
		}
		if best < 0 || total < bestBits {
			best, bestBits = i, total
		}
	}
	return best
}

// splitLevels writes the levels of rows × cols codes into dst, rows × stride, with levels standing for what lies outside the
// alphabet and for columns cols … stride−1.
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
