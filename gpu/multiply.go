package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// multiplyBatch multiplies n tokens, whose inputs are at x and, prepared, at xp. Coded matrices are decoded, and packed ones taken apart, once
// for all of them, as many rows at a time as fit the scratch plane.
func (p *pass) multiplyBatch(st *step, n int, x, xp, dst driver.DevicePtr) error {
	w := st.weight
	p.hint = hint{with: []*weight{w}}
	gemm := func(data driver.DevicePtr, first, rows int) error {
		grid := driver.D2(ceilDiv(rows, w.product.gemmRows), ceilDiv(n, gemmTokens))
		return w.product.gemm(grid, 0, w.descDev, data, int32(first), int32(rows), x, xp, p.preparedStride, int32(n), st.vector, dst)
	}
	unit := quadRows // of rows that are brought to the plane together
	bring := func(plane driver.DevicePtr, first, rows int) error { return p.unpack(w, first, rows, p.sms, plane) }
	switch w.form {
	case formCoded:
		unit = w.Coded.Coding.RowsPerGroup
		bring = func(plane driver.DevicePtr, first, rows int) error {
			return p.decode(w, first/unit, ceilDiv(rows, unit), p.sms, plane)
		}
	case formPacked:
	default:
		return gemm(0, 0, w.Rows)
	}
	step := max(1, int(p.planeBytes/w.planeBytes(unit))) * unit
	for first := 0; first < w.Rows; first += step {
		rows := min(step, w.Rows-first)
		if err := p.ring.use(p.launcher, func(plane driver.DevicePtr) error { return bring(plane, first, rows) },
			func(plane driver.DevicePtr) error { return gemm(plane, first, rows) }); err != nil {
			return err
		}
	}
	return nil
}
