package source

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

// sameModel is a model that many adapters are merged into one after the other: it parses its configuration once and stays open.
type sameModel struct {
	Model
	config *model.Config
}

func (m sameModel) Config() (*model.Config, error) { c := *m.config; return &c, nil }

// fuzzModules are the modules of tiny that an adapter may change, with the shapes of their matrices; norm has a vector.
func fuzzModules() []struct {
	name       string
	rows, cols int
} {
	const layer = "base_model.model.model.layers.1."
	return []struct {
		name       string
		rows, cols int
	}{{layer + "self_attn.q_proj", 8, 6}, {layer + "self_attn.k_proj", 4, 6}, {layer + "self_attn.v_proj", 4, 6},
		{layer + "self_attn.o_proj", 6, 8}, {layer + "mlp.gate_proj", 10, 6}, {layer + "mlp.down_proj", 6, 10},
		{"base_model.model.lm_head", 16, 6}, {"base_model.model.model.norm", 1, 6}, {embed, 16, 6}}
}

// Parts of an adapter's modules, and how it is scaled.
const (
	fuzzPair = 1 << iota // A and B
	fuzzMagnitude
	fuzzWhole
	fuzzBias
	fuzzRootOfRank
)

// fuzzAdapter describes an adapter so that most changes of a field give another adapter that fits.
type fuzzAdapter struct {
	modules uint16 // bits: of fuzzModules
	parts   uint8  // bits: what each of them has
	rank    uint8
	types   uint8 // of A, of the others
	grown   int8  // rows and columns beyond the model's, in sixteens and ones
	alpha   float64
	names   uint8 // the pattern of the modules that have rank and alpha, others having the default; how tensors' names end
}

func (x *fuzzAdapter) pattern() string {
	return [...]string{"", ".*", "(self_attn|mlp).*", "q_proj"}[x.names%4]
}
func (x *fuzzAdapter) suffix() string {
	return [...]string{".weight", "", ".default.weight", ".default"}[x.names/4%4]
}

// config returns the adapter's configuration.
func (x *fuzzAdapter) config() (*loraConfig, error) {
	c := &loraConfig{Type: "LORA", Rank: int(x.rank) % 16, Alpha: x.alpha, DoRA: x.parts&fuzzMagnitude != 0,
		RSLoRA: x.parts&fuzzRootOfRank != 0}
	if p := x.pattern(); p != "" {
		c.Rank, c.Alpha = 8, 8
		c.RankPattern, c.AlphaPattern = map[string]int{p: int(x.rank) % 16}, map[string]float64{p: x.alpha}
	}
	return c, c.check()
}

