package codec

import (
	"math"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// bin is a candidate for a table.
type bin struct {
	levels int
	hist   []uint64
	bits   float64 // entropy of hist, in bits
	cost   uint64  // of an outlier
}

func newBin(levels int, hist []uint64, cost uint64) *bin {
	total := 0.0
	for _, n := range hist {
		total += float64(n)
	}
	return &bin{levels: levels, hist: hist, bits: total * Entropy(hist), cost: cost}
}

func (b *bin) merged(o *bin) *bin {
	hist := make([]uint64, len(b.hist))
	for i := range hist {
		hist[i] = b.hist[i] + o.hist[i]
	}
	return newBin(b.levels, hist, max(b.cost, o.cost))
}

// mergeBins unites bins with the same alphabet as long as that costs less than a table takes in the file, and until the
// tables fit the container. Always the cheapest union comes first.
func mergeBins(bins []*bin) []*bin {
	n := len(bins)
	cost := make([][]float64, n) // cost[i][j], i < j: bits that uniting i and j costs
	for i := range cost {
		cost[i] = make([]float64, n)
	}
	pair := func(i, j int) {
		if bins[i] == nil || bins[j] == nil || bins[i].levels != bins[j].levels {
			cost[i][j] = math.Inf(1)
			return
		}
		cost[i][j] = bins[i].merged(bins[j]).bits - bins[i].bits - bins[j].bits
	}
	parallel.Do(n, func(i int) {
		for j := i + 1; j < n; j++ {
			pair(i, j)
		}
	})
	for left := n; ; left-- {
		bi, bj, best := cheapest(cost)
		// Four bits a symbol, and two bytes.
		if bi < 0 || left <= maxTables && best > float64(4*bins[bi].levels*bins[bi].levels+16) {
			break
		}
		bins[bi], bins[bj] = bins[bi].merged(bins[bj]), nil
		for k := range n {
			for _, b := range [2]int{bi, bj} {
				if k != b {
					pair(min(k, b), max(k, b))
				}
			}
		}
	}
	return slices.DeleteFunc(bins, func(b *bin) bool { return b == nil })
}

// cheapest returns the pair i < j of least cost, −1 for none of finite cost.
func cheapest(cost [][]float64) (bi, bj int, best float64) {
	bi, bj, best = -1, -1, math.Inf(1)
	for i := range cost {
		for j := i + 1; j < len(cost); j++ {
			if cost[i][j] < best {
				bi, bj, best = i, j, cost[i][j]
			}
		}
	}
	return bi, bj, best
}
