package source

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	qModule = "base_model.model.model.layers.1.self_attn.q_proj"
	embed   = "base_model.model.model.embed_tokens"
)

// loraTensors is an adapter of rank 2 for tiny's second query matrix.
func loraTensors() map[string]tensorValues {
	return map[string]tensorValues{
		qModule + ".lora_A.weight": {"F32", []int{2, 6}, 1},
		qModule + ".lora_B.weight": {"F16", []int{8, 2}, 20},
	}
}

func loraJSON(changes map[string]any) []byte {
	c := map[string]any{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": []string{"q_proj"}, "modules_to_save": nil,
		"fan_in_fan_out": false, "bias": "none", "loftq_config": map[string]any{}, "init_lora_weights": true}
	maps.Copy(c, changes)
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return b
}

func loraDir(t *testing.T, config []byte, tensors map[string]tensorValues) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, adapterConfig), config, 0o600))
	writeSafetensors(t, filepath.Join(dir, adapterWeights), tensors)
	return dir
}

func adapt(t *testing.T, config map[string]any, dirs ...Adapter) (Model, error) {
	t.Helper()
	src, err := Open(hfDir(t, config, tiny(false)))
	require.NoError(t, err)
	m, err := Adapt(src, dirs)
	if err != nil {
		require.NoError(t, src.Close())
		return nil, err
	}
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, nil
}

// The merged matrix is W + scale·alpha/r·B·A, rows in GGUF's order; everything else is as before.
func TestAdapterIsAdded(t *testing.T) {
	dir := loraDir(t, loraJSON(nil), loraTensors())
	m, err := adapt(t, nil, Adapter{dir, 0.5})
	require.NoError(t, err)
	plain := open(t, hfDir(t, nil, tiny(false)))
	for i, info := range m.Tensors() {
		want := readAll(t, plain, info.Name)
		if info.Name == "blk.1.attn_q.weight" {
			require.Equal(t, "F32", info.Type)
			require.ErrorContains(t, m.ReadBits16(i, 0, 1, make([]uint16, 6)), "merged with an adapter")
			require.ErrorContains(t, m.ReadBlocks(i, 0, 1, &Blocks{}), "merged with an adapter")
			for r := range 8 {
				for c := range 6 {
					stored := storedRow(r, 4)
					// values count up: A from 1 in rows of 6, B from 20 in rows of 2
					b0, b1 := float32(20+2*stored), float32(21+2*stored)
					want[6*r+c] += 0.5 * 4 / 2 * (b0*float32(1+c) + b1*float32(7+c))
				}
			}
			require.Error(t, m.ReadRows(i, 7, 9, make([]float32, 12)))
			require.Error(t, m.ReadRows(i, 0, 2, make([]float32, 11)))
		}
		require.Equal(t, want, readAll(t, m, info.Name), info.Name)
	}
}

