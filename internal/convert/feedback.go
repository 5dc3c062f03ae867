package convert

import (
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// begin quantizes all rows of the matrix if it gets error feedback: columns follow from each other, but rows are best done many at a time.
func (m *uniformMatrix) begin() error {
	f, err := m.factors.get(m.p.info.Name)
	if err != nil || f == nil {
		return err
	}
	rows, cols := m.p.info.Rows, m.p.info.Cols
	m.codes, m.gains = make([]int16, rows*cols), make([]float32, rows)
	batches := (rows + quant.FeedbackRows - 1) / quant.FeedbackRows
	workers := make(chan *quant.FeedbackScratch, batches)
	isa := linalg.Best()
	return m.each(batches, func(i int, s *scratch) error {
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
		if err := m.src.ReadRows(m.p.index, r0, r1, w); err != nil {
			return err
		}
		plain, steps := grow(&s.ints, cols), make([]float32, r1-r0)
		for r := r0; r < r1; r++ {
			steps[r-r0] = m.rowStep(r)
			m.gains[r], _ = quant.Row(plain, w[(r-r0)*cols:(r-r0+1)*cols], steps[r-r0], !m.opt.Tuning.NoCentroid)
		}
		f.Rows(isa, m.codes[r0*cols:r1*cols], w, steps, m.gains[r0:r1], fs)
		return nil
	})
}

// end frees what begin made.
func (m *uniformMatrix) end() { m.codes, m.gains = nil, nil }

// fed copies rows that begin quantized.
func (m *uniformMatrix) fed(r0, r1 int, dst []int32, s *scratch, final bool) error {
	cols := m.p.info.Cols
	for i, q := range m.codes[r0*cols : r1*cols] {
		dst[i] = int32(q)
	}
	if !final {
		return nil
	}
	w := grow(&s.floats, len(dst))
	if err := m.src.ReadRows(m.p.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		at := (r - r0) * cols
		for i, q := range dst[at : at+cols] {
			e := float64(w[at+i]) - float64(m.gains[r])*float64(q)
			m.p.noise[r] += e * e
		}
		m.setScale(r, m.gains[r])
	}
	return nil
}
