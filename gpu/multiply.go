package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// multiply writes weight · A + bias for the tokens of s to dst, float32 [s.n][rows].
func (p *pass) multiply(st *step, s span, dst driver.DevicePtr) error {
	w := st.weight
	x, err := p.scaledInput(st, s)
	if err != nil {
		return err
	}
	if s.n > gemvBatch {
		return p.multiplyBatch(st, s.n, x, dst)
	}
	if w.product.prepared {
		if err := p.prepare(st, s, x); err != nil {
			return err
		}
	}
	for t := range s.n {
		tok := driver.DevicePtr(t)
		err := w.product.gemv(driver.D1(w.product.gemvGrid), w.product.gemvShared, w.descDev, x+4*tok*driver.DevicePtr(w.Cols),
			p.prepared+tok*driver.DevicePtr(p.preparedStride), st.vector, dst+4*tok*driver.DevicePtr(w.Rows))
		if err != nil {
			return err
		}
	}
	return nil
}

// scaledInput returns the input of a product, multiplied by the weight's column scales if it has any.
func (p *pass) scaledInput(st *step, s span) (driver.DevicePtr, error) {
	x := p.at(st.A, s.tok0)
	w := st.weight
	if w.Coded == nil || w.Coded.ColScale == nil {
		return x, nil
	}
	const threads = 256
	return p.scaled, p.mulCols(driver.D2(ceilDiv(w.Cols, threads), s.n), 0, x, w.desc.ColScale, int32(w.Cols), p.scaled)
}

// prepare rounds the inputs x of the tokens of s to half precision, unless an earlier product of the same input did.
func (p *pass) prepare(st *step, s span, x driver.DevicePtr) error {
	w, r := st.weight, &p.ready
	geometry := [3]int32{w.desc.Cols, w.desc.StepsPerTile, w.desc.Tiles}
	own := x == p.scaled // column scales are the weight's own
	if r.valid && !own && r.buf == st.A && r.tok0 == s.tok0 && r.n == s.n && r.geometry == geometry {
		return nil
	}
	if err := p.xPrepare(driver.D1(s.n), 0, x, w.desc.Cols, w.desc.Steps, w.desc.StepsPerTile, w.desc.Tiles, p.preparedStride, p.prepared); err != nil {
		return err
	}
	r.valid, r.buf, r.tok0, r.n, r.geometry = !own, st.A, s.tok0, s.n, geometry
	return nil
}

// multiplyBatch multiplies many tokens. A coded matrix is decoded once for all of them, as many groups at a time as fit the scratch plane.
func (p *pass) multiplyBatch(st *step, n int, x, dst driver.DevicePtr) error {
	w := st.weight
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
