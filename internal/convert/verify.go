package convert

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// Verify checks all checksums of r, also of sections that nothing reads, decodes every weight, and checks that weights are
// finite.
func Verify(ctx context.Context, r *format.Reader, progress Progress) error {
	return r.Guard(func() error {
		if err := r.VerifySections(); err != nil {
			return err
		}
		for _, kind := range []string{format.KindTokenizer, format.KindGGUF} { // those that Open does not inflate
			if _, err := r.Section(kind); err != nil {
				return err
			}
		}
		v, err := newVisit(ctx, r, progress)
		if err != nil {
			return err
		}
		for _, t := range r.Tensors() {
			if err := v.tensor(t, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkFinite refuses weights of t, stored rows first …, that are not finite numbers.
func (v *visit) checkFinite(t *format.Tensor, w []float32, first int) error {
	for i, x := range w {
		if x-x != 0 {
			return fmt.Errorf("%s: tensor %s: stored row %d, column %d is %g, which is not a finite number (obtain the file again, or "+
				"compress the model again)",
				v.r.Path(), t.Name, first+i/t.Cols, i%t.Cols, x)
		}
	}
	return nil
}

// visit decodes the tensors of a container one after the other on all cores.
type visit struct {
	work
	r         *format.Reader
	count     func(int64)
	reference source.Model // may be nil
}

func newVisit(ctx context.Context, r *format.Reader, progress Progress) (*visit, error) {
	v := &visit{work: newWork(ctx, progress), r: r}
	for _, t := range r.Tensors() {
		v.weights += int64(t.Rows) * int64(t.Cols)
	}
	v.count = v.counter("decode")
	return v, nil
}

// tensor checks and decodes t; with c given it counts the codes, too.
func (v *visit) tensor(t *format.Tensor, c *census) error {
	if err := v.r.Verify(t); err != nil {
		return err
	}
	defer v.r.Release(t)
	ref, err := v.find(t)
	if err != nil {
		return err
	}
	if t.Coded == nil {
		defer v.count(int64(t.Rows) * int64(t.Cols))
		w, err := rawFloats(t.Raw)
		if err == nil && c == nil {
			err = v.checkFinite(t, w, 0)
		}
		if err == nil && c != nil && ref >= 0 {
			err = v.compare(w, ref, func(i int) int { return i }, 0, t.Rows, c)
		}
		return err
	}
	d, err := codec.NewDecoder(t.Coded, v.r.Tables())
	if err != nil {
		return fmt.Errorf("%s: tensor %s: %w", v.r.Path(), t.Name, err)
	}
	err = parallel.Each(v.ctx, t.Coded.Groups(), func(g int, s *scratch) error {
		codes, w, err := d.Group(g, s.ints, s.floats)
		if err != nil {
			return err
		}
		s.ints, s.floats = codes, w
		v.count(int64(len(codes)))
		if c == nil {
			return v.checkFinite(t, w, g*t.Coded.Coding.RowsPerGroup)
		}
		bits, err := d.CodeBits(g)
		if err != nil {
			return err
		}
		c.codesOf(t.Coded, g, codes, bits)
		if ref < 0 {
			return nil
		}
		first := g * t.Coded.Coding.RowsPerGroup
		return v.compare(w, ref, t.Coded.Row, first, t.Coded.GroupRows(g), c)
	})
	return v.named(t, err)
}

// named adds file and tensor to an error that lacks them.
func (v *visit) named(t *format.Tensor, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), v.r.Path()) {
		return err
	}
	return fmt.Errorf("%s: tensor %s: %w", v.r.Path(), t.Name, err)
}

// find returns the number of t in the reference, or −1 without one.
func (v *visit) find(t *format.Tensor) (int, error) {
	if v.reference == nil {
		return -1, nil
	}
	for i, x := range v.reference.Tensors() {
		if x.Name == t.Name && x.Rows == t.Rows && x.Cols == t.Cols {
			return i, nil
		}
	}
	return -1, fmt.Errorf("%s has no tensor %s of %d × %d, so it cannot be the original of %s", v.reference.Path(), t.Name,
		t.Rows, t.Cols, v.r.Path())
}

// compare adds the differences between n rows of weights, stored at positions first …, and the reference's tensor.
func (v *visit) compare(w []float32, ref int, row func(int) int, first, n int, c *census) error {
	cols := len(w) / n
	want := make([]float32, cols)
	noise, signal := 0.0, 0.0
	for i := range n {
		r := row(first + i)
		if err := v.reference.ReadRows(ref, r, r+1, want); err != nil {
			return err
		}
		for k, x := range want {
			e := float64(x) - float64(w[i*cols+k])
			noise += e * e
			signal += float64(x) * float64(x)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noise += noise
	c.signal += signal
	return nil
}

// codesOf counts the codes of one group, whose strings have that many bits.
func (c *census) codesOf(m *format.Coded, g int, codes []int32, bits int64) {
	tiles, width := m.Tiles(), m.StepsPerTile()*format.StepCols
	levels := make([][levelBins]uint32, tiles)
	shift, base := m.Coding.LowBits, int32(m.Coding.Levels/2)
	for i, k := range codes {
		levels[i%m.Cols/width][clampBin(k>>shift-base, levelBins)]++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bits += bits
	for k, table := range m.ChunkTable[g*tiles : (g+1)*tiles] {
		h := c.levels[table]
		if h == nil {
			h = make([]uint64, levelBins)
			c.levels[table] = h
		}
		for i, n := range levels[k] {
			h[i] += uint64(n)
		}
	}
	zero := codec.Base(&m.Coding)
	for _, k := range codes {
		c.codes[clampBin(k+zero, codeBins)]++
	}
}

// rawFloats returns the weights of a tensor that is not coded.
func rawFloats(t *format.Raw) ([]float32, error) {
	out, le := make([]float32, t.Rows*t.Cols), binary.LittleEndian
	for i := range out {
		switch t.DType {
		case format.F32:
			out[i] = math.Float32frombits(le.Uint32(t.Data[4*i:]))
		case format.F16:
			out[i] = gguf.F16ToFloat(le.Uint16(t.Data[2*i:]))
		case format.BF16:
			out[i] = math.Float32frombits(uint32(le.Uint16(t.Data[2*i:])) << 16)
		default:
			return nil, fmt.Errorf("element type %q is not known", t.DType)
		}
	}
	return out, nil
}
