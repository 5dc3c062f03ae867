package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quantizedCase is a checkpoint of testdata/quantized.py.
type quantizedCase struct {
	Config map[string]any    `json:"quantization_config"`
	Want   map[string]string // SHA-256 of the float32 weights that torch computes, by the name in the layer
}

func quantizedCases(t *testing.T) map[string]quantizedCase {
	b, err := os.ReadFile("testdata/quantized.json")
	require.NoError(t, err)
	var cases map[string]quantizedCase
	require.NoError(t, json.Unmarshal(b, &cases))
	return cases
}

// dir makes a model directory of the checkpoint.
func (c *quantizedCase) dir(t *testing.T, name string, weights []byte) string {
	dir := hfDir(t, map[string]any{"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "head_dim": 24,
		"quantization_config": c.Config}, nil)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), weights, 0o600))
	return dir
}

// unpaired undoes the order of rows in which GGUF's Llama has heads of n rows.
func unpaired(w []float32, cols, n int) []float32 {
	out := make([]float32, len(w))
	for r := range len(w) / cols {
		copy(out[storedRow(r, n)*cols:], w[r*cols:][:cols])
	}
	return out
}

var layerNames = map[string]string{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
	"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}

// Every form against torch (testdata/quantized.py), bit for bit, whole tensors and single rows.
func TestQuantizedCheckpointsAgreeWithTorch(t *testing.T) {
	for name, c := range quantizedCases(t) {
		b, err := os.ReadFile(filepath.Join("testdata", name+".safetensors"))
		require.NoError(t, err)
		src := open(t, c.dir(t, name, b))
		require.Len(t, c.Want, len(layerNames))
		for theirs, want := range c.Want {
			i, info := find(t, src, "blk.0."+layerNames[theirs]+".weight")
			w := readAll(t, src, info.Name)
			for r := range info.Rows {
				row := make([]float32, info.Cols)
				require.NoError(t, src.ReadRows(i, r, r+1, row))
				requireSame(t, w[r*info.Cols:][:info.Cols], row)
			}
			if strings.HasPrefix(theirs, "self_attn.q") || strings.HasPrefix(theirs, "self_attn.k") {
				w = unpaired(w, info.Cols, 24)
			}
			hash := sha256.New()
			require.NoError(t, binary.Write(hash, binary.LittleEndian, w))
			require.Equal(t, want, hex.EncodeToString(hash.Sum(nil)), "%s, %s (%s)", name, theirs, info.Type)
			require.Nil(t, info.Layout)
			require.Error(t, src.ReadBlocks(i, 0, 1, &Blocks{}))
			require.Error(t, src.ReadBits16(i, 0, 1, make([]uint16, info.Cols)))
		}
	}
}

// editTensors changes the header of a safetensors file.
func editTensors(t *testing.T, b []byte, edit func(header map[string]map[string]any)) []byte {
	t.Helper()
	n := binary.LittleEndian.Uint64(b)
	var header map[string]map[string]any
	require.NoError(t, json.Unmarshal(b[8:8+n], &header))
	edit(header)
	text, err := json.Marshal(header)
	require.NoError(t, err)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), b[8+n:]...)
}

func TestScaledCheckpointErrors(t *testing.T) {
	up := "model.layers.0.mlp.up_proj"
	rename := func(from, to string) func(map[string]map[string]any) {
		return func(h map[string]map[string]any) { h[to] = h[from]; delete(h, from) }
	}
	nothing := func(map[string]map[string]any) {}
	for _, x := range []struct {
		want, name string
		config     map[string]any
		edit       func(map[string]map[string]any)
	}{
		{"F8_E4M3 without scales, expected a tensor " + up + ".weight_scale", "fp8-tensor", nil,
			rename(up+".weight_scale", up+".k_scale")},
		{"weight_scale_inv has shape [2 2], expected a scale for all 48 × 48 weights, for every row, or for every block of 16 × 32",
			"fp8-block", map[string]any{"weight_block_size": []int{16, 32}}, nothing},
		{"blocks of [0 32], expected two positive numbers", "fp8-block", map[string]any{"weight_block_size": []int{0, 32}}, nothing},
		{"blocks of [32], expected", "fp8-block", map[string]any{"weight_block_size": []int{32}}, nothing},
		{`compressed-tensors format "pack-quantized" is not supported`, "fp8-tensor",
			map[string]any{"format": "pack-quantized"}, nothing},
		{`modelopt algorithm "NVFP4" is not supported`, "fp8-tensor",
			map[string]any{"quant_method": "modelopt", "quant_algo": "NVFP4"}, nothing},
		{`method "bitsandbytes"`, "fp8-tensor", map[string]any{"quant_method": "bitsandbytes"}, nothing},
		{"zero points other than 0", "fp8-tensor", nil, rename(up+".input_scale", up+".weight_zero_point")},
		{"48 inputs in groups of 40: expected whole words of 8 outputs, and whole groups", "gptq-sorted",
			map[string]any{"group_size": 40}, nothing},
		{"says desc_act, but there is no tensor " + up + ".g_idx", "gptq-sorted", nil, rename(up+".g_idx", up+".k_scale")},
	} {
		b, err := os.ReadFile(filepath.Join("testdata", x.name+".safetensors"))
		require.NoError(t, err)
		c := quantizedCases(t)[x.name]
		maps.Copy(c.Config, x.config)
		_, err = Open(c.dir(t, x.name, editTensors(t, b, x.edit)))
		require.ErrorContains(t, err, x.want)
	}
}

// The values of the specification's table 1 and of its examples.
func TestEightBitFloats(t *testing.T) {
	for bits, want := range map[uint8]float32{0: 0, 1: 1. / 512, 7: 7. / 512, 8: 1. / 64, 0x38: 1, 0x7e: 448, 0xfe: -448,
		0xb9: -1.125} {
		require.Equal(t, want, value8(f8E4M3, bits), "%02x", bits)
	}
	for bits, want := range map[uint8]float32{1: 1. / 65536, 4: 1. / 16384, 0x3c: 1, 0x7b: 57344, 0xc1: -2.5} {
		require.Equal(t, want, value8(f8E5M2, bits), "%02x", bits)
	}
	require.True(t, math.IsNaN(float64(value8(f8E4M3, 0x7f))) && math.IsNaN(float64(value8(f8E4M3, 0xff))))
	require.True(t, math.IsInf(float64(value8(f8E5M2, 0xfc)), -1))
	require.Equal(t, float32(-128), value8(int8s, 0x80))
}
