package source

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// tensorValues is a tensor for a test file; values count up from a number of its own.
type tensorValues struct {
	dtype string
	shape []int
	first int
}

func (v tensorValues) len() int {
	n := 1
	for _, d := range v.shape {
		n *= d
	}
	return n
}

// writeSafetensors writes tensors of consecutive integers, which F16 and BF16 hold exactly up to 256.
func writeSafetensors(t *testing.T, path string, tensors map[string]tensorValues) {
	t.Helper()
	header, data := map[string]any{}, []byte(nil)
	for name, v := range tensors {
		start := len(data)
		for i := range v.len() {
			switch x := float32((v.first + i) % 256); v.dtype {
			case "BF16":
				data = binary.LittleEndian.AppendUint16(data, gguf.FloatToBF16(x))
			case "F16":
				data = binary.LittleEndian.AppendUint16(data, gguf.FloatToF16(x))
			default:
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
			}
		}
		header[name] = map[string]any{"dtype": v.dtype, "shape": v.shape, "data_offsets": []int{start, len(data)}}
	}
	text, err := json.Marshal(header)
	require.NoError(t, err)
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	require.NoError(t, os.WriteFile(path, append(b, data...), 0o600))
}

// tiny is a model of 2 layers with 2 query heads and 1 key head of 4 dimensions.
func tiny(bias bool) map[string]tensorValues {
	out := map[string]tensorValues{
		"model.embed_tokens.weight": {"BF16", []int{16, 6}, 1},
		"model.norm.weight":         {"F32", []int{6}, 2},
		"lm_head.weight":            {"F16", []int{16, 6}, 3},
	}
	for l := range 2 {
		for name, v := range map[string]tensorValues{
			"input_layernorm.weight":          {"F32", []int{6}, 4},
			"post_attention_layernorm.weight": {"BF16", []int{6}, 5},
			"self_attn.q_proj.weight":         {"BF16", []int{8, 6}, 6},
			"self_attn.k_proj.weight":         {"F16", []int{4, 6}, 7},
			"self_attn.v_proj.weight":         {"F32", []int{4, 6}, 8},
			"self_attn.o_proj.weight":         {"BF16", []int{6, 8}, 9},
			"mlp.gate_proj.weight":            {"BF16", []int{10, 6}, 10},
			"mlp.up_proj.weight":              {"BF16", []int{10, 6}, 11},
			"mlp.down_proj.weight":            {"BF16", []int{6, 10}, 12},
		} {
			v.first += 20 * l
			out[fmt.Sprintf("model.layers.%d.%s", l, name)] = v
		}
		if bias {
			for name, n := range map[string]int{"q": 8, "k": 4, "v": 4} {
				out[fmt.Sprintf("model.layers.%d.self_attn.%s_proj.bias", l, name)] = tensorValues{"F32", []int{n}, 30}
			}
		}
	}
	return out
}

func tinyConfig(changes map[string]any) []byte {
	c := map[string]any{
		"model_type": "llama", "vocab_size": 16, "hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 2,
		"num_attention_heads": 2,
		"num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
		"hidden_act": "silu",
	}
	for k, v := range changes {
		c[k] = v
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return b
}

// hfDir writes a model directory.
func hfDir(t *testing.T, config map[string]any, tensors map[string]tensorValues) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Tiny-1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, configName), tinyConfig(config), 0o600))
	writeSafetensors(t, filepath.Join(dir, "model.safetensors"), tensors)
	return dir
}

func open(t *testing.T, path string) Model {
	t.Helper()
	s, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func find(t *testing.T, s Model, name string) (int, TensorInfo) {
	t.Helper()
	for i, info := range s.Tensors() {
		if info.Name == name {
			return i, info
		}
	}
	t.Fatalf("no tensor %s", name)
	return 0, TensorInfo{}
}

func readAll(t *testing.T, s Model, name string) []float32 {
	t.Helper()
	i, info := find(t, s, name)
	x := make([]float32, info.Rows*info.Cols)
	require.NoError(t, s.ReadRows(i, 0, info.Rows, x))
	return x
}

// count returns n consecutive numbers as writeSafetensors writes them.
func count(first, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32((first + i) % 256)
	}
	return x
}

