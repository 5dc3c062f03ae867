package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

const (
	adapterConfig  = "adapter_config.json"
	adapterWeights = "adapter_model.safetensors"

	maxPatterns = 4096 // of ranks and alphas by module, in one adapter
)

// loraConfig is the part of PEFT's adapter_config.json that decides what an adapter does to weights.
type loraConfig struct {
	Type         string             `json:"peft_type"`
	Rank         int                `json:"r"`
	Alpha        float64            `json:"lora_alpha"`
	RankPattern  map[string]int     `json:"rank_pattern"`
	AlphaPattern map[string]float64 `json:"alpha_pattern"`
	RSLoRA       bool               `json:"use_rslora"`
	DoRA         bool               `json:"use_dora"`
	Init         json.RawMessage    `json:"init_lora_weights"`

	patterns []*regexp.Regexp // of both maps, with their keys beside
	keys     []string
}

// refusedLoRA are the options with which an adapter is more than a sum of two weights, by what they are.
var refusedLoRA = map[string]string{
	"trainable_token_indices": "trained rows of the embedding",
	"target_parameters":       "parameters that are not matrices of layers",
	"layer_replication":       "repeated layers",
	"alora_invocation_tokens": "an adapter that acts after some tokens only",
	"use_qalora":              "QALoRA",
	"use_bdlora":              "block-diagonal LoRA",
	"lora_bias":               "biases of the adapter's matrices",
	"arrow_config":            "a choice between adapters",
	"kasa_config":             "KaSA",
	"monteclora_config":       "MonteCLoRA",
	"velora_config":           "VeLoRA",
}

// readLoRAConfig reads dir/adapter_config.json and refuses adapters that cannot be merged exactly.
//
// fan_in_fan_out does not matter: it is about layers that store weights transposed, which no model here has.
func readLoRAConfig(dir string) (*loraConfig, error) {
	path := filepath.Join(dir, adapterConfig)
	b, err := infile.ReadAll(path, maxConfigSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (expected a directory with %s and %s, as PEFT saves adapters)", err, adapterConfig, adapterWeights)
	}
	if err != nil {
		return nil, err
	}
	c, err := parseLoRAConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func parseLoRAConfig(b []byte) (*loraConfig, error) {
	c, raw := &loraConfig{Rank: 8, Alpha: 8}, map[string]json.RawMessage{}
	if err := errors.Join(infile.DecodeJSON(b, c), infile.DecodeJSON(b, &raw)); err != nil {
		return nil, err
	}
	for option, what := range refusedLoRA {
		if v := string(raw[option]); !slices.Contains([]string{"", "null", "false", "[]", "{}"}, v) {
			return nil, fmt.Errorf("%s is %.80s: %s cannot be merged here (merge it with PEFT's merge_and_unload, and compress the "+
				"result)", option, v, what)
		}
	}
	return c, c.check()
}

func (c *loraConfig) check() error {
	var init string
	_ = json.Unmarshal(c.Init, &init) // true and false are ordinary
	init, _, _ = strings.Cut(strings.ToLower(init), "_")
	switch {
	case c.Type != "LORA":
		return fmt.Errorf("peft_type is %q, supported is LORA", c.Type)
	case slices.Contains([]string{"pissa", "olora", "corda", "loftq", "lora-ga"}, init):
		return fmt.Errorf("init_lora_weights is %q: such an adapter changed the base model, too (save it with PEFT as an ordinary one)",
			init)
	case c.Rank < 1 || math.IsNaN(c.Alpha) || math.IsInf(c.Alpha, 0):
		return fmt.Errorf("r is %d and lora_alpha %g, expected a positive rank and a number", c.Rank, c.Alpha)
	case len(c.RankPattern)+len(c.AlphaPattern) > maxPatterns:
		return fmt.Errorf("%d patterns of ranks and alphas, at most %d are supported", len(c.RankPattern)+len(c.AlphaPattern),
			maxPatterns)
	}
	for key := range c.RankPattern {
		c.keys = append(c.keys, key)
	}
	for key := range c.AlphaPattern {
		if _, both := c.RankPattern[key]; !both {
			c.keys = append(c.keys, key)
		}
	}
	slices.Sort(c.keys)
	for _, key := range c.keys {
		re, err := regexp.Compile(`^(.*\.)?(` + key + `)$`)
		if err != nil || len(key) > 1<<10 {
			return fmt.Errorf("rank_pattern or alpha_pattern %.80q is not the name of a module or a regular expression of such", key)
		}
		c.patterns = append(c.patterns, re)
	}
	return nil
}

// forModule returns the rank of a module's adapter and what its product is multiplied by (Hu et al., "LoRA", 2021, section 4.1;
// with the square root: Kalajdzievski, "A Rank Stabilization Scaling Factor", 2023).
func (c *loraConfig) forModule(name string) (rank int, scale float64, err error) {
	rank, alpha, hasRank, hasAlpha := c.Rank, c.Alpha, false, false
	for i, re := range c.patterns {
		if !re.MatchString(name) {
			continue
		}
		if r, ok := c.RankPattern[c.keys[i]]; ok {
			if hasRank && r != rank {
				return 0, 0, fmt.Errorf("several keys of rank_pattern match %s", name)
			}
			rank, hasRank = r, true
		}
		if a, ok := c.AlphaPattern[c.keys[i]]; ok {
			if hasAlpha && a != alpha {
				return 0, 0, fmt.Errorf("several keys of alpha_pattern match %s", name)
			}
			alpha, hasAlpha = a, true
		}
	}
	if rank < 1 {
		return 0, 0, fmt.Errorf("rank_pattern gives %s the rank %d", name, rank)
	}
	if c.RSLoRA {
		return rank, alpha / math.Sqrt(float64(rank)), nil
	}
	return rank, alpha / float64(rank), nil
}

// loraModule is what an adapter has for one module of the model. Its matrix W becomes W + scale·B·A, for embeddings
// W + scale·(B·A)ᵀ. With magnitudes (DoRA: Liu et al., "Weight-Decomposed Low-Rank Adaptation", 2024, equation 5)
// row r of the sum is brought to the length magnitude[r]; a row of zeros has no direction and can keep the length 0 only.
type loraModule struct {
	name      string              // Hugging Face's, without ".weight"
	a, b      *safetensors.Tensor // nil: the adapter adds nothing
	magnitude *safetensors.Tensor // nil: none
	embedding bool                // A is rank × rows and B columns × rank, instead of rank × columns and rows × rank
	rank      int
	scale     float32

	weight, bias *safetensors.Tensor // replace the model's; nil: none
}

// adapter is one LoRA adapter.
type adapter struct {
	dir     string
	weights *safetensors.Model
	modules map[string]*loraModule // by name
}

// openAdapter opens the adapter in dir; scale multiplies what it adds.
func openAdapter(dir string, scale float64) (*adapter, error) {
	c, err := readLoRAConfig(dir)
	if err != nil {
		return nil, err
	}
	weights, err := safetensors.Open(filepath.Join(dir, adapterWeights))
	if err != nil {
		if _, bin := os.Stat(filepath.Join(dir, "adapter_model.bin")); errors.Is(err, os.ErrNotExist) && bin == nil {
			err = fmt.Errorf("%w (adapter_model.bin is a PyTorch checkpoint, which is not supported: save the adapter as safetensors)",
				err)
		}
		return nil, err
	}
	x, err := newAdapter(dir, c, weights, scale)
	if err != nil {
		weights.Close()
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, adapterWeights), err)
	}
	return x, nil
}

