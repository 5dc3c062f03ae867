package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// multiplyBatch multiplies many tokens. A coded matrix is decoded once for all of them, as many groups at a time as fit the scratch plane.
func (p *pass) multiplyBatch(st *step, s span, x, dst driver.DevicePtr) error {
	w, n := st.weight, s.n
	p.with = []*weight{w}
	if w.form != formCoded {
		return w.product.gemm(gemmGrid(w.Rows, n), 0, w.descDev, 0, 0, int32(w.Rows), x, int32(n), st.vector, dst)
	}
	rowsPerGroup := w.Coded.Coding.RowsPerGroup
	step := max(1, int(p.planeBytes/w.planeBytes(rowsPerGroup)))
	for g := 0; g < w.Coded.Groups(); g += step {
		groups := min(step, w.Coded.Groups()-g)
		if err := p.decode(w, g, groups, p.sms, p.plane); err != nil {
			return err
		}
		first := g * rowsPerGroup
		rows := min(groups*rowsPerGroup, w.Rows-first)
		if err := w.product.gemm(gemmGrid(rows, n), 0, w.descDev, p.plane, int32(first), int32(rows), x, int32(n), st.vector, dst); err != nil {
			return err
		}
	}
	return nil
}

func gemmGrid(rows, tokens int) driver.Dim {
	return driver.D2(ceilDiv(rows, gemmTokens), ceilDiv(tokens, gemmTokens))
}
