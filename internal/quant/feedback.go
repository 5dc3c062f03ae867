package quant

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
)

// Feedback is error feedback for rows that are multiplied with inputs of known second moments S = L·Lᵀ: columns are quantized
// from the last to the first, and what a column's rounding does to the output is compensated by the columns still to come. The
// output error of row w is ‖(w−ŵ)·L‖², so column j rounds w_j + Σ_{i>j} (w_i−ŵ_i)·L_ij/L_jj. (Successive interference
// cancellation as in WaterSIC, arXiv 2603.04956; the same as GPTQ's, arXiv 2210.17323, in reversed order.)
type Feedback struct {
	Cols int
	// Factor holds L_ij/L_jj in panels of PanelCols columns, one after the other: a panel of columns j0 … has rows j0 … Cols−1,
	// row-major, with a row length of PanelCols; elements with i ≤ j are not read.
	Factor []float32
}

const (
	// PanelCols is the width of a panel of Feedback.Factor.
	PanelCols = 64
	// FeedbackRows is how many rows are best quantized together.
	FeedbackRows = 64
	group        = 8       // columns between which errors are passed on one by one
	maxRounded   = MaxCode // moments may be ill-conditioned, codes must stay codes
)

// FactorLen returns the length of Feedback.Factor.
func FactorLen(cols int) int {
	n := 0
	for j := 0; j < cols; j += PanelCols {
		n += (cols - j) * PanelCols
	}
	return n
}

// Panel returns the panel of columns from j0, a multiple of PanelCols, on.
func (f *Feedback) Panel(j0 int) []float32 {
	p := j0 / PanelCols // panels before: rows Cols, Cols−64, …
	at := PanelCols * (p*f.Cols - PanelCols*p*(p-1)/2)
	return f.Factor[at : at+(f.Cols-j0)*PanelCols]
}

// SetFactor fills Factor from a Cholesky factor (row-major, Cols × Cols, lower triangle) of the moments of inputs that are
// multiplied by scale, column by column. scale may be nil.
func (f *Feedback) SetFactor(l, scale []float32) {
	n := f.Cols
	f.Factor = make([]float32, FactorLen(n))
	inv := make([]float32, n)
	for j := range inv {
		inv[j] = 1 / l[j*n+j]
		if scale != nil {
			inv[j] /= scale[j]
		}
	}
	for j0 := 0; j0 < n; j0 += PanelCols {
		panel := f.Panel(j0)
		for i := j0; i < n; i++ {
			s := float32(1)
			if scale != nil {
				s = scale[i]
			}
			row := panel[(i-j0)*PanelCols : (i-j0+1)*PanelCols]
			for j := j0; j < min(i, j0+PanelCols); j++ {
				row[j-j0] = l[i*n+j] * inv[j] * s
			}
		}
	}
}

// FeedbackScratch is memory that Rows uses; one per goroutine.
type FeedbackScratch struct {
	weights, errors, sums []float32 // columns × FeedbackRows; PanelCols × FeedbackRows
	inv, recon            [FeedbackRows]float32
	linalg                linalg.Scratch
}

// Rows quantizes up to FeedbackRows rows, w, to codes dst of the same shape. Row r has cells of width step[r] and is
// reconstructed as scale[r]·code. A step of 0 makes a row of zeros.
func (f *Feedback) Rows(isa linalg.Kernels, dst []int16, w, step, scale []float32, s *FeedbackScratch) {
	const lanes = FeedbackRows
	n, rows := f.Cols, len(step)
	if len(s.weights) < n*lanes {
		s.weights, s.errors, s.sums = make([]float32, n*lanes), make([]float32, n*lanes), make([]float32, PanelCols*lanes)
	}
	clear(s.inv[:])
	clear(s.recon[:])
	for r := range rows {
		if step[r] > 0 {
			s.inv[r], s.recon[r] = 1/step[r], scale[r]
		}
	}
	for r := range lanes {
		if r >= rows {
			for j := range n {
				s.weights[j*lanes+r] = 0
			}
			continue
		}
		for j, x := range w[r*n : (r+1)*n] {
			s.weights[j*lanes+r] = x
		}
	}
	errors := linalg.RowMajor(s.errors, lanes)
	for j0 := (n - 1) / PanelCols * PanelCols; j0 >= 0; j0 -= PanelCols {
		width := min(PanelCols, n-j0)
		panel := linalg.RowMajor(f.Panel(j0), PanelCols)
		sums := linalg.RowMajor(s.sums[:width*lanes], lanes)
		clear(sums.Data)
		if rest := n - j0 - width; rest > 0 {
			isa.MulAdd(sums, panel.From(width, 0).T(), errors.From(j0+width, 0), width, lanes, rest, &s.linalg)
		}
		for g := (width - 1) / group * group; g >= 0; g -= group {
			f.group(dst, rows, j0+g, min(group, width-g), panel.From(g, g), sums.From(g, 0).Data, s)
			if g > 0 {
				isa.MulAdd(sums, panel.From(g, 0).T(), errors.From(j0+g, 0), g, lanes, min(group, width-g), &s.linalg)
			}
		}
	}
}

// group quantizes `width` columns from j0 on. sums holds what later columns add to them, factor begins at row and column j0.
func (f *Feedback) group(dst []int16, rows, j0, width int, factor linalg.Matrix, sums []float32, s *FeedbackScratch) {
	const lanes = FeedbackRows
	const magic, bits = float32(3 << 22), 0x4b400000 // see Round
	for j := width - 1; j >= 0; j-- {
		w, e := (*[lanes]float32)(s.weights[(j0+j)*lanes:]), (*[lanes]float32)(s.errors[(j0+j)*lanes:])
		sum := (*[lanes]float32)(sums[j*lanes:])
		var code [lanes]int32
		for r, x := range w {
			y := float32((x + sum[r]) * s.inv[r])
			if !(y > -maxRounded) { // or not a number
				y = -maxRounded
			} else if y > maxRounded {
				y = maxRounded
			}
			q := int32(math.Float32bits(y+magic)) - bits
			code[r] = q
			e[r] = x - float32(float32(q)*s.recon[r])
		}
		for r, q := range code[:rows] {
			dst[r*f.Cols+j0+j] = int16(q)
		}
		for k, u := range factor.Data[j*factor.Row : j*factor.Row+j] {
			to := (*[lanes]float32)(sums[k*lanes:])
			for r, x := range e {
				to[r] += float32(u * x)
			}
		}
	}
}
