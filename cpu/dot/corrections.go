package dot

// MinCorrection and MaxCorrection bound what a correction adds.
const (
	correctionCols = 11 // bits: a tile has up to MaxSteps steps
	MinCorrection  = -16
	MaxCorrection  = 15
)

// PackCorrection returns an entry of Rows.Correct, which adds delta to the code in column col of a tile: the column in the low 11 bits, the difference above.
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

// correct adds corrections to the products of the planes.
func (i ISA) correct(out []int32, w *Rows, x []int8) {
	if w.CorrectStart[0] == w.CorrectStart[w.Count] {
		return
	}
	var v [MaxSteps * StepCols]int16
	i.join(&v, x, w.Steps)
	for r := range w.Count {
		sum := int32(0)
		for _, e := range w.Corrections(r) {
			sum += int32(int16(e)) >> correctionCols * int32(v[e%uint16(len(v))])
		}
		out[2*r+1] += sum
	}
}

// join sets v to the activations of some steps.
func (i ISA) join(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	switch {
	case i == AVX2 && steps > 0:
		joinAVX2(v, x, steps)
		return
	case i == NEON && steps > 0:
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
