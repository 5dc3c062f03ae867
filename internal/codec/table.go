package codec

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// buildTable makes the code for a histogram of symbols(levels) counts. Because no code may be longer than MaxCodeLen, every rare
// pair that gets one takes at least 2^−12 of the code space from the others; below some count it is cheaper as an outlier, which
// costs `each`. The cut-off is searched.
func buildTable(hist []uint64, levels int, each uint64) (*coder, error) {
	pairs := make([]uint64, levels*levels)
	total := uint64(0)
	for x := range levels {
		for y := range levels {
			pairs[x*levels+y] = hist[x*(levels+1)+y]
			total += pairs[x*levels+y]
		}
	}
	var best *coder
	var bestBits uint64
	// Worse cut-offs follow each other: after two of them the minimum has been passed.
	const last = 64 // leaves nothing out
	first := uint(12)
	if each == valueCost {
		first = last
	}
	for worse, cut := 0, first; cut <= last && worse < 2; cut++ {
		kept := slices.Clone(pairs)
		left := false
		for s, n := range kept {
			if n <= total>>cut {
				left = left || n > 0
				kept[s] = 0
			}
		}
		t, err := huffman.Build(kept, levels, huffman.MaxCodeLen)
		if err != nil {
			return nil, err
		}
		c := newCoder(t)
		if b := c.total(hist, each); best == nil || b < bestBits {
			best, bestBits, worse = c, b, 0
		} else {
			worse++
		}
		if !left {
			break
		}
	}
	return best, nil
}

// HuffmanBits returns the bits that a Huffman code without a length limit takes for events with these counts.
func HuffmanBits(counts []uint64) uint64 {
	var leaves, merged []uint64
	for _, n := range counts {
		if n > 0 {
			leaves = append(leaves, n)
		}
	}
	slices.Sort(leaves)
	smallest := func() uint64 {
		from := &leaves
		if len(leaves) == 0 || len(merged) > 0 && merged[0] < leaves[0] {
			from = &merged
		}
		n := (*from)[0]
		*from = (*from)[1:]
		return n
	}
	// Every union lengthens the codes of all events below it by one bit.
	bits := uint64(0)
	for len(leaves)+len(merged) > 1 {
		n := smallest() + smallest()
		bits += n
		merged = append(merged, n)
	}
	return bits
}
