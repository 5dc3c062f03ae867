package convert

import (
	"math"
	"math/rand/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// memSource is a model in memory. Weights of 16-bit types are those that their bits stand for.
type memSource struct {
	tensors []source.TensorInfo
	data    [][]float32
	bits    [][]uint16
	blocks  []*source.Blocks
	config  *model.Config // nil: one that is not enough to run the model
}

func (s *memSource) Path() string { return "memory" }
func (s *memSource) Config() (*model.Config, error) {
	if s.config != nil {
		return s.config, nil
	}
	return &model.Config{Architecture: "llama", NHeads: 4, NKVHeads: 2}, nil
}
func (s *memSource) Tokenizer() (*tokenizer.Tokenizer, error) { return nil, nil }
func (s *memSource) ChatTemplate() string                     { return "template" }
func (s *memSource) GGUFMetadata() ([]byte, error) {
	var m gguf.Metadata
	m.Set("general.architecture", "llama")
	m.Set("llama.block_count", uint32(1))
	return m.Encode()
}
func (s *memSource) Tensors() []source.TensorInfo { return s.tensors }
func (s *memSource) Close() error                 { return nil }
func (s *memSource) Ends() ([]int32, error)       { return nil, nil }
func (s *memSource) Warnings() []string           { return nil }

func (s *memSource) ReadRows(i, r0, r1 int, dst []float32) error {
	c := s.tensors[i].Cols
	copy(dst, s.data[i][r0*c:r1*c])
	return nil
}

func (s *memSource) ReadBits16(i, r0, r1 int, dst []uint16) error {
	c := s.tensors[i].Cols
	copy(dst, s.bits[i][r0*c:r1*c])
	return nil
}

func (s *memSource) ReadBlocks(i, r0, r1 int, dst *source.Blocks) error {
	t, b := s.tensors[i], s.blocks[i]
	part := func(v []uint8, per int) []uint8 {
		if v == nil {
			return nil
		}
		return v[r0*t.Cols/per : r1*t.Cols/per]
	}
	*dst = source.Blocks{Codes: part(b.Codes, 1), D: b.D[r0*t.Cols/t.Layout.Super : r1*t.Cols/t.Layout.Super],
		SubScale: part(b.SubScale, t.Layout.Block), SubMin: part(b.SubMin, t.Layout.Block)}
	if b.DMin != nil {
		dst.DMin = b.DMin[r0*t.Cols/t.Layout.Super : r1*t.Cols/t.Layout.Super]
	}
	return nil
}

// add appends a matrix whose rows differ in size, with some outliers.
func (s *memSource) add(rng *rand.Rand, name, kind string, rows, cols int) {
	w, bits := make([]float32, rows*cols), make([]uint16, rows*cols)
	for r := range rows {
		sigma := 0.02 * math.Exp(0.4*rng.NormFloat64())
		for i := range cols {
			x := sigma * rng.NormFloat64()
			if rng.IntN(2000) == 0 {
				x *= 12
			}
			at := r*cols + i
			w[at] = float32(x)
			switch kind {
			case "F16":
				bits[at] = gguf.FloatToF16(w[at])
				w[at] = gguf.F16ToFloat(bits[at])
			case "BF16":
				bits[at] = gguf.FloatToBF16(w[at])
				w[at] = math.Float32frombits(uint32(bits[at]) << 16)
			}
		}
	}
	s.tensors = append(s.tensors, source.TensorInfo{Name: name, Rows: rows, Cols: cols, Vector: rows == 1, Type: kind})
	s.data, s.bits, s.blocks = append(s.data, w), append(s.bits, bits), append(s.blocks, nil)
}

// addBlocks appends a block-quantized matrix.
func (s *memSource) addBlocks(rng *rand.Rand, name string, rows, cols int, l source.BlockLayout) {
	b := &source.Blocks{Codes: make([]uint8, rows*cols)}
	for i := range b.Codes {
		b.Codes[i] = uint8(min(max(float64(l.Codes)*(0.5+0.15*rng.NormFloat64()), 0), float64(l.Codes-1)))
	}
	for range rows * cols / l.Super {
		b.D = append(b.D, gguf.FloatToF16(rng.Float32()))
		if l.HasMin {
			b.DMin = append(b.DMin, gguf.FloatToF16(-rng.Float32()))
		}
	}
	for range rows * cols / l.Block {
		if l.SubBits > 0 {
			b.SubScale = append(b.SubScale, uint8(rng.IntN(1<<l.SubBits)))
		}
		if l.SubMin {
			b.SubMin = append(b.SubMin, uint8(rng.IntN(1<<l.SubBits)))
		}
	}
	w := make([]float32, rows*cols)
	for i := range w {
		q := int32(b.Codes[i]) + l.Zero
		if l.Values != nil {
			q = int32(l.Values[b.Codes[i]])
		}
		scale, offset := gguf.F16ToFloat(b.D[i/l.Super]), float32(0)
		if l.SubBits == 8 {
			scale *= float32(int(int8(b.SubScale[i/l.Block])) + l.SubBias)
		} else if l.SubBits > 0 {
			scale *= float32(int(b.SubScale[i/l.Block]) + l.SubBias)
		}
		if l.HasMin {
			offset = gguf.F16ToFloat(b.DMin[i/l.Super])
		}
		if l.SubMin {
			offset *= float32(b.SubMin[i/l.Block])
		}
		w[i] = float32(scale*float32(q)) + offset
	}
	s.tensors = append(s.tensors, source.TensorInfo{Name: name, Rows: rows, Cols: cols, Type: "blocks", Layout: &l})
	s.data, s.bits, s.blocks = append(s.data, w), append(s.bits, nil), append(s.blocks, b)
}

func floatModel(seed uint64, kind string) *memSource {
	rng, s := rand.New(rand.NewPCG(seed, 1)), &memSource{}
	s.add(rng, "token_embd.weight", kind, 500, 192)
	s.add(rng, "blk.0.attn_norm.weight", "F32", 1, 192)
	s.add(rng, "blk.0.attn_q.weight", kind, 192, 192)
	s.add(rng, "blk.0.attn_v.weight", kind, 63, 191)
	s.add(rng, "blk.0.ffn_down.weight", kind, 64, 2304)
	s.add(rng, "blk.0.ffn_up.weight", kind, 576, 192)
	return s
}
