package huffman

import (
	"fmt"
	"math/bits"
	"slices"
)

// Build returns the table that codes the given histogram of pairs (levels² counts, symbol = a0*levels + a1) in the fewest bits
// with no code longer than maxLen, by package-merge (Larmore and Hirschberg, 1990). Equal counts are ordered by symbol, so the
// result is deterministic. A histogram with fewer than two symbols is completed with the lowest unused ones.
func Build(hist []uint64, levels, maxLen int) (*Table, error) {
	if levels < MinLevels || levels > MaxLevels {
		return nil, fmt.Errorf("huffman: %d levels, expected %d to %d", levels, MinLevels, MaxLevels)
	}
	if len(hist) != levels*levels {
		return nil, fmt.Errorf("huffman: histogram of %d counts, expected %d", len(hist), levels*levels)
	}
	var syms []int
	for s, n := range hist {
		if n > 0 {
			syms = append(syms, s)
		}
	}
	for s := 0; len(syms) < 2; s++ {
		if !slices.Contains(syms, s) {
			syms = append(syms, s)
		}
	}
	if maxLen < 1 || maxLen > MaxCodeLen || len(syms) > 1<<maxLen {
		return nil, fmt.Errorf("huffman: %d symbols do not fit codes of at most %d bits (limit %d)", len(syms), maxLen, MaxCodeLen)
	}
	slices.SortFunc(syms, func(a, b int) int {
		switch {
		case hist[a] < hist[b]:
			return -1
		case hist[a] > hist[b]:
			return 1
		}
		return a - b
	})
	t := &Table{Levels: levels, MaxLen: maxLen, Lens: make([]uint8, len(hist))}
	weights := make([]uint64, len(syms))
	for i, s := range syms {
		weights[i] = hist[s]
	}
	for i, n := range packageMerge(weights, maxLen) {
		t.Lens[syms[i]] = n
	}
	return t, nil
}

// packageMerge returns optimal code lengths ≤ maxLen for ascending weights. Row d of the coin collector's problem holds the
// leaves merged with pairs of row d−1; only whether an item is a leaf needs to be remembered, because a row's chosen items are
// its first ones.
func packageMerge(weights []uint64, maxLen int) []uint8 {
	n := len(weights)
	rows := make([][]bool, maxLen) // row → item is a leaf
	var packages []uint64
	for d := range rows {
		items := make([]uint64, 0, n+len(packages))
		isLeaf := make([]bool, 0, n+len(packages))
		for i, j := 0, 0; i < n || j < len(packages); {
			if j == len(packages) || i < n && weights[i] <= packages[j] {
				items, isLeaf = append(items, weights[i]), append(isLeaf, true)
				i++
			} else {
				items, isLeaf = append(items, packages[j]), append(isLeaf, false)
				j++
			}
		}
		rows[d] = isLeaf
		packages = packages[:0:0]
		for i := 0; i+1 < len(items); i += 2 {
			packages = append(packages, items[i]+items[i+1])
		}
	}
	lens := make([]uint8, n)
	chosen := 2*n - 2
	for d := maxLen - 1; d >= 0; d-- {
		leaves := 0
		for _, leaf := range rows[d][:chosen] {
			if leaf {
				lens[leaves]++
				leaves++
			}
		}
		chosen = 2 * (chosen - leaves)
	}
	return lens
}

// Validate checks that t is a complete code within the format's limits.
func (t *Table) Validate() error {
	if t.Levels < MinLevels || t.Levels > MaxLevels || t.MaxLen < 1 || t.MaxLen > MaxCodeLen {
		return fmt.Errorf("table of %d levels and codes up to %d bits, expected %d to %d and 1 to %d", t.Levels, t.MaxLen,
			MinLevels, MaxLevels, MaxCodeLen)
	}
	if len(t.Lens) != t.Levels*t.Levels {
		return fmt.Errorf("table of %d code lengths, expected %d", len(t.Lens), t.Levels*t.Levels)
	}
	kraft := 0
	for s, n := range t.Lens {
		if int(n) > t.MaxLen {
			return fmt.Errorf("symbol %d has a code of %d bits, expected at most %d", s, n, t.MaxLen)
		}
		if n > 0 {
			kraft += 1 << (MaxCodeLen - int(n))
		}
	}
	if kraft != 1<<MaxCodeLen {
		return fmt.Errorf("code is not complete: sum of 2^-length is %g, expected 1", float64(kraft)/(1<<MaxCodeLen))
	}
	return nil
}

// canonical calls f with every symbol that has a code and its canonical code, most significant bit first. t must be valid.
func (t *Table) canonical(f func(symbol int, code uint32, length int)) {
	var next [MaxCodeLen + 2]uint32 // the next code of a length; at first how many codes are one bit shorter
	for _, l := range t.Lens {
		if l > 0 {
			next[l+1]++
		}
	}
	for n := 2; n <= MaxCodeLen; n++ {
		next[n] = (next[n] + next[n-1]) << 1
	}
	for s, l := range t.Lens {
		if l > 0 {
			f(s, next[l], int(l))
			next[l]++
		}
	}
}

// Codes returns each symbol's code as it stands in the stream: first bit lowest.
func (t *Table) Codes() []uint16 {
	codes := make([]uint16, len(t.Lens))
	t.canonical(func(s int, code uint32, n int) { codes[s] = uint16(bits.Reverse32(code) >> (32 - n)) })
	return codes
}

// Bits returns the coded size of a histogram of pairs, and whether every symbol of it has a code.
func (t *Table) Bits(hist []uint64) (total uint64, ok bool) {
	for s, n := range hist {
		if n > 0 && t.Lens[s] == 0 {
			return 0, false
		}
		total += n * uint64(t.Lens[s])
	}
	return total, true
}

// Lookup returns the decoding table: indexed by the next MaxLen bits of the stream, a0 | a1<<8 | length<<16. t must be valid.
func (t *Table) Lookup() []uint32 {
	lut := make([]uint32, 1<<t.MaxLen)
	t.canonical(func(s int, code uint32, n int) {
		e := uint32(s/t.Levels) | uint32(s%t.Levels)<<8 | uint32(n)<<16
		for i := bits.Reverse32(code) >> (32 - n); i < uint32(len(lut)); i += 1 << n {
			lut[i] = e
		}
	})
	return lut
}
