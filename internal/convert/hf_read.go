package convert

import (
	"fmt"

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

// read passes the stored bytes of rows [r0, r1) of tensor i to use, piece by piece; at counts the values before a piece.
func (s *hfSource) read(i, r0, r1 int, use func(kind gguf.Type, at int, b []byte) error) error {
	if i < 0 || i >= len(s.infos) {
		return fmt.Errorf("%s: tensor %d of %d was asked for", s.path, i, len(s.infos))
	}
	info, t := &s.infos[i], &s.data[i]
	if r0 < 0 || r1 < r0 || r1 > info.Rows {
		return fmt.Errorf("%s: tensor %s has %d rows, [%d, %d) was asked for", s.path, info.Name, info.Rows, r0, r1)
	}
	kind, err := elementType(t.stored.DType)
	if err != nil {
		return err
	}
	elem := t.stored.DType.Size()
	unit := info.Cols * elem // what stays together: a row, or one value of a reordered vector
	if info.Vector && t.head > 0 {
		unit, r0, r1 = elem, r0*info.Cols, r1*info.Cols
	}
	step := max(1, readChunk/unit)
	if t.head > 0 {
		step = 1
	}
	buf := make([]byte, min(step, r1-r0)*unit)
	for r := r0; r < r1; r += step {
		b := buf[:min(step, r1-r)*unit]
		if err := t.stored.ReadAt(b, int64(storedRow(r, t.head))*int64(unit)); err != nil {
			return err
		}
		if err := use(kind, (r-r0)*unit/elem, b); err != nil {
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
	return s.read(i, r0, r1, func(kind gguf.Type, at int, b []byte) error {
		n := len(b) / s.data[i].stored.DType.Size()
		if len(dst) < at+n {
			return shortBuffer(len(dst), at+n)
		}
		return gguf.Dequantize(kind, b, dst[at:at+n])
	})
}

func (s *hfSource) ReadBits16(i, r0, r1 int, dst []uint16) error {
	if i < 0 || i >= len(s.data) || s.infos[i].Type != gguf.F16.String() && s.infos[i].Type != gguf.BF16.String() {
		return fmt.Errorf("%s: tensor %d is not of 16 bits", s.path, i)
	}
	return s.read(i, r0, r1, func(_ gguf.Type, at int, b []byte) error {
		if len(dst) < at+len(b)/2 {
			return shortBuffer(len(dst), at+len(b)/2)
		}
		bits16(b, dst[at:])
		return nil
	})
}
