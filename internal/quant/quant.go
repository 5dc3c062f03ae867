// Package quant holds the quantizers: arithmetic on rows of weights, without files or models.
package quant

import (
	"fmt"
	"math"
)

// RowStats are the sums of one row that the quantizers need.
type RowStats struct {
	SumAbs, SumSq float64
	Min, Max      float32
}

// Measure returns the statistics of a row; ok is false if it contains a NaN or an infinity.
func Measure(row []float32) (s RowStats, ok bool) {
	s.Min, s.Max = float32(math.Inf(1)), float32(math.Inf(-1))
	// Two sums of each kind, so that additions need not wait for each other.
	var abs0, abs1, sq0, sq1 float64
	n := len(row) &^ 1
	for i := 0; i < n; i += 2 {
		v, w := row[i], row[i+1]
		x, y := float64(v), float64(w)
		abs0 += math.Abs(x)
		abs1 += math.Abs(y)
		sq0 += x * x
		sq1 += y * y
		if v > w {
			v, w = w, v
		}
		if v < s.Min {
			s.Min = v
		}
		if w > s.Max {
			s.Max = w
		}
	}
	for _, w := range row[n:] {
		abs0 += math.Abs(float64(w))
		sq0 += float64(w) * float64(w)
		s.Min, s.Max = min(s.Min, w), max(s.Max, w)
	}
	s.SumAbs, s.SumSq = abs0+abs1, sq0+sq1
	return s, !math.IsNaN(s.SumAbs) && !math.IsInf(s.SumAbs, 0)
}

// Uniform is the entropy-constrained quantizer of one matrix: an unclipped uniform grid, q = round(w/Δ_r), whose step
// in row r is Δ_r = Step · (m_r/m)^Exponent, m being the mean magnitude of the matrix and m_r of the row. Exponent 0, an equal
// step for all weights, is reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3); 1 is an equal number
// of bits for every row.
type Uniform struct {
	Step     float32 // Δ of a row of mean magnitude MeanAbs
	MeanAbs  float64 // of the whole matrix
	Exponent float64
}

// MaxCode bounds |q|: rows whose largest weight would exceed it get a wider step. Devices hold q-values in 16
// bits; outliers and the alphabet of a matrix may exceed the largest by some hundred, hence the margin below 32767.
const MaxCode = 30000

// minStep is the least step whose reciprocal is a float32. Weights so small are as good as zero.
const minStep = 0x1p-126

// MaxWeight bounds the magnitude of weights that are quantized: sums of products of larger ones leave float32.
const MaxWeight = 1e30

// RowStep returns the step for a row of n weights, factor times the rule's, or 0 if the row is all zero or as good as that.
func (u *Uniform) RowStep(s *RowStats, n int, factor float32) float32 {
	if s.SumAbs == 0 || u.MeanAbs == 0 {
		return 0
	}
	step := float64(u.Step) * float64(factor) * math.Pow(s.SumAbs/float64(n)/u.MeanAbs, u.Exponent)
	if step = max(step, float64(max(s.Max, -s.Min))/MaxCode); step < minStep {
		return 0
	}
	return float32(step)
}

// Row quantizes one row with the given step (see RowStep). The row is to be reconstructed as scale·q, where scale is the step or,
// with centroid, the factor ⟨w,q⟩/⟨q,q⟩ that makes the error smallest, as the cells' centroids would. noise is the squared error
// then.
func Row(dst []int32, row []float32, step float32, centroid bool) (scale float32, noise float64) {
	if step == 0 {
		clear(dst)
		return 0, 0
	}
	Round(dst, row, 1/step)
	var wq0, wq1, ww0, ww1 float64
	var squares int64
	n := len(dst) &^ 1
	for i := 0; i < n; i += 2 {
		v, w, p, q := float64(row[i]), float64(row[i+1]), dst[i], dst[i+1]
		wq0 += v * float64(p)
		wq1 += w * float64(q)
		ww0 += v * v
		ww1 += w * w
		squares += int64(p)*int64(p) + int64(q)*int64(q)
	}
	for i, q := range dst[n:] {
		w := float64(row[n+i])
		wq0 += w * float64(q)
		ww0 += w * w
		squares += int64(q) * int64(q)
	}
	wq, ww, qq := wq0+wq1, ww0+ww1, float64(squares)
	if qq == 0 {
		return step, ww
	}
	if g := float64(step); !centroid {
		return step, max(0, ww-2*g*wq+g*g*qq)
	}
	return float32(wq / qq), max(0, ww-wq*wq/qq)
}

// Round writes round(w·inv) to dst. |w·inv| must stay below 2^22.
func Round(dst []int32, row []float32, inv float32) {
	// Adding 1.5·2^23 leaves the rounded integer in the low mantissa bits. The conversion forbids a fused multiply-add, so that all
	// machines agree.
	const magic, bits = float32(3 << 22), 0x4b400000
	dst = dst[:len(row)]
	for i, w := range row {
		dst[i] = int32(math.Float32bits(float32(w*inv)+magic)) - bits
	}
}

// MinMax is EntroLLM's quantizer of one matrix (arXiv 2505.02380): w ≈ Scale·q + Min with q = 0 … 2^bits − 1.
type MinMax struct {
	Scale, Min float32
	bits       int
}

// NewMinMax chooses the range: symmetric unsigned (Min = 0) if all weights have one sign, else asymmetric from lo to hi.
func NewMinMax(lo, hi float32, bits int) MinMax {
	top := float64(int(1)<<bits - 1)
	m := MinMax{bits: bits}
	switch {
	case float64(lo)*float64(hi) < 0:
		m.Min = lo
		m.Scale = float32((float64(hi) - float64(lo)) / top)
	case hi > 0:
		m.Scale = float32(float64(hi) / top)
	default: // the scale's sign makes the codes unsigned
		m.Scale = float32(float64(lo) / top)
	}
	return m
}

// Row quantizes one row; noise is its squared error.
func (m *MinMax) Row(dst []int32, row []float32) (noise float64) {
	if m.Scale == 0 {
		clear(dst)
		for _, w := range row {
			noise += float64(w-m.Min) * float64(w-m.Min)
		}
		return noise
	}
	top, inv, zero, scale := int32(1)<<m.bits-1, 1/float64(m.Scale), float64(m.Min), float64(m.Scale)
	for i, w := range row {
		q := min(max(int32((float64(w)-zero)*inv+0.5), 0), top)
		dst[i] = q
		e := float64(w) - zero - float64(q)*scale
		noise += e * e
	}
	return noise
}

// Sample returns up to n rows of a matrix of `rows`, spread over it without a period that the heads of an attention matrix could
// share.
func Sample(rows, n int) []int {
	if n >= rows {
		n = rows
	}
	out := make([]int, 0, n)
	last := -1
	for i := range n {
		_, jitter := math.Modf(float64(i) * math.Phi)
		r := int((float64(i) + jitter) * float64(rows) / float64(n))
		if r = min(max(r, last+1), rows-1); r > last {
			out = append(out, r)
			last = r
		}
	}
	return out
}

// RangeError says that a weight is too large to be quantized.
func RangeError(row int, w float32) error {
	return fmt.Errorf("row %d has a weight of %g, expected at most %g in magnitude (--lossless keeps it)", row, w,
		float64(MaxWeight))
}

// FiniteError says where a weight is not a number.
func FiniteError(row int) error {
	return fmt.Errorf("row %d contains NaN or infinity; the model file is damaged or was exported wrongly", row)
}
