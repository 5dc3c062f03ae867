package source

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// rawTensor is a tensor of a test file by its bytes.
type rawTensor struct {
	dtype string
	shape []int
	data  []byte
}

func int32s(shape []int, at func(i, j int) uint32) rawTensor {
	t := rawTensor{dtype: "I32", shape: shape}
	for i := range shape[0] {
		for j := range shape[1] {
			t.data = binary.LittleEndian.AppendUint32(t.data, at(i, j))
		}
	}
	return t
}

func halves(shape []int, at func(i int) float32) rawTensor {
	t, n := rawTensor{dtype: "F16", shape: shape}, 1
	for _, d := range shape {
		n *= d
	}
	for i := range n {
		t.data = binary.LittleEndian.AppendUint16(t.data, gguf.FloatToF16(at(i)))
	}
	return t
}

// checkpoint is a quantized model for tests, with the weights that it must have by the names in the file.
type checkpoint struct {
	method        string // "gptq", "gptq_v2" or "awq"
	bits, group   int
	oneZero       bool // the same zero point everywhere
	bias          float32
	tensors       map[string]rawTensor
	weights       map[string][]float32
	quantization  map[string]any
	outside       bool // the configuration is in quantize_config.json
	dropGroupList bool
}

// quantized adds a matrix of m outputs and n inputs: w = s·(q − z).
func (c *checkpoint) quantized(rng *rand.Rand, name string, m, n int) {
	group := c.group
	if group < 0 {
		group = n
	}
	top, per, groups := uint32(1)<<c.bits-1, 32/c.bits, n/group
	q, z, s := make([]uint32, n*m), make([]uint32, groups*m), make([]float32, groups*m) // [input][output], [group][output]
	for i := range q {
		q[i] = min(rng.Uint32N(top+1), rng.Uint32N(top+1))
	}
	bias := map[string]uint32{"gptq": 1}[c.method]
	for i := range z {
		z[i] = bias + rng.Uint32N(top+1)
		if c.oneZero {
			z[i] = (top + 1) / 2
		}
		s[i] = gguf.F16ToFloat(gguf.FloatToF16(0.01 + 0.1*rng.Float32()))
	}
	for o := range m {
		for i := range n {
			g := i/group*m + o
			c.weights[name] = append(c.weights[name], s[g]*(float32(q[i*m+o])-float32(z[g])))
		}
	}
	// alongOutputs packs row i of x: field f of word j is x[i][per·j + order[f]].
	alongOutputs := func(x []uint32, less uint32, order []int) func(i, j int) uint32 {
		return func(i, j int) (word uint32) {
			for f := range per {
				o := f
				if order != nil {
					o = order[f]
				}
				word |= (x[i*m+j*per+o] - less) << (c.bits * f)
			}
			return word
		}
	}
	if c.method == "awq" {
		order := []int{0, 2, 4, 6, 1, 3, 5, 7}
		c.tensors[name+".qweight"] = int32s([]int{n, m / per}, alongOutputs(q, 0, order))
		c.tensors[name+".qzeros"] = int32s([]int{groups, m / per}, alongOutputs(z, 0, order))
	} else {
		c.tensors[name+".qweight"] = int32s([]int{n / per, m}, func(i, j int) (word uint32) {
			for f := range per {
				word |= q[(i*per+f)*m+j] << (c.bits * f)
			}
			return word
		})
		c.tensors[name+".qzeros"] = int32s([]int{groups, m / per}, alongOutputs(z, bias, nil))
		if !c.dropGroupList {
			t := int32s([]int{1, n}, func(_, i int) uint32 { return uint32(i / group) })
			t.shape = []int{n}
			c.tensors[name+".g_idx"] = t
		}
	}
	c.tensors[name+".scales"] = halves([]int{groups, m}, func(i int) float32 { return s[i] })
	if c.method == "gptq" {
		c.tensors[name+".bias"] = halves([]int{m}, func(int) float32 { return c.bias })
	}
}

func (c *checkpoint) float(name string, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	at := func(i int) float32 { return float32(i%200) / 128 }
	c.tensors[name] = halves(shape, at)
	for i := range n {
		c.weights[name] = append(c.weights[name], at(i))
	}
}

