package convert

import (
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// begin quantizes all rows of the matrix if it gets error feedback: columns follow from each other, but rows are best done many
// at a time.
func (m *uniformQuantizer) begin() error {
	f := m.factors.get(m.t.info.Name)
	if f == nil {
		return nil
	}
	rows, cols := m.t.info.Rows, m.t.info.Cols
	m.codes, m.gains = make([]int16, rows*cols), make([]float32, rows)
	batches := (rows + quant.FeedbackRows - 1) / quant.FeedbackRows
	workers := make(chan *quant.FeedbackScratch, batches)
	isa := linalg.Best()
	return parallel.Each(m.ctx, batches, func(i int, s *scratch) error {
		var fs *quant.FeedbackScratch
		select {
		case fs = <-workers:
		default:
			fs = &quant.FeedbackScratch{}
		}
		defer func() { workers <- fs }()
		r0 := i * quant.FeedbackRows
		r1 := min(rows, r0+quant.FeedbackRows)
		w := grow(&s.floats, (r1-r0)*cols)
		if err := m.src.ReadRows(m.t.index, r0, r1, w); err != nil {
			return err
		}
		steps := make([]float32, r1-r0)
		for r := range steps {
			steps[r] = m.rowStep(r0 + r)
		}
		m.quantizeFed(f, isa, m.codes[r0*cols:r1*cols], w, steps, m.gains[r0:r1], grow(&s.ints, cols), fs)
		return nil
	})
}

// quantizeFed quantizes rows w with error feedback. plain is memory for a row.
func (m *uniformQuantizer) quantizeFed(f *quant.Feedback, isa linalg.Kernels, dst []int16, w, steps, gains []float32,
	plain []int32, fs *quant.FeedbackScratch) {
	for r, step := range steps {
		gains[r], _ = quant.Row(plain, w[r*f.Cols:(r+1)*f.Cols], step, !m.opt.Tuning.NoCentroid)
	}
	f.Rows(isa, dst, w, steps, gains, fs)
}

// feedSample quantizes the sample with error feedback, if the matrix gets it, else as sampled.
func (m *uniformQuantizer) feedSample() []int32 {
	f := m.factors.get(m.t.info.Name)
	if f == nil {
		return m.sampled()
	}
	out, cols := make([]int32, len(m.sample)), m.t.info.Cols
	codes, gains, plain, fs := make([]int16, quant.FeedbackRows*cols), make([]float32, quant.FeedbackRows), make([]int32, cols),
		&quant.FeedbackScratch{}
	for i := 0; i < len(m.rowsOf); i += quant.FeedbackRows {
		var steps []float32
		for _, r := range m.rowsOf[i:min(i+quant.FeedbackRows, len(m.rowsOf))] {
			steps = append(steps, m.rowStep(r))
		}
		at, n := i*cols, len(steps)*cols
		m.quantizeFed(f, linalg.Best(), codes[:n], m.sample[at:at+n], steps, gains[:len(steps)], plain, fs)
		for k, q := range codes[:n] {
			out[at+k] = int32(q)
		}
	}
	return out
}

// end frees what begin made.
func (m *uniformQuantizer) end() { m.codes, m.gains = nil, nil }

// copyFed copies rows that begin quantized.
func (m *uniformQuantizer) copyFed(r0, r1 int, dst []int32, s *scratch, final bool) error {
	cols := m.t.info.Cols
	for i, q := range m.codes[r0*cols : r1*cols] {
		dst[i] = int32(q)
	}
	if !final {
		return nil
	}
	w := grow(&s.floats, len(dst))
	if err := m.src.ReadRows(m.t.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		at := (r - r0) * cols
		for i, q := range dst[at : at+cols] {
			e := float64(w[at+i]) - float64(m.gains[r])*float64(q)
			m.t.noise[r] += e * e
		}
		m.setScale(r, m.gains[r])
	}
	return nil
}
