package testmodel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// WriteHF stores a variant as a Hugging Face model folder below dir and returns its path: config.json, tokenizer.json,
// tokenizer_config.json, and safetensors files of v.Type.
func WriteHF(dir string, v Variant) (string, error) {
	if v.Type == "" {
		v.Type = gguf.BF16.String()
	}
	if elementSize(v.Type) == 0 {
		return "", fmt.Errorf("testmodel: no Hugging Face variant of type %q", v.Type)
	}
	w, err := load(v.Arch)
	if err != nil {
		return "", err
	}
	if w.arch == "llama" {
		if err := w.halfPairs(); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, "tiny-"+w.arch+"-hf")
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	if err := w.writeConfig(path, v.Type); err != nil {
		return "", err
	}
	if err := w.writeTokenizer(path); err != nil {
		return "", err
	}
	return path, w.writeShards(path, v.Type, max(v.Shards, 1))
}

// elementSize returns the bytes per element of a safetensors type, or 0 for one that is not supported here.
func elementSize(typ string) int { return map[string]int{"F32": 4, "F16": 2, "BF16": 2}[typ] }

func writeJSON(value any, elem ...string) error {
	b, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(elem...), b, 0o644)
}

// writeConfig translates the metadata into config.json.
func (w *weights) writeConfig(dir, typ string) error {
	var firstErr error
	get := func(key string) any {
		value, ok := w.meta.Get(key)
		if !ok && firstErr == nil {
			firstErr = fmt.Errorf("testmodel: embedded file lacks %s", key)
		}
		return value
	}
	of := func(key string) any { return get(w.arch + "." + key) }
	config := map[string]any{
		"architectures":           []string{map[string]string{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[w.arch]},
		"model_type":              w.arch,
		"vocab_size":              of("vocab_size"),
		"hidden_size":             of("embedding_length"),
		"num_hidden_layers":       of("block_count"),
		"intermediate_size":       of("feed_forward_length"),
		"num_attention_heads":     of("attention.head_count"),
		"num_key_value_heads":     of("attention.head_count_kv"),
		"max_position_embeddings": of("context_length"),
		"rms_norm_eps":            of("attention.layer_norm_rms_epsilon"),
		"rope_theta":              of("rope.freq_base"),
		"hidden_act":              "silu",
		"attention_bias":          w.arch == "qwen2",
		"tie_word_embeddings":     true,
		"bos_token_id":            get("tokenizer.ggml.bos_token_id"),
		"eos_token_id":            get("tokenizer.ggml.eos_token_id"),
		"torch_dtype":             map[string]string{"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[typ],
	}
	if firstErr != nil {
		return firstErr
	}
	return writeJSON(config, dir, "config.json")
}

// writeTokenizer stores the byte-level BPE as tokenizer.json and the template as tokenizer_config.json.
func (w *weights) writeTokenizer(dir string) error {
	tokens, err := w.meta.Strings("tokenizer.ggml.tokens")
	if err != nil {
		return err
	}
	types, err := w.meta.Int32s("tokenizer.ggml.token_type")
	if err != nil {
		return err
	}
	merges, err := w.meta.Strings("tokenizer.ggml.merges")
	if err != nil {
		return err
	}
	template, err := w.meta.String("tokenizer.chat_template")
	if err != nil {
		return err
	}
	const control = 3
	vocab, added := map[string]int{}, []map[string]any{}
	for id, token := range tokens {
		vocab[token] = id
		if types[id] == control {
			added = append(added, map[string]any{"id": id, "content": token, "special": true,
				"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
		}
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	definition := map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added,
		"normalizer": nil, "pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
			"end_of_word_suffix": nil,
			"fuse_unk":           false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
	}
	if err := writeJSON(definition, dir, "tokenizer.json"); err != nil {
		return err
	}
	bos, err := w.meta.Int("tokenizer.ggml.bos_token_id")
	if err != nil {
		return err
	}
	eos, err := w.meta.Int("tokenizer.ggml.eos_token_id")
	if err != nil {
		return err
	}
	return writeJSON(map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false, "bos_token": tokens[bos],
		"eos_token": tokens[eos], "chat_template": template, "model_max_length": 512}, dir, "tokenizer_config.json")
}

// hfName returns the Hugging Face name of a tensor.
func hfName(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) != 4 {
		return map[string]string{"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
	}
	module := map[string]string{
		"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
		"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
	}[parts[2]]
	return "model.layers." + parts[1] + "." + module + "." + parts[3]
}

// writeShards distributes the tensors over n safetensors files, with an index if there are several.
func (w *weights) writeShards(dir, typ string, n int) error {
	shards := make([][]tensor, n)
	index, total := map[string]string{}, 0
	name := func(k int) string {
		if n == 1 {
			return "model.safetensors"
		}
		return fmt.Sprintf("model-%05d-of-%05d.safetensors", k+1, n)
	}
	for i, t := range w.tensors {
		k := i * n / len(w.tensors)
		t.name = hfName(t.name)
		shards[k] = append(shards[k], t)
		index[t.name] = name(k)
		total += elementSize(typ) * len(t.data)
	}
	for k, tensors := range shards {
		if err := writeSafetensors(filepath.Join(dir, name(k)), typ, tensors); err != nil {
			return err
		}
	}
	if n == 1 {
		return nil
	}
	return writeJSON(map[string]any{"metadata": map[string]any{"total_size": total}, "weight_map": index}, dir,
		"model.safetensors.index.json")
}

// writeSafetensors stores tensors as: header length (8 bytes), JSON header padded with spaces to 8 bytes, data.
func writeSafetensors(path, typ string, tensors []tensor) error {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	le := binary.LittleEndian
	for _, t := range tensors {
		start := len(data)
		for _, x := range t.data {
			switch typ {
			case "F32":
				data = le.AppendUint32(data, math.Float32bits(x))
			case "F16":
				data = le.AppendUint16(data, gguf.FloatToF16(x))
			case "BF16":
				data = le.AppendUint16(data, gguf.FloatToBF16(x))
			}
		}
		shape := []int{t.rows, t.cols}
		if t.vector {
			shape = shape[1:]
		}
		header[t.name] = map[string]any{"dtype": typ, "shape": shape, "data_offsets": []int{start, len(data)}}
	}
	b, err := json.Marshal(header)
	if err != nil {
		return err
	}
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	out := append(le.AppendUint64(nil, uint64(len(b))), b...)
	return os.WriteFile(path, append(out, data...), 0o644)
}