// build makes all tensors: a layer with 2 query heads and 1 key head of 32.
func (c *checkpoint) build() {
	c.tensors, c.weights = map[string]rawTensor{}, map[string][]float32{}
	rng := rand.New(rand.NewPCG(5, uint64(c.bits)))
	c.float("model.embed_tokens.weight", 16, 64)
	c.float("model.norm.weight", 64)
	c.float("lm_head.weight", 16, 64)
	layer := "model.layers.0."
	c.float(layer+"input_layernorm.weight", 64)
	c.float(layer+"post_attention_layernorm.weight", 64)
	for _, x := range []struct {
		name string
		m, n int
	}{{"self_attn.q_proj", 64, 64}, {"self_attn.k_proj", 32, 64}, {"self_attn.v_proj", 32, 64}, {"self_attn.o_proj", 64, 64},
		{"mlp.gate_proj", 96, 64}, {"mlp.up_proj", 96, 64}, {"mlp.down_proj", 64, 96}} {
		c.quantized(rng, layer+x.name, x.m, x.n)
	}
	method := strings.TrimSuffix(c.method, "_v2")
	c.quantization = map[string]any{"quant_method": method, "bits": c.bits, "group_size": c.group, "desc_act": false,
		"sym": c.oneZero}
	if method == "awq" {
		c.quantization["version"] = "gemm"
	} else {
		c.quantization["checkpoint_format"] = c.method
	}
}

// write stores the model as a directory.
func (c *checkpoint) write(t *testing.T) string {
	t.Helper()
	config := map[string]any{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 32}
	if !c.outside {
		config["quantization_config"] = c.quantization
	}
	dir := hfDir(t, config, nil)
	if c.outside {
		b, err := json.Marshal(c.quantization)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "quantize_config.json"), b, 0o600))
	}
	header, data := map[string]any{}, []byte(nil)
	for name, x := range c.tensors {
		header[name] = map[string]any{"dtype": x.dtype, "shape": x.shape, "data_offsets": []int{len(data), len(data) + len(x.data)}}
		data = append(data, x.data...)
	}
	text, err := json.Marshal(header)
	require.NoError(t, err)
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), append(b, data...), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(tokenizerJSON), 0o600))
	return dir
}

func requireSame(t *testing.T, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
			require.Failf(t, "different weights", "weight %d is %g, expected %g", i, got[i], want[i])
		}
	}
}

// pairs reorders the rows of heads of 32 as GGUF's Llama has them: halves of a head interleaved.
func pairs(w []float32, cols int) []float32 {
	var out []float32
	for head := 0; head < len(w)/cols; head += 32 {
		for i := range 16 {
			for _, r := range []int{head + i, head + i + 16} {
				out = append(out, w[r*cols:(r+1)*cols]...)
			}
		}
	}
	return out
}

// packedCheckpoints returns every form that can be read; build makes their tensors.
func packedCheckpoints() []*checkpoint {
	return []*checkpoint{
		{method: "gptq", bits: 4, group: 32}, {method: "gptq", bits: 4, group: 32, oneZero: true},
		{method: "gptq", bits: 4, group: -1, dropGroupList: true},
		{method: "gptq", bits: 8, group: 32}, {method: "gptq", bits: 2, group: 16, outside: true},
		{method: "gptq_v2", bits: 4, group: 32}, {method: "gptq_v2", bits: 8, group: 32, oneZero: true},
		{method: "awq", bits: 4, group: 32}, {method: "awq", bits: 4, group: 32, oneZero: true},
	}
}

// matrices returns the true weights of the quantized matrices by GGUF's names and in its row order.
func (c *checkpoint) matrices() map[string][]float32 {
	out := map[string][]float32{}
	for ours, theirs := range map[string]string{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
		"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"} {
		want := c.weights["model.layers.0."+theirs]
		if ours == "attn_q" || ours == "attn_k" {
			want = pairs(want, 64)
		}
		out[fmt.Sprintf("blk.0.%s.weight", ours)] = want
	}
	return out
}

