package dot

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// MinCorrection and MaxCorrection bound what a correction adds.
const (
	correctionCols = 11 // bits: a tile has up to MaxSteps steps
	MinCorrection  = -16
	MaxCorrection  = 15
)

// PackCorrection returns an entry of Rows.Correct, which adds delta to the code in column col of a tile: the column in the low 11
// bits, the difference above.
func PackCorrection(col, delta int) uint16 { return uint16(col) | uint16(delta)<<correctionCols }

// UnpackCorrection is the inverse of PackCorrection.
func UnpackCorrection(e uint16) (col, delta int) {
	return int(e & (1<<correctionCols - 1)), int(int16(e)) >> correctionCols
}

// Corrections returns those of row r.
func (w *Rows) Corrections(r int) []uint16 {
	if w.CorrectStart == nil {
		return nil
	}
	return w.Correct[w.CorrectStart[r]:w.CorrectStart[r+1]]
}

// CorrectionSums is a good length of Rows.Sums.
const CorrectionSums = 4096

// correct adds corrections to the products of the planes.
func (k Kernels) correct(out []int32, w *Rows, x []int8) {
	if w.CorrectStart[0] == w.CorrectStart[w.Count] {
		return
	}
	if len(w.Values) >= w.Steps*StepCols && len(w.Sums) > 1 {
		k.correctRows(out, w, w.Values, w.Sums)
		return
	}
	var v [MaxSteps * StepCols]int16
	var sums [CorrectionSums / 8]int32
	k.join(&v, x, w.Steps)
	k.correctRows(out, w, v[:], sums[:])
}

// correctRows adds up the corrections of as many rows as `sums` has room for in one run, without a branch at the end of every
// row: a row's sum is the difference of two running sums, which is right even where these wrap.
func (k Kernels) correctRows(out []int32, w *Rows, v []int16, sums []int32) {
	for r := 0; r < w.Count; {
		first, end := w.CorrectStart[r], r+1
		for end < w.Count && int(w.CorrectStart[end+1]-first) < len(sums) {
			end++
		}
		list := w.Correct[first:w.CorrectStart[end]]
		if len(list) >= len(sums) { // one long row
			out[2*r+1] += correctionSum(list, v)
			r++
			continue
		}
		if k.ISA == isa.AVX2 {
			correctRowsAVX2(out[2*r:2*end], w.CorrectStart[r:end+1], list, correctInputs{v, sums, w.Ahead})
			r = end
			continue
		}
		runningSums(sums[:len(list)+1], list, v)
		for ; r < end; r++ {
			out[2*r+1] += sums[w.CorrectStart[r+1]-first] - sums[w.CorrectStart[r]-first]
		}
	}
}

// correctInputs are what corrections are multiplied with, memory for running sums, and what is fetched meanwhile.
type correctInputs struct {
	v     []int16
	sums  []int32
	ahead []byte
}

// runningSums sets sums[i] to the sum of the first i corrections.
func runningSums(sums []int32, list []uint16, v []int16) {
	const mask = 1<<correctionCols - 1
	sum := int32(0)
	sums[0] = 0
	sums = sums[1 : len(list)+1]
	if len(v) > mask {
		v := (*[mask + 1]int16)(v)
		for i, e := range list {
			sum += int32(int16(e)) >> correctionCols * int32(v[e&mask])
			sums[i] = sum
		}
		return
	}
	for i, e := range list {
		sum += int32(int16(e)) >> correctionCols * int32(v[e&mask])
		sums[i] = sum
	}
}

func correctionSum(list []uint16, v []int16) (sum int32) {
	for _, e := range list {
		sum += int32(int16(e)) >> correctionCols * int32(v[e&(1<<correctionCols-1)])
	}
	return sum
}

// Values sets v to the activations of some tiles as whole numbers, for Rows.Values.
func (k Kernels) Values(v []int16, x []int8, steps int) {
	var tile [MaxSteps * StepCols]int16
	for first := 0; first < steps; first += MaxSteps {
		n := min(MaxSteps, steps-first)
		k.join(&tile, x[2*StepCols*first:], n)
		copy(v[StepCols*first:], tile[:n*StepCols])
	}
}

// join sets v to the activations of some steps.
func (k Kernels) join(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	switch {
	case k.Factored() && steps > 0:
		joinFactors(v, x, steps)
		return
	case k.ISA == isa.AVX2 && steps > 0:
		joinAVX2(v, x, steps)
		return
	case k.ISA == isa.NEON && steps > 0:
		sumJoined(v, x, steps)
		return
	}
	for s := range steps {
		p := x[2*StepCols*s:][:2*StepCols]
		for c, lo := range p[StepCols:] {
			v[StepCols*s+c] = int16(p[c])<<8 + int16(lo)
		}
	}
}