func TestAdapterErrors(t *testing.T) {
	rename := func(from, to string) func(map[string]tensorValues) {
		return func(x map[string]tensorValues) { x[to] = x[from]; delete(x, from) }
	}
	a, b := qModule+".lora_A.weight", qModule+".lora_B.weight"
	for want, x := range map[string]struct {
		config map[string]any
		change func(map[string]tensorValues)
	}{
		`peft_type is "IA3", supported is LORA`:  {map[string]any{"peft_type": "IA3"}, nil},
		`target_parameters is ["x"]: parameters`: {map[string]any{"target_parameters": []string{"x"}}, nil},
		"[[0,1]]: repeated layers":               {map[string]any{"layer_replication": [][]int{{0, 1}}}, nil},
		`init_lora_weights is "pissa"`:           {map[string]any{"init_lora_weights": "pissa_niter_4"}, nil},
		"r is 0":                                 {map[string]any{"r": 0}, nil},
		"multiply what it adds by 5e+38":         {map[string]any{"lora_alpha": 1e39}, nil},
		"cannot unmarshal string":                {map[string]any{"r": "two"}, nil},
		`alpha_pattern "q_(" is not`:             {map[string]any{"alpha_pattern": map[string]any{"q_(": 1}}, nil},
		"gives model.layers.1.self_attn.":        {map[string]any{"rank_pattern": map[string]any{"q_proj": 0}}, nil},
		"several keys of alpha_pattern match model.layers.1.self_attn.q_proj": {
			map[string]any{"alpha_pattern": map[string]any{"q_proj": 1, "self_attn.q_proj": 2}}, nil},
		"expected [3 …] and [… 3] for a rank of 3": {map[string]any{"rank_pattern": map[string]any{"self_attn.q_proj": 3}}, nil},
		"use_dora is true, but the tensors say":    {map[string]any{"use_dora": true}, nil},
		"use_dora is false, but": {nil, func(x map[string]tensorValues) {
			x[qModule+".lora_magnitude_vector"] = tensorValues{"F32", []int{8}, 1}
		}},
		"has shape [7], expected 8 magnitudes": {map[string]any{"use_dora": true}, func(x map[string]tensorValues) {
			x[qModule+".lora_magnitude_vector"] = tensorValues{"F32", []int{7}, 1}
		}},
		"lora_A or lora_B is missing": {nil, func(x map[string]tensorValues) { delete(x, b) }},
		"are the same part": {nil, func(x map[string]tensorValues) {
			x[qModule+".lora_A.default.weight"] = tensorValues{"F32", []int{2, 6}, 1}
		}},
		"for a matrix of 10 × 6, the model's has shape [8 6]": {nil, func(x map[string]tensorValues) {
			x[b] = tensorValues{"F32", []int{10, 2}, 1}
		}},
		"layers.7.self_attn.q_proj.lora_A.weight does not belong to this model": {nil, func(x map[string]tensorValues) {
			for _, n := range []string{a, b} {
				rename(n, strings.Replace(n, ".1.", ".7.", 1))(x)
			}
		}},
		"x.hada_w1_a is not part of a LoRA adapter": {nil, rename(a, "x.hada_w1_a")},
		"lora_B.bias is not part of a LoRA adapter": {nil, rename(b, qModule+".lora_B.bias")},
		"the model's output matrix is its embedding": {map[string]any{"tied": true}, func(x map[string]tensorValues) {
			rename(a, embed+".lora_embedding_A")(x)
			rename(b, embed+".lora_embedding_B")(x)
		}},
		"expected lora_embedding_A and lora_embedding_B for the embedding": {nil, func(x map[string]tensorValues) {
			rename(a, embed+".lora_A.weight")(x)
			rename(b, embed+".lora_B.weight")(x)
		}},
		"lm_head.weight has shape [17 6], the model's [16 6]: was the adapter trained": {nil, func(x map[string]tensorValues) {
			x["base_model.model.lm_head.weight"] = tensorValues{"F32", []int{17, 6}, 1}
		}},
		"element type I32 is not supported": {nil, func(x map[string]tensorValues) { x[a] = tensorValues{"I32", []int{2, 6}, 1} }},
		"there are no tensors in it":        {nil, func(x map[string]tensorValues) { clear(x) }},
	} {
		tensors, model := loraTensors(), map[string]any{}
		if x.change != nil {
			x.change(tensors)
		}
		if x.config["tied"] != nil {
			model["tie_word_embeddings"] = true
			x.config = nil
		}
		_, err := adapt(t, model, Adapter{loraDir(t, loraJSON(x.config), tensors), 1})
		require.ErrorContains(t, err, want)
	}
	dir := t.TempDir()
	_, err := adapt(t, nil, Adapter{dir, 1})
	require.ErrorContains(t, err, "expected a directory with adapter_config.json and adapter_model.safetensors")
	require.NoError(t, os.WriteFile(filepath.Join(dir, adapterConfig), loraJSON(nil), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "adapter_model.bin"), nil, 0o600))
	_, err = adapt(t, nil, Adapter{dir, 1})
	require.ErrorContains(t, err, "adapter_model.bin is a PyTorch checkpoint")
}