func TestPackedCheckpoints(t *testing.T) {
	for _, c := range packedCheckpoints() {
		c.build()
		src := open(t, c.write(t))
		for name, want := range c.matrices() {
			requireSame(t, want, readAll(t, src, name))
		}
		// Reads outside the tensor and into short buffers are refused.
		i, _ := find(t, src, "blk.0.ffn_up.weight")
		require.Error(t, src.ReadBits16(i, 0, 1, make([]uint16, 64)))
		require.Error(t, src.ReadRows(i, 95, 97, make([]float32, 128)))
		require.Error(t, src.ReadRows(i, 0, 2, make([]float32, 127)))
		require.Error(t, src.ReadBlocks(i, 96, 97, &Blocks{}))
	}
}

func TestPackedCheckpointErrors(t *testing.T) {
	up := "model.layers.0.mlp.up_proj"
	for _, x := range []struct {
		want   string
		method string
		change func(c *checkpoint)
	}{
		{"puts input 1 into group 2 of 2", "gptq", func(c *checkpoint) { c.tensors[up+".g_idx"].data[4] = 2 }},
		{"puts input 1 into group -1 of 2", "gptq", func(c *checkpoint) {
			copy(c.tensors[up+".g_idx"].data[4:8], "\xff\xff\xff\xff")
		}},
		{"expected I32 of [64]", "gptq", func(c *checkpoint) {
			c.tensors[up+".g_idx"] = halves([]int{64},
				func(int) float32 { return 0 })
		}},
		{"qzeros or scales are missing", "gptq", func(c *checkpoint) { delete(c.tensors, up+".qzeros") }},
		{"96 outputs and 8 inputs in groups of 32", "awq", func(c *checkpoint) { maps.Copy(c.tensors, gptqPart(up)) }},
		{"is not a float16", "awq", func(c *checkpoint) {
			x := rawTensor{dtype: "F32", shape: []int{2, 96}}
			for range 192 {
				x.data = binary.LittleEndian.AppendUint32(x.data, 0x3dcccccd)
			}
			c.tensors[up+".scales"] = x
		}},
		{"bias does not belong", "gptq", func(c *checkpoint) {
			c.tensors[up+".bias"] = halves([]int{96},
				func(int) float32 { return 1 })
		}},
		{`version "gemv"`, "awq", func(c *checkpoint) { c.quantization["version"] = "gemv" }},
		{`checkpoint_format "marlin"`, "gptq", func(c *checkpoint) { c.quantization["checkpoint_format"] = "marlin" }},
		{"3 bits are not supported", "gptq", func(c *checkpoint) { c.quantization["bits"] = 3 }},
		{"8 bits are not supported", "awq", func(c *checkpoint) { c.quantization["bits"] = 8 }},
		{"group_size 0", "gptq", func(c *checkpoint) { c.quantization["group_size"] = 0 }},
		{"whole groups", "gptq", func(c *checkpoint) { c.quantization["group_size"] = 48 }},
		{"qzeros has shape [2 8], expected [4 8]", "gptq", func(c *checkpoint) { c.quantization["group_size"] = 16 }},
		{`method "bitsandbytes"`, "gptq", func(c *checkpoint) { c.quantization["quant_method"] = "bitsandbytes" }},
		{"cannot unmarshal", "gptq", func(c *checkpoint) { c.quantization["bits"] = "four" }},
		{"up_proj.weight is missing", "gptq", func(c *checkpoint) { delete(c.tensors, up+".qweight") }},
	} {
		c := checkpoint{method: x.method, bits: 4, group: 32}
		c.build()
		x.change(&c)
		s, err := Open(c.write(t))
		if err == nil { // scales are read with the weights
			t.Cleanup(func() { s.Close() })
			err = readEverything(s)
		}
		require.ErrorContains(t, err, x.want)
	}
}

// readEverything reads all tensors as a lossless compression does.
func readEverything(s Model) error {
	for i, x := range s.Tensors() {
		if x.Layout != nil {
			if err := s.ReadBlocks(i, 0, x.Rows, &Blocks{}); err != nil {
				return err
			}
		} else if err := s.ReadRows(i, 0, x.Rows, make([]float32, x.Rows*x.Cols)); err != nil {
			return err
		}
	}
	return nil
}

// gptqPart returns the words of a matrix in GPTQ's shape.
func gptqPart(name string) map[string]rawTensor {
	return map[string]rawTensor{name + ".qweight": int32s([]int{8, 96}, func(int, int) uint32 { return 0 })}
}
