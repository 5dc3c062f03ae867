package testmodel

import (
	"embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

//go:embed families
var families embed.FS

// Family is the tiny model of a model family that families.py made, with the results of transformers in float32.
type Family struct {
	Name       string
	Tensors    map[string][]int `json:"tensors"`     // of the Hugging Face directory: shapes by name
	NormOffset float64          `json:"norm_offset"` // what the weights of norms lack there
	Results    struct {
		Short FamilyResult `json:"short"` // within every window and original context
		Long  FamilyResult `json:"long"`  // beyond them
	} `json:"results"`
}

// FamilyResult is what follows from a prompt.
type FamilyResult struct {
	Tokens []int32 `json:"tokens"`
	Rows   []struct {
		Position int       `json:"position"`
		Logits   []float32 `json:"logits"`  // with keys and values rounded to float16
		Float32  []float32 `json:"float32"` // without
	} `json:"rows"`
	Greedy []int32 `json:"greedy"` // continuation
	MinGap float32 `json:"min_gap"`
}

// Families returns the names of all families, sorted.
func Families() ([]string, error) {
	entries, err := fs.ReadDir(families, "families")
	if err != nil {
		return nil, fmt.Errorf("testmodel: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// ReadFamily returns a family's reference results.
func ReadFamily(name string) (*Family, error) {
	b, err := families.ReadFile(path.Join("families", name, "golden.json"))
	if err != nil {
		return nil, fmt.Errorf("testmodel: %w", err)
	}
	f := &Family{Name: name}
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("testmodel: golden.json of %s: %w", name, err)
	}
	return f, nil
}

// WriteGGUF stores the model in dir as the GGUF file that llama.cpp's converter made, and returns its path.
func (f *Family) WriteGGUF(dir string) (string, error) {
	b, err := families.ReadFile(path.Join("families", f.Name, "model.gguf"))
	if err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	to := filepath.Join(dir, f.Name+".gguf")
	return to, os.WriteFile(to, b, 0o644)
}

// WriteHF stores the model as a Hugging Face directory below dir and returns its path.
func (f *Family) WriteHF(dir string) (string, error) {
	config, err := families.ReadFile(path.Join("families", f.Name, "config.json"))
	if err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	to := filepath.Join(dir, f.Name+"-hf")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(to, "config.json"), config, 0o644); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	if err := writeJSON(byteTokenizer(), to, "tokenizer.json"); err != nil {
		return "", err
	}
	return to, f.writeSafetensors(filepath.Join(to, "model.safetensors"))
}

// writeSafetensors stores all tensors as F16.
func (f *Family) writeSafetensors(to string) error {
	var names []string
	for name := range f.Tensors {
		names = append(names, name)
	}
	slices.Sort(names)
	header, at := map[string]any{}, 0
	var data []byte
	for _, name := range names {
		for _, x := range f.Values(name) {
			data = binary.LittleEndian.AppendUint16(data, gguf.FloatToF16(x))
		}
		header[name] = map[string]any{"dtype": "F16", "shape": f.Tensors[name], "data_offsets": []int{at, len(data)}}
		at = len(data)
	}
	h, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("testmodel: %w", err)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	return os.WriteFile(to, append(append(b, h...), data...), 0o644)
}

// Values returns the weights of a tensor of the Hugging Face directory: what families.py's function of the same name computes.
func (f *Family) Values(name string) []float32 {
	shape := f.Tensors[name]
	n := 1
	for _, d := range shape {
		n *= d
	}
	scale, base := math.Exp2(math.RoundToEven(math.Log2(3/math.Sqrt(float64(shape[len(shape)-1]))))-7), 0.0
	if strings.HasSuffix(name, "dt_bias") {
		scale = 1. / 64
	} else if strings.HasSuffix(name, "A_log") {
		scale, base = 1./64, -2
	} else if len(shape) == 1 {
		if scale = 1. / 512; !strings.HasSuffix(name, "bias") {
			if base = 1 - f.NormOffset; strings.Contains(name, "linear_attn.norm") {
				base = 1
			}
		}
	}
	out := make([]float32, n)
	for i, h := range hashes(name, n) {
		out[i] = float32(float64(int(h)-128)*scale + base)
	}
	return out
}

// hashes returns the top bytes of splitmix64 (Steele, Lea and Flood, 2014), started from the FNV-1a hash of the name.
func hashes(name string, n int) []byte {
	seed := uint64(0xcbf29ce484222325)
	for _, b := range []byte(name) {
		seed = (seed ^ uint64(b)) * 0x100000001b3
	}
	out := make([]byte, n)
	for i := range out {
		seed += 0x9e3779b97f4a7c15
		z := (seed ^ seed>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		out[i] = byte((z ^ z>>31) >> 56)
	}
	return out
}

// byteTokenizer is a tokenizer.json of three special tokens, GPT-2's alphabet of bytes and one merged token.
func byteTokenizer() map[string]any {
	special := []string{"<pad>", "<s>", "</s>"}
	vocab, added := map[string]int{}, []map[string]any{}
	for i, s := range special {
		vocab[s] = i
		added = append(added, map[string]any{"id": i, "content": s, "special": true, "single_word": false, "lstrip": false,
			"rstrip": false, "normalized": false})
	}
	extra := rune(256)
	for b := rune(0); b < 256; b++ {
		c := b
		if b < 33 || b > 126 && b < 161 || b == 173 {
			c = extra
			extra++
		}
		vocab[string(c)] = len(special) + int(b)
	}
	vocab["Ġt"] = len(vocab)
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil, "pre_tokenizer": byteLevel,
		"post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
			"end_of_word_suffix": nil,
			"fuse_unk":           false, "byte_fallback": false, "vocab": vocab, "merges": []string{"Ġ t"}},
	}
}
