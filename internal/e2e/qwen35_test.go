package e2e_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// Of a Hugging Face directory whose model also sees and predicts several tokens, the text model is taken.
func TestTextOfAModelThatSees(t *testing.T) {
	family, err := testmodel.ReadFamily("qwen35")
	require.NoError(t, err)
	tensors := map[string][]int{"model.visual.patch_embed.proj.weight": {8, 3}, "mtp.fc.weight": {4, 4}}
	for name, shape := range family.Tensors {
		tensors[strings.Replace(name, "model.", "model.language_model.", 1)] = shape
	}
	count := len(family.Tensors)
	family.Tensors = tensors
	dir, err := family.WriteHF(t.TempDir())
	require.NoError(t, err)
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	outer, err := json.Marshal(map[string]any{"model_type": "qwen3_5", "text_config": json.RawMessage(text),
		"tie_word_embeddings": true, "vision_config": map[string]any{"depth": 2}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, outer, 0o644))
	src, err := source.Open(dir)
	require.NoError(t, err)
	defer func() { assert.NoError(t, src.Close()) }()
	assert.Len(t, src.Tensors(), count)
	c, err := src.Config()
	require.NoError(t, err)
	assert.Equal(t, "dddad", c.Layers)
	assert.Equal(t, 8, c.RopeDim)
}

// A list of layers that is too short is an error, and not completed.
func TestShortListsOfLayersAreRefused(t *testing.T) {
	family, err := testmodel.ReadFamily("qwen35")
	require.NoError(t, err)
	dir, err := family.WriteHF(t.TempDir())
	require.NoError(t, err)
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(b, &config))
	config["layer_types"] = []string{"linear_attention", "full_attention"}
	b, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b, 0o644))
	_, err = source.Open(dir)
	require.ErrorContains(t, err, "layers lists 2 layers, expected n_layers (5)")
}

// withPrediction writes a family's GGUF file with one more layer, which predicts several tokens.
func withPrediction(t *testing.T, family *testmodel.Family) string {
	path, err := family.WriteGGUF(t.TempDir())
	require.NoError(t, err)
	f, err := gguf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	m := f.With(map[string]any{"qwen35.block_count": uint32(6), "qwen35.nextn_predict_layers": uint32(1),
		"qwen35.attention.recurrent_layers": []bool{true, true, true, false, true, false}})
	tensors := append([]gguf.Tensor{}, f.Tensors...)
	tensors = append(tensors, gguf.Tensor{Name: "blk.5.nextn.enorm.weight", Dims: []uint64{48}, Type: gguf.F32})
	out := filepath.Join(t.TempDir(), "mtp.gguf")
	w, err := gguf.Create(out, m, tensors)
	require.NoError(t, err)
	for i := range f.Tensors {
		x := &f.Tensors[i]
		b, err := f.Rows(x, 0, x.Rows())
		require.NoError(t, err)
		_, err = w.Write(b)
		require.NoError(t, err)
	}
	_, err = w.Write(make([]byte, 4*48))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out
}

// Layers of a GGUF file that predict several tokens are left out, and not exported again.
func TestLayersThatPredictAreLeftOut(t *testing.T) {
	family, err := testmodel.ReadFamily("qwen35")
	require.NoError(t, err)
	src, err := source.Open(withPrediction(t, family))
	require.NoError(t, err)
	defer func() { assert.NoError(t, src.Close()) }()
	c, err := src.Config()
	require.NoError(t, err)
	assert.Equal(t, 5, c.NLayers)
	out := filepath.Join(t.TempDir(), "out.gguf")
	require.NoError(t, convert.Export(context.Background(), compressed(t, src), out, nil))
	again, err := source.Open(out)
	require.NoError(t, err)
	defer func() { assert.NoError(t, again.Close()) }()
	d, err := again.Config()
	require.NoError(t, err)
	assert.Equal(t, c, d)
	assert.Len(t, again.Tensors(), len(src.Tensors()))
}

// Adapters of layers whose heads are in another order here are refused by name.
func TestAdaptersOfOrderedHeadsAreRefused(t *testing.T) {
	family, err := testmodel.ReadFamily("qwen35")
	require.NoError(t, err)
	path, err := family.WriteGGUF(t.TempDir())
	require.NoError(t, err)
	src, err := source.Open(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, src.Close()) }()
	a, err := testmodel.ReadAdapter("qwen35")
	require.NoError(t, err)
	tensors := map[string][]int{}
	for name, shape := range a.Tensors {
		if strings.Contains(name, "layers.0.mlp.gate_proj") {
			tensors[strings.Replace(name, "mlp.gate_proj", "linear_attn.in_proj_z", 1)] = shape
		}
	}
	require.Len(t, tensors, 2)
	a.Tensors = tensors
	a.Config = []byte(strings.Replace(string(a.Config), `"gate_proj"`, `"in_proj_z"`, 1))
	dir, err := a.Write(t.TempDir())
	require.NoError(t, err)
	_, err = source.Adapt(src, []source.Adapter{{Dir: dir, Scale: 1}})
	require.ErrorContains(t, err, "linear_attn.in_proj_z")
}
