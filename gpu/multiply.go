package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// multiplyBatch multiplies many tokens. A coded matrix is decoded once for all of them, as many groups at a time as fit the scratch plane.
func (p *pass) multiplyBatch(st *step, s span, x, dst driver.DevicePtr) error {
	w, n := st.weight, s.n
	p.with = []*weight{w}
	if w.form != formCoded && w.form != formPacked {
		return w.product.gemm(gemmGrid(w.Rows, n), 0, w.descDev, 0, 0, int32(w.Rows), x, int32(n), st.vector, dst)
	}
	if w.form == formPacked {
		return p.multiplyPacked(st, n, x, dst)
	}
	rowsPerGroup := w.Coded.Coding.RowsPerGroup
	step := max(1, int(p.planeBytes/w.planeBytes(rowsPerGroup)))
	for g := 0; g < w.Coded.Groups(); g += step {
		groups := min(step, w.Coded.Groups()-g)
		first := g * rowsPerGroup
		rows := min(groups*rowsPerGroup, w.Rows-first)
		err := p.ring.use(p.launcher, func(plane driver.DevicePtr) error { return p.decode(w, g, groups, p.sms, plane) },
			func(plane driver.DevicePtr) error { return p.multiplyPlane(st, plane, first, rows, n, x, dst) })
		if err != nil {
			return err
		}
	}
	return nil
}

// multiplyPlane multiplies n tokens by some rows of a matrix, decoded at plane.
func (p *pass) multiplyPlane(st *step, plane driver.DevicePtr, first, rows, n int, x, dst driver.DevicePtr) error {
	w := st.weight
	return w.product.gemm(gemmGrid(rows, n), 0, w.descDev, plane, int32(first), int32(rows), x, int32(n), st.vector, dst)
}

// multiplyPacked multiplies many tokens. Packed codes are taken apart once for all of them, as many rows at a time as fit the scratch plane.
func (p *pass) multiplyPacked(st *step, n int, x, dst driver.DevicePtr) error {
	w := st.weight
	step := max(1, int(p.planeBytes/w.planeBytes(quadRows))) * quadRows
	for first := 0; first < w.Rows; first += step {
		rows := min(step, w.Rows-first)
		err := p.ring.use(p.launcher, func(plane driver.DevicePtr) error { return p.unpack(w, first, rows, p.sms, plane) },
			func(plane driver.DevicePtr) error { return p.multiplyPlane(st, plane, first, rows, n, x, dst) })
		if err != nil {
			return err
		}
	}
	return nil
}

func gemmGrid(rows, tokens int) driver.Dim {
	return driver.D2(ceilDiv(rows, gemmTokens), ceilDiv(tokens, gemmTokens))
}
