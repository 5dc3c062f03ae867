package weights

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// Row sets dst to a row of m, which IndexRows has prepared.
func (r *Reader) Row(m *Matrix, row int, dst []float32) {
	stored := row
	if m.inverse != nil {
		stored = int(m.inverse[row])
	}
	i := stored / m.blockRows
	if m.floats != nil {
		f, at := r.Floats(m, i)
		f.Widen(dst, at+stored-i*m.blockRows, 0, m.Cols)
		return
	}
	codes := r.codes[:m.Cols]
	r.rowCodes(m, i, stored-i*m.blockRows, codes)
	m.scaleRow(dst, codes, stored)
}

// rowCodes decodes the q-values of row row of row block i.
func (r *Reader) rowCodes(m *Matrix, i, row int, codes []int32) {
	if m.planes != nil {
		r.residentCodes(m, i, row, codes)
		return
	}
	m.decodeGroup(i, r.bytes, m.Stride())
	var low []byte
	if m.LowBits > 0 {
		for k := range m.Coded.Tiles() {
			m.decodeLow(i, k, r.low[k*m.Coded.StepsPerTile()*format.StepCols:], m.Stride())
		}
		low = r.low[row*m.Stride():][:m.Cols]
	}
	joinCodes(codes, m.base, r.bytes[row*m.Stride():], low, m.LowBits)
	addEntries(codes, m.outliers(i), row, m.outlierShift)
}

// residentCodes is rowCodes for a resident matrix.
func (r *Reader) residentCodes(m *Matrix, i, row int, codes []int32) {
	p := m.planes
	r.unpackRow(p, m, i, row, r.bytes)
	var low []byte
	if p.low != nil {
		r.unpackRow(p.low, m, i, row, r.low)
		low = r.low[:m.Cols]
	}
	joinCodes(codes, m.base+p.offset<<m.LowBits, r.bytes, low, m.LowBits)
	if p.corrections {
		for k := range m.Coded.Tiles() {
			rows := p.tile(m, i, k)
			for _, e := range rows.Corrections(row) {
				col, delta := dot.UnpackCorrection(e)
				codes[k*m.Coded.StepsPerTile()*format.StepCols+col] += int32(delta) << m.LowBits
			}
		}
	}
	addEntries(codes, p.exceptions[p.start[i]:p.start[i+1]], row, p.shift)
}

// unpackRow unpacks all tiles of row row of row block i.
func (r *Reader) unpackRow(p *planes, m *Matrix, i, row int, dst []byte) {
	for k := range m.Coded.Tiles() {
		rows := p.tile(m, i, k)
		rows.Scratch = r.escapes
		r.dot.UnpackRow(&rows, row, dst[k*m.Coded.StepsPerTile()*format.StepCols:])
	}
}

// joinCodes sets q-values to base + (byte << lowBits | low), low being nil for none.
func joinCodes(codes []int32, base int, bytes, low []byte, lowBits int) {
	for i, b := range bytes[:len(codes)] {
		codes[i] = int32(base) + int32(b)<<lowBits
	}
	for i, b := range low {
		codes[i] += int32(b)
	}
}

// addEntries adds the exception entries of row r to its q-values.
func addEntries(codes []int32, list []uint32, r int, shift uint) {
	for _, e := range list {
		if o := format.UnpackOutlier(e); o.Row == r {
			codes[o.Col] += int32(o.Delta) << shift
		}
	}
}
