package codec

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Base is what to subtract from integers (for floats: from exponent<<LowBits | rest) to get codes. Matrices whose codes
// come ready-made have a base of 0 instead.
func Base(k *format.Coding) int32 {
	if k.Float != format.NotFloat {
		return k.Zero << k.LowBits
	}
	return k.Zero
}

// Candidates returns codings worth trying for a sample of integers: alphabets of 16 and 32 levels around their mean, with as
// many low bits as are needed to cover nearly all of them, one more or one less.
func Candidates(sample []int32) []format.Coding {
	sum := 0.0
	for _, q := range sample {
		sum += float64(q)
	}
	mean := int32(math.Round(sum / float64(len(sample))))
	beyond := func(limit int32) int {
		n := 0
		for _, q := range sample {
			if q-mean < -limit || q-mean >= limit {
				n++
			}
		}
		return n
	}
	need := 0
	for need < format.MaxLowBits && beyond(8<<need) > len(sample)/50 {
		need++
	}
	var out []format.Coding
	for s := max(0, need-1); s <= min(need+1, format.MaxLowBits); s++ {
		for _, a := range []int{16, huffman.MaxLevels} {
			out = append(out, format.Coding{Levels: a, LowBits: s, Zero: mean - int32(a<<s/2)})
		}
	}
	return out
}

// Choose returns the cheapest coding for a sample of whole rows of integers (before their base is subtracted), and about how many
// bits per weight its levels and everything together will take. ready: the sample consists of codes, base 0.
func Choose(sample []int32, cols int, candidates []format.Coding, ready bool) (best format.Coding, levelBits, bits float64) {
	codes := make([]int32, cols)
	bits = math.Inf(1)
	for _, k := range candidates {
		base := Base(&k)
		if ready {
			base = 0
		}
		classes := map[int][]uint64{}
		levels := make([]uint8, cols)
		rowHist := make([]uint32, k.Levels+1)
		for r := range len(sample) / cols {
			for i, q := range sample[r*cols : (r+1)*cols] {
				codes[i] = q - base
			}
			splitLevels(levels, codes, &k, cols, cols)
			clear(rowHist)
			for _, l := range levels {
				rowHist[l]++
			}
			class := int(math.Round(classesPerBit / 2 * Entropy(rowHist)))
			if classes[class] == nil {
				classes[class] = make([]uint64, k.Levels+1)
			}
			for l, n := range rowHist {
				classes[class][l] += uint64(n)
			}
		}
		lb := 0.0
		for _, class := range SortedKeys(classes) {
			lb += estimateBits(classes[class])
		}
		lb /= float64(len(sample) / cols * cols)
		if total := lb + float64(k.LowBits); total < bits {
			best, levelBits, bits = k, lb, total
		}
	}
	return best, levelBits, bits
}

// pairRedundancy is about what pairs take beyond their entropy where the length limit does not matter: code lengths are whole
// bits, and rows differ more than their class tells. With this value estimates agreed with real sizes of 2 to 8 bits within 0.2
// %.
const pairRedundancy = 0.06

// estimateBits returns about the bits that pair codes of at most MaxCodeLen bits and outliers take for
// independent levels with the given counts, the last of which is of levels outside the alphabet.
func estimateBits(levels []uint64) float64 {
	a := len(levels) - 1
	total := 0.0
	for _, n := range levels {
		total += float64(n)
	}
	outside := float64(levels[a]) / total
	const floor = 1.0 / (1 << huffman.MaxCodeLen)
	var rare []float64
	mass, info := 0.0, 0.0
	for _, x := range levels[:a] {
		for _, y := range levels[:a] {
			p := float64(x) / total * float64(y) / total
			switch {
			case p >= floor:
				mass += p
				info -= p * math.Log2(p)
			case p > 0:
				rare = append(rare, p)
			}
		}
	}
	// Pairs rarer than a cut become outliers. The others below the floor take 2^−MaxCodeLen of the code space each, and
	// the frequent ones share the rest by their probabilities.
	best := math.Inf(1)
	for cut := floor; cut > floor/4096; cut /= 2 {
		bits, space := info, 1.0
		for _, p := range rare {
			if p < cut {
				bits += p * (choiceCost + huffman.MaxCodeLen/2)
			} else {
				bits += p * huffman.MaxCodeLen
				space -= floor
			}
		}
		if mass > 0 && space > 0 {
			bits += mass * math.Log2(mass/space)
		}
		best = min(best, bits+pairRedundancy)
	}
	return total * (best/2 + outside*choiceCost)
}