func TestHFLlama(t *testing.T) {
	tensors := tiny(false)
	tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensorValues{"F32", []int{2}, 0} // to be ignored
	dir := hfDir(t, nil, tensors)
	s := open(t, dir)
	c, err := s.Config()
	require.NoError(t, err)
	want := model.Config{Architecture: "llama", Name: "Tiny-1", NVocab: 16, NEmbd: 6, NLayers: 2, NHeads: 2, NKVHeads: 1,
		HeadDim: 4, NFF: 10, NCtx: 64, NormEps: 1e-5, RopeBase: 500000, RopeDim: 4}
	require.Equal(t, want, *c)
	require.Len(t, s.Tensors(), 2*9+3)
	require.Equal(t, model.TokenEmbd, s.Tensors()[0].Name)
	_, info := find(t, s, "blk.1.attn_k.weight")
	require.Equal(t, TensorInfo{Name: "blk.1.attn_k.weight", Rows: 4, Cols: 6, Type: "F16"}, info)
	_, info = find(t, s, "blk.1.ffn_norm.weight")
	require.Equal(t, TensorInfo{Name: "blk.1.ffn_norm.weight", Rows: 1, Cols: 6, Vector: true, Type: "BF16"}, info)

	require.Equal(t, count(1, 96), readAll(t, s, model.TokenEmbd))
	require.Equal(t, count(3, 96), readAll(t, s, model.Output))
	require.Equal(t, count(25, 6), readAll(t, s, "blk.1.ffn_norm.weight"))
	require.Equal(t, count(32, 60), readAll(t, s, "blk.1.ffn_down.weight"))
	require.Equal(t, count(28, 24), readAll(t, s, "blk.1.attn_v.weight"))
	// Within a head of 4 rows the order becomes 0, 2, 1, 3: halves interleaved.
	row := func(first, r int) []float32 { return count(first+6*r, 6) }
	require.Equal(t, slices.Concat(row(6, 0), row(6, 2), row(6, 1), row(6, 3), row(6, 4), row(6, 6), row(6, 5), row(6, 7)),
		readAll(t, s, "blk.0.attn_q.weight"))
	require.Equal(t, slices.Concat(row(7, 0), row(7, 2), row(7, 1), row(7, 3)), readAll(t, s, "blk.0.attn_k.weight"))

	i, _ := find(t, s, "blk.0.attn_q.weight")
	part := make([]float32, 12)
	require.NoError(t, s.ReadRows(i, 5, 7, part))
	require.Equal(t, slices.Concat(row(6, 6), row(6, 5)), part)
	bits := make([]uint16, 12)
	require.NoError(t, s.ReadBits16(i, 5, 7, bits))
	for k, b := range bits {
		require.Equal(t, gguf.FloatToBF16(part[k]), b)
	}
	require.Error(t, s.ReadBlocks(i, 0, 1, &Blocks{}))
	require.Error(t, s.ReadRows(i, 0, 3, part))
	require.Error(t, s.ReadRows(i, 7, 9, make([]float32, 99)))
	require.Error(t, s.ReadRows(-1, 0, 1, part))
	i, _ = find(t, s, "blk.0.attn_v.weight")
	require.Error(t, s.ReadBits16(i, 0, 1, bits))
}

func TestHFQwen2IsNotReordered(t *testing.T) {
	s := open(t, hfDir(t, map[string]any{"model_type": "qwen2", "use_sliding_window": false, "sliding_window": 32}, tiny(true)))
	require.Len(t, s.Tensors(), 2*12+3)
	require.Equal(t, count(6, 48), readAll(t, s, "blk.0.attn_q.weight"))
	require.Equal(t, count(30, 8), readAll(t, s, "blk.0.attn_q.bias"))
	c, err := s.Config()
	require.NoError(t, err)
	_, err = model.Build(c, func(name string) bool {
		return slices.ContainsFunc(s.Tensors(), func(i TensorInfo) bool { return i.Name == name })
	})
	require.NoError(t, err)
}