// newAdapter finds the modules of an adapter. It closes nothing.
func newAdapter(dir string, c *loraConfig, weights *safetensors.Model, scale float64) (*adapter, error) {
	x := &adapter{dir: dir, weights: weights, modules: map[string]*loraModule{}}
	for i := range weights.Tensors {
		if err := x.take(&weights.Tensors[i]); err != nil {
			return nil, err
		}
	}
	if len(x.modules) == 0 {
		return nil, errors.New("there are no tensors in it")
	}
	for _, m := range x.modules {
		if err := m.check(c, scale); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// take finds out which part of which module a tensor is.
func (x *adapter) take(t *safetensors.Tensor) error {
	module, part := strings.TrimPrefix(t.Name, "base_model.model."), ""
	for _, kind := range []string{".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector"} {
		// what follows is ".weight", the name of the adapter, or both
		name, rest, found := strings.Cut(module, kind)
		if found && (rest == "" || rest[0] == '.') && !strings.HasSuffix(rest, ".bias") {
			module, part = name, kind
			break
		}
	}
	for _, kind := range []string{".weight", ".bias"} {
		if name, found := strings.CutSuffix(module, kind); found && part == "" && !strings.Contains(name, ".lora_") {
			module, part = strings.TrimSuffix(strings.TrimSuffix(name, ".base_layer"), ".modules_to_save"), kind
		}
	}
	m := x.modules[module]
	if m == nil {
		m = &loraModule{name: module}
	}
	place := map[string]**safetensors.Tensor{".lora_A": &m.a, ".lora_B": &m.b, ".lora_embedding_A": &m.a, ".lora_embedding_B": &m.b,
		".lora_magnitude_vector": &m.magnitude, ".weight": &m.weight, ".bias": &m.bias}[part]
	if place == nil {
		return fmt.Errorf("tensor %s is not part of a LoRA adapter that this program knows (lora_A, lora_B, lora_embedding_A, "+
			"lora_embedding_B, lora_magnitude_vector, weight, bias)", t.Name)
	}
	if *place != nil {
		return fmt.Errorf("tensors %s and %s are the same part of an adapter", (*place).Name, t.Name)
	}
	*place, x.modules[module] = t, m
	m.embedding = m.embedding || strings.HasPrefix(part, ".lora_embedding")
	return nil
}

// check checks that the module's parts fit each other, and computes its scale.
func (m *loraModule) check(c *loraConfig, scale float64) error {
	for _, t := range []*safetensors.Tensor{m.a, m.b, m.magnitude, m.weight, m.bias} {
		if t == nil {
			continue
		}
		if _, err := elementType(t.DType); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
	}
	if m.a == nil && m.b == nil && m.magnitude == nil {
		return nil
	}
	if m.a == nil || m.b == nil {
		return fmt.Errorf("module %s: lora_A or lora_B is missing", m.name)
	}
	rank, s, err := c.forModule(m.name)
	if err != nil {
		return err
	}
	m.rank, m.scale = rank, float32(s*scale)
	if m.scale-m.scale != 0 {
		return fmt.Errorf("module %s: rank, lora_alpha and scale multiply what it adds by %g, expected at most 3.4e38", m.name, s*scale)
	}
	a, b := m.a.Shape, m.b.Shape
	switch {
	case len(a) != 2 || len(b) != 2 || a[0] != rank || b[1] != rank:
		return fmt.Errorf("module %s: lora_A has shape %v and lora_B %v, expected [%d …] and [… %[4]d] for a rank of %[4]d", m.name,
			a, b, rank)
	case (m.magnitude != nil) != c.DoRA:
		return fmt.Errorf("module %s: use_dora is %v, but the tensors say otherwise (lora_magnitude_vector)", m.name, c.DoRA)
	case c.DoRA && m.embedding:
		return fmt.Errorf("module %s: DoRA of embeddings is not supported", m.name)
	}
	return nil
}