// setRow overwrites row r of an F32 tensor of a safetensors file.
func setRow(t *testing.T, path, tensor string, r int, values ...float32) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var header map[string]struct {
		DType   string `json:"dtype"`
		Offsets []int  `json:"data_offsets"`
	}
	n := binary.LittleEndian.Uint64(b)
	require.NoError(t, json.Unmarshal(b[8:8+n], &header))
	require.Equal(t, "F32", header[tensor].DType)
	row := b[8+int(n)+header[tensor].Offsets[0]+4*len(values)*r:]
	for i, v := range values {
		binary.LittleEndian.PutUint32(row[4*i:], math.Float32bits(v))
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// A row of zeros has no direction: with the length 0 it stays, with another one it is an error. (PEFT divides by the row's length
// and gets NaN.) Lengths that are not finite are errors, too.
func TestRowsOfZerosWithMagnitudes(t *testing.T) {
	lora, model := loraTensors(), tiny(false)
	lora[qModule+".lora_B.weight"] = tensorValues{"F32", []int{8, 2}, 1}
	lora[qModule+".lora_magnitude_vector"] = tensorValues{"F32", []int{8}, 1}
	model["model.layers.1.self_attn.q_proj.weight"] = tensorValues{"F32", []int{8, 6}, 1}
	const r = 2 // in the file; it is row 1 of its head in GGUF's order
	read := func(weights []float32, b []float32, magnitude float32) ([]float32, error) {
		adapter, base := loraDir(t, loraJSON(map[string]any{"use_dora": true}), lora), hfDir(t, nil, model)
		setRow(t, filepath.Join(base, "model.safetensors"), "model.layers.1.self_attn.q_proj.weight", r, weights...)
		setRow(t, filepath.Join(adapter, adapterWeights), qModule+".lora_B.weight", r, b...)
		setRow(t, filepath.Join(adapter, adapterWeights), qModule+".lora_magnitude_vector", r, magnitude)
		src, err := Open(base)
		require.NoError(t, err)
		m, err := Adapt(src, []Adapter{{adapter, 1}})
		require.NoError(t, err)
		defer m.Close()
		i, info := find(t, m, "blk.1.attn_q.weight")
		values := make([]float32, info.Rows*info.Cols)
		return values, m.ReadRows(i, 0, info.Rows, values)
	}
	zeros, cancelled := make([]float32, 6), []float32{-2, -4, -6, -8, -10, -12} // of −2·(1, 0)·A
	for name, x := range map[string]struct{ weights, b []float32 }{"zeros": {zeros, []float32{0, 0}},
		"sum": {cancelled, []float32{1, 0}}} {
		values, err := read(x.weights, x.b, 0)
		require.NoError(t, err, name)
		at := slices.IndexFunc([]int{0, 1, 2, 3}, func(i int) bool { return storedRow(i, 4) == r })
		for i := range 8 {
			square := 0.0
			for _, v := range values[6*i:][:6] {
				square += float64(v) * float64(v)
			}
			want := float64(storedRow(i, 4) + 1)
			if i == at {
				want = 0
			}
			require.InDelta(t, want, math.Sqrt(square), 1e-5, "%s, row %d", name, i)
		}
		for _, magnitude := range []float64{1, -1e-30, math.Inf(1), math.NaN()} {
			_, err := read(x.weights, x.b, float32(magnitude))
			require.ErrorContains(t, err, "q_proj.lora_magnitude_vector: row 2 of the matrix has the length 0 and is to have", name)
		}
	}
	_, err := read(zeros, []float32{1, 0}, float32(math.NaN()))
	require.ErrorContains(t, err, "is to have NaN")
	_, err = read([]float32{3e38, 3e38, 0, 0, 0, 0}, []float32{1e38, 1e38}, 1)
	require.ErrorContains(t, err, "has the length +Inf")
}
