package convert

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// Exponents of columns' steps, see Calibration.Exponent. The finest steps at equal bits would be those by E[x²]^(−1/2), but one
// code table for columns whose levels differ wastes what they win; with a table for each tile of similar columns less of it.
const (
	columnExponent = 0.33
	sortedExponent = 0.4
)

// exponent returns the exponent of the steps of an input's columns.
func (j *job) exponent(in *model.Input) float64 {
	switch {
	case j.opt.Calibration.Exponent != 0:
		return j.opt.Calibration.Exponent
	case j.sortable(in):
		return sortedExponent
	}
	return columnExponent
}

// sortable tells whether similar columns of an input's matrices can be gathered in tiles, which then have code tables of their
// own: only where matrices have several tiles anyway, and where the model allows another order.
func (j *job) sortable(in *model.Input) bool {
	shape := format.Coded{Rows: 1, Cols: in.Width}
	return !j.opt.Tuning.NoColumns && !j.opt.Tuning.NoColumnClasses && len(in.Ordered) > 0 && shape.Tiles() > 1
}

// magnitudeRows is how many rows of a matrix are looked at to compare its columns.
const magnitudeRows = 256

// sortColumns puts the elements of inputs in the order of the magnitude of their columns' levels.
func (j *job) sortColumns() error {
	if j.opt.Tuning.NoColumns || j.opt.Tuning.NoColumnClasses {
		return nil
	}
	prog, err := j.program()
	if err != nil {
		return err
	}
	tensors := map[string]*tensorJob{}
	for _, t := range j.tensors {
		tensors[t.info.Name] = t
	}
	for _, in := range prog.Inputs() {
		if !j.sortable(&in) {
			continue
		}
		squares := make([]float64, in.Width)
		for _, w := range in.Weights {
			if m, ok := tensors[w].quantizer.(*uniformQuantizer); ok {
				if err := m.addSquares(squares); err != nil {
					return err
				}
			}
		}
		order := make([]uint32, in.Width)
		for i := range order {
			order[i] = uint32(i)
		}
		slices.SortStableFunc(order, func(a, b uint32) int {
			switch d := squares[a] - squares[b]; {
			case d < 0:
				return -1
			case d > 0:
				return 1
			}
			return 0
		})
		for _, w := range in.Weights {
			tensors[w].cols = order
		}
		for _, name := range in.Ordered {
			if t := tensors[name]; t.info.Vector {
				t.cols = order
			} else {
				t.rows = order
			}
		}
	}
	return nil
}

// addSquares adds to every column the sum of its squared levels in sampled rows.
func (m *uniformQuantizer) addSquares(squares []float64) error {
	m.setStep(1) // of all rows alike, whatever it will be
	row := make([]float32, m.t.info.Cols)
	for _, r := range quant.Sample(m.t.info.Rows, magnitudeRows) {
		if err := m.src.ReadRows(m.t.index, r, r+1, row); err != nil {
			return err
		}
		step := float64(m.rowStep(r))
		if step == 0 {
			continue
		}
		for c, w := range row {
			q := float64(w) / step
			squares[c] += q * q
		}
	}
	return nil
}

// permuted returns the elements of v in the given order; nil: as they are.
func permuted[T any](v []T, order []uint32) []T {
	if order == nil || v == nil {
		return v
	}
	out := make([]T, len(order))
	for i, from := range order {
		out[i] = v[from]
	}
	return out
}
