package source

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// readChunk is how many bytes are read from a safetensors file at once.
const readChunk = 1 << 18

// storedRow returns where row r of GGUF's order is in Hugging Face's, for heads of n rows. GGUF rotates rows 2i and 2i + 1
// of a head together, Hugging Face's Llama rows i and i + n/2.
func storedRow(r, n int) int {
	if n == 0 {
		return r
	}
	head, i := r-r%n, r%n
	return head + i%2*(n/2) + i/2
}

// storedRow returns where row r of GGUF's order is in Hugging Face's.
func (t *hfTensor) storedRow(r int) int {
	if t.tiled.KeyHeads > 0 && !t.tiled.Columns {
		return t.tiled.Stored(r)
	}
	return storedRow(r, t.head)
}

// read passes the stored bytes of rows [r0, r1) of tensor i to use, piece by piece; at counts the values before a piece.
func (s *hfSource) read(i, r0, r1 int, use func(at int, b []byte) error) error {
	if i < 0 || i >= len(s.infos) {
		return fmt.Errorf("%s: tensor %d of %d was asked for", s.path, i, len(s.infos))
	}
	info, t := &s.infos[i], &s.data[i]
	if r0 < 0 || r1 < r0 || r1 > info.Rows {
		return fmt.Errorf("%s: tensor %s has %d rows, [%d, %d) was asked for", s.path, info.Name, info.Rows, r0, r1)
	}
	elem := t.stored.DType.Size()
	unit := info.Cols * elem // what stays together: a row, or one value of a reordered vector
	ordered := t.tiled.KeyHeads > 0 && !t.tiled.Columns
	if info.Vector && (t.head > 0 || ordered) {
		unit, r0, r1 = elem, r0*info.Cols, r1*info.Cols
	}
	step := max(1, readChunk/unit)
	if t.head > 0 || ordered {
		step = 1
	}
	buf := make([]byte, min(step, r1-r0)*unit)
	for r := r0; r < r1; r += step {
		b := buf[:min(step, r1-r)*unit]
		if err := t.stored.ReadAt(b, int64(t.first+t.storedRow(r))*int64(unit)); err != nil {
			return err
		}
		if err := use((r-r0)*unit/elem, b); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", s.path, info.Name, err)
		}
	}
	return nil
}

func (s *hfSource) ReadRows(i, r0, r1 int, dst []float32) error {
	if i >= 0 && i < len(s.data) && s.data[i].values != nil {
		values := s.data[i].values
		if r0 < 0 || r1 < r0 || r1 > 1 || len(dst) < (r1-r0)*len(values) {
			return fmt.Errorf("%s: tensor %s: rows [%d, %d) into %d values", s.path, s.infos[i].Name, r0, r1, len(dst))
		}
		copy(dst, values[:(r1-r0)*len(values)])
		return nil
	}
	if i >= 0 && i < len(s.data) && s.data[i].packed != nil {
		return s.readPacked(i, r0, r1, dst)
	}
	return orderColumns(s, i, dst, r1-r0, s.read(i, r0, r1, func(at int, b []byte) error {
		t := &s.data[i]
		n := len(b) / t.stored.DType.Size()
		if len(dst) < at+n {
			return shortBuffer(len(dst), at+n)
		}
		if err := dequantize(t.stored.DType, b, dst[at:at+n]); err != nil {
			return err
		}
		if cols := s.infos[i].Cols; t.scales != nil {
			for k := at; k < at+n; k += cols {
				t.scales.apply(t.first+t.storedRow(r0+k/cols), dst[k:k+cols])
			}
		}
		if x := t.offset; x != 0 {
			for k := range dst[at : at+n] {
				dst[at+k] += x
			}
		}
		if t.decay {
			for k, x := range dst[at : at+n] {
				dst[at+k] = float32(-math.Exp(float64(x)))
			}
		}
		return nil
	}))
}

// orderColumns brings the columns of rows that were read to GGUF's order, unless reading failed.
func orderColumns[T any](s *hfSource, i int, dst []T, rows int, err error) error {
	if err != nil || !s.data[i].tiled.Columns {
		return err
	}
	cols := s.infos[i].Cols
	row := make([]T, cols)
	for r := range rows {
		copy(row, dst[r*cols:])
		for c := range row {
			dst[r*cols+c] = row[s.data[i].tiled.Stored(c)]
		}
	}
	return nil
}

func (s *hfSource) ReadBits16(i, r0, r1 int, dst []uint16) error {
	if i < 0 || i >= len(s.data) || s.infos[i].Type != gguf.F16.String() && s.infos[i].Type != gguf.BF16.String() {
		return fmt.Errorf("%s: tensor %d is not of 16 bits", s.path, i)
	}
	return orderColumns(s, i, dst, r1-r0, s.read(i, r0, r1, func(at int, b []byte) error {
		if len(dst) < at+len(b)/2 {
			return shortBuffer(len(dst), at+len(b)/2)
		}
		bits16(b, dst[at:])
		return nil
	}))
}
