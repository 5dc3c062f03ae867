package source

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

// unpackTile is how many rows of words are unpacked together, so that writes to an output's codes come close to each other.
const unpackTile = 64

// readWords reads a whole tensor of 32-bit integers.
func readWords(t *safetensors.Tensor) ([]uint32, error) {
	b := make([]byte, t.Size)
	if err := t.ReadAt(b, 0); err != nil {
		return nil, err
	}
	words := make([]uint32, len(b)/4)
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return words, nil
}

// readFloats reads a whole floating-point tensor.
func readFloats(t *safetensors.Tensor) ([]float32, error) {
	kind, err := elementType(t.DType)
	if err != nil {
		return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	b := make([]byte, t.Size)
	if err := t.ReadAt(b, 0); err != nil {
		return nil, err
	}
	x := make([]float32, len(b)/t.DType.Size())
	return x, gguf.Dequantize(kind, b, x)
}

// unpack returns the whole matrix, rows being outputs in the file's order.
func (p *packed) unpack() (b *Blocks, err error) {
	b = &Blocks{}
	if b.Codes, err = p.unpackCodes(); err != nil {
		return nil, err
	}
	if b.D, err = p.readScales(); err != nil || !p.layout.HasMin {
		return b, err
	}
	b.DMin = make([]uint16, len(b.D))
	for i, d := range b.D {
		b.DMin[i] = d ^ 0x8000
	}
	b.SubMin, err = p.readZeros()
	return b, err
}

// unpackCodes returns the codes, [output][input]: a transposition.
func (p *packed) unpackCodes() ([]uint8, error) {
	words, err := readWords(p.weights)
	if err != nil {
		return nil, err
	}
	codes, n, mask := make([]uint8, p.rows*p.cols), p.perWord(), uint32(1)<<p.bits-1
	width := p.weights.Shape[1]
	for top := 0; top < len(words)/width; top += unpackTile {
		for j := range width {
			for i := top; i < min(top+unpackTile, len(words)/width); i++ {
				w := words[i*width+j]
				for f := range n {
					at := j*p.cols + i*n + f
					if p.awq() {
						at = (j*n+p.field(f))*p.cols + i
					}
					codes[at] = uint8(w >> (f * p.bits) & mask)
				}
			}
		}
	}
	return codes, nil
}

// unpackedMatrix is the packed matrix that was read last, unpacked as a whole since its rows are columns in the file.
type unpackedMatrix struct {
	mu     sync.Mutex
	index  int
	blocks *Blocks
}

// unpacked returns tensor i, which must be packed. The result is shared and never changed.
func (s *hfSource) unpacked(i int) (*Blocks, error) {
	u := &s.last
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.blocks != nil && u.index == i {
		return u.blocks, nil
	}
	u.blocks = nil // before there are two
	b, err := s.data[i].packed.unpack()
	if err != nil {
		return nil, err
	}
	u.index, u.blocks = i, b
	return b, nil
}

// packedRows calls use with every row of [r0, r1) of the packed tensor i, given by where it is stored.
func (s *hfSource) packedRows(i, r0, r1 int, use func(b *Blocks, at, stored int)) error {
	if i < 0 || i >= len(s.data) || s.data[i].packed == nil {
		return fmt.Errorf("%s: tensor %d is not block-quantized", s.path, i)
	}
	info := &s.infos[i]
	if r0 < 0 || r1 < r0 || r1 > info.Rows {
		return fmt.Errorf("%s: tensor %s has %d rows, [%d, %d) was asked for", s.path, info.Name, info.Rows, r0, r1)
	}
	b, err := s.unpacked(i)
	if err != nil {
		return fmt.Errorf("%s: tensor %s: %w", s.path, info.Name, err)
	}
	for r := r0; r < r1; r++ {
		use(b, r-r0, storedRow(r, s.data[i].head))
	}
	return nil
}

// groupAt returns the group of an input.
func (p *packed) groupAt(input int) int {
	if p.groupOf != nil {
		return int(p.groupOf[input])
	}
	return input / p.group
}

func (s *hfSource) ReadBlocks(i, r0, r1 int, dst *Blocks) error {
	if i >= 0 && i < len(s.infos) && s.infos[i].Layout == nil {
		return fmt.Errorf("%s: tensor %s is not made of blocks of neighbouring weights", s.path, s.infos[i].Name)
	}
	dst.Codes, dst.D, dst.DMin, dst.SubScale, dst.SubMin = dst.Codes[:0], dst.D[:0], dst.DMin[:0], dst.SubScale[:0], dst.SubMin[:0]
	return s.packedRows(i, r0, r1, func(b *Blocks, _, r int) {
		p := s.data[i].packed
		groups := p.cols / p.group
		dst.Codes = append(dst.Codes, b.Codes[r*p.cols:(r+1)*p.cols]...)
		dst.D = append(dst.D, b.D[r*groups:(r+1)*groups]...)
		if p.layout.HasMin {
			dst.DMin = append(dst.DMin, b.DMin[r*groups:(r+1)*groups]...)
			dst.SubMin = append(dst.SubMin, b.SubMin[r*groups:(r+1)*groups]...)
		}
	})
}

// readPacked dequantizes rows [r0, r1) of the packed tensor i.
func (s *hfSource) readPacked(i, r0, r1 int, dst []float32) error {
	p := s.data[i].packed
	if len(dst) < (r1-r0)*p.cols {
		return shortBuffer(len(dst), (r1-r0)*p.cols)
	}
	groups := p.cols / p.group
	return s.packedRows(i, r0, r1, func(b *Blocks, at, r int) {
		out := dst[at*p.cols : (at+1)*p.cols]
		for k, c := range b.Codes[r*p.cols : (r+1)*p.cols] {
			g := r*groups + p.groupAt(k)
			q := int32(c) + p.layout.Zero
			if p.layout.SubMin {
				q -= int32(b.SubMin[g])
			}
			out[k] = gguf.F16ToFloat(b.D[g]) * float32(q)
		}
	})
}