// A vector whose elements are rotated must follow its matrix.
func TestReorderedVector(t *testing.T) {
	s := open(t, hfDir(t, map[string]any{"model_type": "qwen2"}, tiny(true))).(*hfSource)
	i, _ := find(t, s, "blk.0.attn_q.bias")
	s.data[i].head = 4
	require.Equal(t, []float32{30, 32, 31, 33, 34, 36, 35, 37}, readAll(t, s, "blk.0.attn_q.bias"))
}

func TestHFTiedAndOldConfig(t *testing.T) {
	tensors := tiny(false)
	s := open(t, hfDir(t, map[string]any{"tie_word_embeddings": true, "rope_theta": nil,
		"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 1234}}, tensors))
	require.Len(t, s.Tensors(), 2*9+2) // the second copy of the embedding is dropped
	c, err := s.Config()
	require.NoError(t, err)
	require.EqualValues(t, 1234, c.RopeBase)
	delete(tensors, "lm_head.weight")
	open(t, hfDir(t, map[string]any{"tie_word_embeddings": true}, tensors))
	s = open(t, hfDir(t, map[string]any{"tie_word_embeddings": true, "rope_theta": nil,
		"rope_scaling": map[string]any{"type": "linear", "factor": 4.0}}, tensors))
	c, err = s.Config()
	require.NoError(t, err)
	require.EqualValues(t, 10000, c.RopeBase)
	require.EqualValues(t, 4, c.RopeScale)
}

// The numbers are those of Llama-3.2-1B, from the published formula in double precision.
func TestLlama3RopeFreqs(t *testing.T) {
	r := hfRope{Factor: 32, LowFreqFactor: 1, HighFreqFactor: 4, OriginalLength: 8192}
	c := model.Config{NVocab: 1, NEmbd: 64, NLayers: 1, NHeads: 1, NKVHeads: 1, HeadDim: 64, NFF: 1, NCtx: 1, RopeBase: 500000,
		RopeDim: 64}
	divisors, err := r.llama3(&c)
	require.NoError(t, err)
	got := divisors[model.RopeFreqs]
	require.Len(t, got, 32)
	for i, want := range map[int]float64{0: 1, 14: 1, 15: 1.651329246, 16: 3.292262103, 17: 9.666728979, 18: 32, 31: 32} {
		require.InEpsilon(t, want, got[i], 1e-6, "frequency %d", i)
	}
	dir := hfDir(t, map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
		"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}, tiny(false))
	s := open(t, dir)
	_, info := find(t, s, model.RopeFreqs)
	require.Equal(t, TensorInfo{Name: model.RopeFreqs, Rows: 1, Cols: 2, Vector: true, Type: "F32"}, info)
	// with heads of 4 dimensions the second frequency is the 16th of a head of 64
	require.InDeltaSlice(t, []float32{1, 3.2922621}, readAll(t, s, model.RopeFreqs), 1e-6)
}

func TestHFErrors(t *testing.T) {
	without := func(name string) map[string]tensorValues {
		m := tiny(false)
		delete(m, name)
		return m
	}
	with := func(name string, v tensorValues) map[string]tensorValues {
		m := tiny(false)
		m[name] = v
		return m
	}
	for _, c := range []struct {
		want    string
		config  map[string]any
		tensors map[string]tensorValues
	}{
		{`model_type "gpt_neox": unsupported architecture (known: llama, qwen2, qwen3`,
			map[string]any{"model_type": "gpt_neox"}, tiny(false)},
		{"n_ff is 0", map[string]any{"intermediate_size": 0}, tiny(false)},
		{"num_attention_heads is 0", map[string]any{"num_attention_heads": 0}, tiny(false)},
		{"n_layers is 1000000000", map[string]any{"num_hidden_layers": 1000000000}, tiny(false)},
		{"head_dim is -4", map[string]any{"head_dim": -4, "rope_scaling": map[string]any{"type": "llama3", "factor": 32.0,
			"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}, tiny(false)},
		{"hidden_act", map[string]any{"hidden_act": "gelu"}, tiny(false)},
		{"use_sliding_window", map[string]any{"use_sliding_window": true}, tiny(false)},
		{"quantized already", map[string]any{"quantization_config": map[string]any{"quant_method": "hqq"}}, tiny(false)},
		{`type "dynamic" is not supported`, map[string]any{"rope_scaling": map[string]any{"type": "dynamic"}}, tiny(false)},
		{"yarn needs factor", map[string]any{"rope_scaling": map[string]any{"type": "yarn"}}, tiny(false)},
		{"factor is 0", map[string]any{"rope_scaling": map[string]any{"type": "linear"}}, tiny(false)},
		{"llama3 needs factor", map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8}}, tiny(false)},
		{"cannot unmarshal", map[string]any{"hidden_size": "six"}, tiny(false)},
		{"lm_head.weight is missing", nil, without("lm_head.weight")},
		{"model.layers.1.mlp.up_proj.weight is missing", nil, without("model.layers.1.mlp.up_proj.weight")},
		{"_proj.bias does not belong to a llama", nil, tiny(true)},
		{"expected 4 of 6", nil, with("model.layers.0.self_attn.k_proj.weight", tensorValues{"F16", []int{8, 6}, 0})},
		{"expected one or two dimensions", nil, with("model.norm.weight", tensorValues{"F32", []int{1, 1, 6}, 0})},
		{"I32 is not supported", nil, with("model.norm.weight", tensorValues{"I32", []int{6}, 0})},
	} {
		dir := hfDir(t, c.config, c.tensors)
		_, err := Open(dir)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, dir)
	}
}

const tokenizerJSON = `{"added_tokens":[{"id":15,"content":"<s>","special":true}],
	"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},"decoder":{"type":"ByteLevel"},
	"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`

func TestHFText(t *testing.T) {
	dir := hfDir(t, nil, tiny(false))
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	s := open(t, dir)
	require.Empty(t, s.ChatTemplate())
	_, err := s.Tokenizer()
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "no tokenizer.model beside it")

	put("tokenizer.json", tokenizerJSON)
	put("tokenizer_config.json", `{"bos_token":"<s>","chat_template":"one"}`)
	s = open(t, filepath.Join(dir, "model.safetensors")) // the file alone means the directory around it
	require.Equal(t, "one", s.ChatTemplate())
	tok, err := s.Tokenizer()
	require.NoError(t, err)
	require.Equal(t, 16, tok.NVocab())
	require.EqualValues(t, 15, tok.BOS())
	require.Equal(t, []int32{2, 0}, tok.Encode("aba", false, false))

	put("tokenizer_config.json", `{"chat_template":[{"name":"tool_use","template":"x"},{"name":"default","template":"two"}]}`)
	require.Equal(t, "two", open(t, dir).ChatTemplate())
	put("chat_template.jinja", "three")
	require.Equal(t, "three", open(t, dir).ChatTemplate())

	b, err := open(t, dir).GGUFMetadata()
	require.NoError(t, err)
	m, err := gguf.DecodeMetadata(b)
	require.NoError(t, err)
	c, err := ggufConfig(m, "llama", 16)
	require.NoError(t, err)
	want, err := s.Config()
	require.NoError(t, err)
	require.Equal(t, want, c)
	text, err := m.String(keyChatTemplate)
	require.NoError(t, err)
	require.Equal(t, "three", text)
}

func TestSourcesAreSafeForConcurrentUse(t *testing.T) {
	s := open(t, hfDir(t, nil, tiny(false)))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, info := range s.Tensors() {
				if err := s.ReadRows(i, 0, info.Rows, make([]float32, info.Rows*info.Cols)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestVocabularyRoundTrip(t *testing.T) {
	want := tokenizer.GGUFVocab{
		Model: "llama", Pre: "default", Tokens: []string{"<unk>", "a"}, Scores: []float32{0, -1}, Types: []int32{2, 1},
		Merges: []string{"x y"},
		BOS:    1, EOS: -1, UNK: 0, PAD: -1, EOT: 1, AddBOS: false, AddEOS: true, AddSpacePrefix: false,
	}
	m := &gguf.Metadata{}
	SetVocabulary(m, want)
	got, err := readVocab(m, func(string) {})
	require.NoError(t, err)
	require.Equal(t, want, got)
	m.Set("tokenizer.ggml.eos_token_id", uint32(2))
	_, err = readVocab(m, func(string) {})
	require.ErrorContains(t, err, "there are 2 tokens")
	_, err = readVocab(&gguf.Metadata{}, func(string) {})
	require.ErrorIs(t, err, gguf.ErrMissing)
}