// file returns a safetensors file whose values are data again and again, without the exponents' highest bits: all are finite.
func (x *fuzzAdapter) file(data []byte) []byte {
	var header strings.Builder
	end := 0
	add := func(name string, dtype safetensors.DType, shape ...int) {
		start, size := end, dtype.Size()
		for _, d := range shape {
			size *= d
		}
		end += size
		fmt.Fprintf(&header, `,"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, dtype,
			strings.ReplaceAll(fmt.Sprint(shape), " ", ","), start, end)
	}
	types, rank := []safetensors.DType{"F32", "F16", "BF16"}, int(x.rank)%16
	a, other := types[x.types/3%3], types[x.types%3]
	for i, m := range fuzzModules() {
		if x.modules>>i&1 == 0 {
			continue
		}
		rows, cols := max(m.rows+int(x.grown)/16, 0), max(m.cols+int(x.grown)%16, 0)
		kind := ".lora_"
		if m.name == embed {
			kind, rows, cols = ".lora_embedding_", cols, rows
		}
		if x.parts&fuzzPair != 0 {
			add(m.name+kind+"A"+x.suffix(), a, rank, cols)
			add(m.name+kind+"B"+x.suffix(), other, rows, rank)
		}
		if x.parts&fuzzMagnitude != 0 {
			add(m.name+".lora_magnitude_vector"+x.suffix(), other, rows)
		}
		if x.parts&fuzzWhole != 0 {
			shape := []int{m.rows, m.cols}
			if m.rows == 1 {
				shape = shape[1:]
			}
			add(m.name+".weight", other, shape...)
		}
		if x.parts&fuzzBias != 0 {
			add(m.name+".bias", other, m.rows)
		}
	}
	text := "{" + strings.TrimPrefix(header.String(), ",") + "}"
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	for len(data) > 0 && end > 0 {
		n := min(end, len(data))
		b, end = append(b, data[:n]...), end-n
	}
	b = append(b, make([]byte, end)...)
	for i := 8 + len(text); i < len(b); i++ {
		b[i] &^= 0x40
	}
	return b
}

// FuzzAdapter merges arbitrary adapters into a small model, and reads the tensors that they change. All of it is in memory: files
// would take most of the time. (Files of arbitrary bytes are for FuzzAdapterConfig and internal/safetensors' FuzzParse.)
func FuzzAdapter(f *testing.F) {
	dir := f.TempDir()
	require.NoError(f, os.WriteFile(filepath.Join(dir, configName), tinyConfig(nil), 0o600))
	header, size := headerOf(f, tiny(false))
	weights := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	require.NoError(f, os.WriteFile(filepath.Join(dir, "model.safetensors"), append(weights, make([]byte, size)...), 0o600))
	src, err := Open(dir)
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, src.Close()) })
	config, err := src.Config()
	require.NoError(f, err)
	base := sameModel{src, config}

	ones := []byte{0x3c}
	f.Add(uint16(1), uint8(fuzzPair), uint8(2), uint8(0), int8(0), 4.0, uint8(0), ones)
	f.Add(uint16(0x3f), uint8(fuzzPair|fuzzMagnitude|fuzzRootOfRank), uint8(2), uint8(5), int8(0), 3.0, uint8(10),
		[]byte("\x3c\x80\x00\x01abcdefgh"))
	f.Add(uint16(0x100), uint8(fuzzPair), uint8(3), uint8(8), int8(0), -1.0, uint8(5), ones)
	f.Add(uint16(0xc0), uint8(fuzzWhole), uint8(2), uint8(2), int8(0), 0.0, uint8(0), ones)
	f.Add(uint16(0x10), uint8(fuzzPair|fuzzBias), uint8(2), uint8(1), int8(17), 1e30, uint8(3), ones)
	f.Fuzz(func(t *testing.T, modules uint16, parts, rank, types uint8, grown int8, alpha float64, names uint8, data []byte) {
		x := &fuzzAdapter{modules, parts, rank, types, grown, alpha, names}
		c, err := x.config()
		if err != nil {
			return
		}
		b := x.file(data)
		weights, err := safetensors.Read(adapterWeights, bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		mergeInto(t, base, c, weights)
	})
}

// FuzzAdapterConfig reads arbitrary configurations of adapters.
func FuzzAdapterConfig(f *testing.F) {
	for _, changes := range []map[string]any{nil, {"use_dora": true, "use_rslora": true, "alpha_pattern": map[string]any{"q_.*": 3}},
		{"rank_pattern": map[string]any{"layers.1.mlp": 2, "k_proj": 7}}, {"lora_bias": true}, {"init_lora_weights": "pissa"}} {
		f.Add(loraJSON(changes), "model.layers.1.self_attn.q_proj")
	}
	f.Fuzz(func(t *testing.T, config []byte, module string) {
		c, err := parseLoRAConfig(config)
		if err != nil {
			return
		}
		if rank, _, err := c.forModule(module); err == nil {
			require.Positive(t, rank)
		}
	})
}

// mergeInto merges an adapter into base, if it fits, and reads all tensors that it changes. None becomes NaN.
func mergeInto(t *testing.T, base Model, c *loraConfig, weights *safetensors.Model) {
	x, err := newAdapter("", c, weights, 1)
	if err != nil {
		return
	}
	m, err := newAdapted(base)
	require.NoError(t, err)
	if m.add(x) != nil {
		return
	}
	for i, info := range m.Tensors() {
		if !m.adapted(i) {
			continue
		}
		values := make([]float32, info.Rows*info.Cols)
		if m.ReadRows(i, 0, info.Rows, values) == nil {
			require.False(t, slices.ContainsFunc(values, func(v float32) bool { return v != v }), "%s: NaN", info.Name)
		}
		require.Error(t, m.ReadBlocks(i, 0, info.Rows, &Blocks{}))
		require.Error(t, m.ReadBits16(i, 0, info.Rows, make([]uint16, len(values))))
	}
}
