package convert

import (
	"math"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// quantizer turns one tensor of the source into integers.
type quantizer interface {
	// measure reads what is needed to set the plan's scale and, unless a later step does, its coding.
	measure() error
	// allocate makes room for what rows keeps.
	allocate()
	// rows writes the integers of rows [r0, r1) to dst. If final, it also keeps their scales and errors in the plan. It may be
	// called from several goroutines, each with its own scratch.
	rows(r0, r1 int, dst []int32, s *scratch, final bool) error
	// qvaluesAreFinal tells that the q-values are the file's already (codec.Base does not apply).
	qvaluesAreFinal() bool
}

// batched is a quantizer that quantizes all its rows at once: begin does so before rows is called, end frees the result.
type batched interface {
	begin() error
	end()
}

func (t *tensorJob) begin() error {
	if b, ok := t.quantizer.(batched); ok {
		return b.begin()
	}
	return nil
}

func (t *tensorJob) end() {
	if b, ok := t.quantizer.(batched); ok {
		b.end()
	}
}

// minMaxQuantizer is quantized as in EntroLLM: one range for the matrix.
type minMaxQuantizer struct {
	*job
	t    *tensorJob
	bits int
	q    quant.MinMax
}

func (m *minMaxQuantizer) qvaluesAreFinal() bool { return true }

func (m *minMaxQuantizer) measure() error {
	stats, err := m.statistics(m.t)
	if err != nil {
		return err
	}
	lo, hi := stats[0].Min, stats[0].Max
	m.t.signal = make([]float64, len(stats))
	for r, s := range stats {
		lo, hi = min(lo, s.Min), max(hi, s.Max)
		m.t.signal[r] = s.SumSq
	}
	m.q = quant.NewMinMax(lo, hi, m.bits)
	m.t.scale = format.Scale{Kind: format.ScaleTensor, Scale: m.q.Scale, Min: m.q.Min}
	// One table codes the whole model, so all matrices share an alphabet: four bits as they are, of eight the upper five.
	k := format.Coding{Levels: 16}
	if m.bits == 8 {
		k = format.Coding{Levels: 32, LowBits: 3}
	}
	sample, err := m.t.sampleQValues()
	if err != nil {
		return err
	}
	m.t.choose(sample, []format.Coding{k})
	return nil
}

func (m *minMaxQuantizer) allocate() { m.t.noise = make([]float64, m.t.info.Rows) }

func (m *minMaxQuantizer) rows(r0, r1 int, dst []int32, s *scratch, final bool) error {
	cols := m.t.info.Cols
	w := grow(&s.floats, (r1-r0)*cols)
	if err := m.src.ReadRows(m.t.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		at := (r - r0) * cols
		noise := m.q.Row(dst[at:at+cols], w[at:at+cols])
		if final {
			m.t.noise[r] = noise
		}
	}
	return nil
}

// floatQuantizer keeps 16-bit floats: exponents are coded, signs and mantissas are low bits.
type floatQuantizer struct {
	*job
	t     *tensorJob
	half  bool // F16, else BF16
	round bool // the source has other floats, which are rounded to BF16
}

func (m *floatQuantizer) qvaluesAreFinal() bool { return false }

// bits returns the width of the mantissa and the number of exponents.
func (m *floatQuantizer) bits() (mantissa uint, exponents int) {
	if m.half {
		return 10, 32
	}
	return 7, 256
}

func (m *floatQuantizer) measure() error {
	sample, err := m.t.sampleQValues()
	if err != nil {
		return err
	}
	mantissa, exponents := m.bits()
	k := format.Coding{LowBits: int(mantissa) + 1, Float: format.FloatBF16}
	if m.half {
		k.Float = format.FloatF16
	}
	m.t.scale = format.Scale{Kind: format.ScaleNone}
	hist := make([]int, exponents)
	for _, q := range sample {
		hist[q>>k.LowBits]++
	}
	var candidates []format.Coding
	for _, k.Levels = range []int{16, huffman.MaxLevels} {
		k.Zero = int32(window(hist, k.Levels))
		candidates = append(candidates, k)
	}
	if bits := m.t.choose(sample, candidates); bits >= 16 && !m.round {
		m.t.quantizer = nil
	}
	return nil
}

// window returns the start of the n neighbouring bins that hold most of hist.
func window(hist []int, n int) int {
	best, bestSum, sum := 0, 0, 0
	for i, x := range hist {
		sum += x
		if i >= n {
			sum -= hist[i-n]
		}
		if sum > bestSum {
			best, bestSum = max(0, i-n+1), sum
		}
	}
	return min(best, len(hist)-n)
}

func (m *floatQuantizer) allocate() {
	if m.round {
		m.t.noise, m.t.signal = make([]float64, m.t.info.Rows), make([]float64, m.t.info.Rows)
	}
}

func (m *floatQuantizer) rows(r0, r1 int, dst []int32, s *scratch, final bool) error {
	cols := m.t.info.Cols
	bits := grow(&s.bits, len(dst))
	if m.round {
		w := grow(&s.floats, len(dst))
		if err := m.src.ReadRows(m.t.index, r0, r1, w); err != nil {
			return err
		}
		for i, x := range w {
			bits[i] = gguf.FloatToBF16(x)
			if final {
				e := float64(x) - float64(math.Float32frombits(uint32(bits[i])<<16))
				m.t.noise[r0+i/cols] += e * e
				m.t.signal[r0+i/cols] += float64(x) * float64(x)
			}
		}
	} else if err := m.src.ReadBits16(m.t.index, r0, r1, bits); err != nil {
		return err
	}
	mantissa, exponents := m.bits()
	for i, b := range bits {
		e := int32(b>>mantissa) & int32(exponents-1)
		if int(e) == exponents-1 {
			return quant.FiniteError(r0 + i/cols)
		}
		dst[i] = e<<(mantissa+1) | int32(b>>15)<<mantissa | int32(b)&(1<<mantissa-1)
	}
	return nil
}

// blockQuantizer keeps the integers and scales of a block-quantized tensor.
type blockQuantizer struct {
	*job
	t *tensorJob
}

func (m *blockQuantizer) qvaluesAreFinal() bool { return true }

func (m *blockQuantizer) measure() error {
	l := m.t.info.Layout
	m.t.scale = format.Scale{Kind: format.ScaleBlock, Block: l.Block, Super: l.Super, SubBits: l.SubBits, SubBias: l.SubBias}
	sample, err := m.t.sampleQValues()
	if err != nil {
		return err
	}
	k := format.Coding{Levels: l.Codes, Zero: l.Zero, Values: l.Values}
	candidates := []format.Coding{k}
	if l.Codes > 16 && l.Values == nil {
		candidates = candidates[:0]
		for _, k.Levels = range []int{16, huffman.MaxLevels} {
			for k.LowBits = 0; k.Levels<<k.LowBits < l.Codes; {
				k.LowBits++
			}
			candidates = append(candidates, k)
		}
	}
	m.t.choose(sample, candidates)
	return nil
}

func (m *blockQuantizer) allocate() {
	l, n, s := m.t.info.Layout, int(m.t.weights()), &m.t.scales
	s.D = make([]uint16, n/l.Super)
	if l.HasMin {
		s.DMin = make([]uint16, n/l.Super)
	}
	if l.SubBits > 0 && !l.PlainScale {
		s.SubScale = make([]uint8, n/l.Block)
	}
	if l.SubMin {
		s.SubMin = make([]uint8, n/l.Block)
	}
}

func (m *blockQuantizer) rows(r0, r1 int, dst []int32, s *scratch, final bool) error {
	b, cols := &s.blocks, m.t.info.Cols
	if err := m.src.ReadBlocks(m.t.index, r0, r1, b); err != nil {
		return err
	}
	for i, q := range b.Codes[:len(dst)] {
		dst[i] = int32(q)
	}
	l := m.t.info.Layout
	for _, d := range [][]uint16{b.D, b.DMin} {
		if i := slices.IndexFunc(d, func(h uint16) bool { return h&0x7c00 == 0x7c00 }); i >= 0 {
			return quant.FiniteError(r0 + i*l.Super/cols)
		}
	}
	if final {
		to, supers, blocks := &m.t.scales, cols/l.Super, cols/l.Block
		copy(to.D[r0*supers:], b.D)
		copyAt(to.DMin, b.DMin, r0*supers)
		copyAt(to.SubScale, b.SubScale, r0*blocks)
		copyAt(to.SubMin, b.SubMin, r0*blocks)
	}
	return nil
}

// copyAt copies src to dst[at:] if there is a dst.
func copyAt[T any](dst, src []T, at int) {
	if dst != nil {
		copy(dst[at:], src)
	}
}
