// Package testmodel is a small trained Llama model for tests, with variants of it in other formats
// and what independent implementations compute from them. See README.md.
package testmodel

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed tiny-llama.gguf
var embedded string

//go:embed heldout.txt
var heldOut string

//go:embed golden.json
var golden string

// FileName is the name under which WriteTo and Path store the model.
const FileName = "tiny-llama.gguf"

// HeldOut returns 20 kB of text of the kind the model was trained on, but not part of its training text.
func HeldOut() string { return heldOut }

// WriteTo stores the model as a GGUF file (F16 matrices, F32 vectors) in dir and returns its path.
func WriteTo(dir string) (string, error) {
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte(embedded), 0o644); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	return path, nil
}

// TB is the part of testing.TB that Path needs.
type TB interface {
	Helper()
	TempDir() string
	Fatal(args ...any)
}

// Path stores the model in the test's temporary folder and returns the path of the GGUF file.
func Path(t TB) string {
	t.Helper()
	path, err := WriteTo(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Golden holds reference results computed by golden.py.
type Golden struct {
	Texts             []Text    `json:"texts"` // for the tokenizer alone
	HeldOutTokens     int       `json:"held_out_tokens"`
	UnigramPerplexity float64   `json:"unigram_perplexity"` // of the held-out text under its own token frequencies
	Llama             Reference `json:"llama"`
	Qwen2             Reference `json:"qwen2"`
}

// Text is a text with the token ids that it becomes, special tokens recognized.
type Text struct {
	Text   string  `json:"text"`
	Tokens []int32 `json:"tokens"`
}

// Reference holds results of one architecture's model, computed in float32 from the stored weights.
type Reference struct {
	Prompts    []Prompt     `json:"prompts"` // raw text, 64 greedy tokens each
	Chat       []Prompt     `json:"chat"`    // text is the rendered chat template; greedy ends with <|im_end|>
	Perplexity []Perplexity `json:"perplexity"`
}

// Prompt is a prompt and its greedy continuation.
type Prompt struct {
	Message string   `json:"message"` // of the user, for Chat
	Text    string   `json:"text"`
	Tokens  []int32  `json:"tokens"`
	Logits  []Logits `json:"logits"`
	Greedy  []int32  `json:"greedy"`
	Output  string   `json:"output"`  // Greedy as text, without special tokens
	MinGap  float32  `json:"min_gap"` // between the best two logits, over all steps of Greedy
}

// Logits are the scores after the token at Position of a prompt: the first 16 and the index of the largest of all.
type Logits struct {
	Position int       `json:"position"`
	First    []float32 `json:"first"`
	Argmax   int32     `json:"argmax"`
}

// Perplexity is that of the held-out text by llama.cpp's definition: Chunks disjoint windows of NCtx tokens, of each the second
// half counts.
type Perplexity struct {
	NCtx   int     `json:"n_ctx"`
	Chunks int     `json:"chunks"`
	Value  float64 `json:"value"`
}

// Goldens returns the reference results.
func Goldens() (*Golden, error) {
	g := &Golden{}
	if err := json.Unmarshal([]byte(golden), g); err != nil {
		return nil, fmt.Errorf("testmodel: golden.json: %w", err)
	}
	return g, nil
}
