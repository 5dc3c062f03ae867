package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// embedding sets dst to a row of m.
func (w *worker) embedding(m *matrix, row int, dst []float32) {
	pos := row
	if m.inverse != nil {
		pos = int(m.inverse[row])
	}
	u := pos / m.unitRows
	if m.floats != nil {
		f, at := w.floatsOf(m, u)
		f.widen(dst, at+pos-u*m.unitRows, 0, m.cols)
		return
	}
	codes := w.codes[:m.cols]
	w.rowCodes(m, u, pos, codes)
	m.scaleRow(dst, codes, pos)
}

// rowCodes decodes the integer codes of the row at stored position pos, which lies in unit u.
func (w *worker) rowCodes(m *matrix, u, pos int, codes []int32) {
	bytes, low, base := w.bytes, w.low, m.base
	list, shift := []uint32(nil), m.sparseShift
	if p := m.packed; p != nil {
		for k := range m.coded.Tiles() {
			rows := p.tile(m, u, k)
			rows.Scratch = w.escapes
			w.isa.UnpackRow(&rows, pos-u*plainUnit, bytes[k*m.coded.StepsPerTile()*format.StepCols:])
		}
		if p.fine != nil {
			for k := range m.coded.Tiles() {
				rows := p.fine.tile(m, u, k)
				w.isa.UnpackRow(&rows, pos-u*plainUnit, w.low[k*m.coded.StepsPerTile()*format.StepCols:])
			}
		}
		base += p.low << m.split
		list, shift = p.sparse[p.start[u]:p.start[u+1]], p.shift
	} else {
		m.decodeGroup(u, bytes, m.stride())
		bytes = bytes[(pos-u*m.unitRows)*m.stride():]
		if m.split > 0 {
			for k := range m.coded.Tiles() {
				m.decodeLow(u, k, low[k*m.coded.StepsPerTile()*format.StepCols:], m.stride())
			}
			low = low[(pos-u*m.unitRows)*m.stride():]
		}
		list = m.outliers(u)
	}
	for i, b := range bytes[:m.cols] {
		codes[i] = int32(base) + int32(b)<<m.split
	}
	if p := m.packed; p != nil && p.corrections {
		for k := range m.coded.Tiles() {
			rows := p.tile(m, u, k)
			for _, e := range rows.Corrections(pos - u*plainUnit) {
				col, delta := dot.UnpackCorrection(e)
				codes[k*m.coded.StepsPerTile()*format.StepCols+col] += int32(delta) << m.split
			}
		}
	}
	if m.split > 0 {
		for i, b := range low[:m.cols] {
			codes[i] += int32(b)
		}
	}
	for _, e := range list {
		if o := format.UnpackOutlier(e); o.Row == pos-u*m.unitRows {
			codes[o.Col] += int32(o.Delta) << shift
		}
	}
}
