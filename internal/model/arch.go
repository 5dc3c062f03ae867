package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrUnsupported is wrapped by Build's error for an architecture this program cannot run.
var ErrUnsupported = errors.New("unsupported architecture")

// Arch is an architecture: what model files call it and its tensors, and how it becomes a Program.
type Arch struct {
	Name    string   // GGUF's general.architecture
	HFTypes []string // model_type in Hugging Face's config.json
	// hf are Hugging Face's names of tensors of layers that differ from hfNames'.
	hf map[string]string
	// adjacentPairs: GGUF's rows of queries and keys have neighbours as rotated pairs, Hugging Face's are half a head apart.
	adjacentPairs bool
	// normOffset is what Hugging Face's weights of norms lack.
	normOffset float32
	// gelu: the feed-forward network's activation is GELU, not SiLU.
	gelu bool
	// fused: model files join queries, keys and values to one tensor, and gate and up.
	fused bool
	// recurrent is the kind of layers that it may have beside those with attention; 0: none.
	recurrent byte
	// outputNorm is GGUF's name of the norm before the output matrix; empty: OutputNorm.
	outputNorm string
	// defaults sets hyperparameters that model files leave out; nil if there are none.
	defaults func(c *Config)
	// build appends the forward pass. has reports which optional tensors exist.
	build func(p *Program, has func(tensor string) bool)
}

// archs returns all architectures.
func archs() []*Arch {
	return []*Arch{llama(), qwen2(), qwen3(), gemma2(), gemma3(), phi3(), smollm3(), granite(), olmo2(), exaone4(), mistral3(),
		lfm2(), qwen35()}
}

// HFAct returns the activation that Hugging Face's configurations must name.
func (a *Arch) HFAct() string {
	if a.gelu {
		return "gelu_pytorch_tanh"
	}
	return "silu"
}

// Fused reports whether the architecture's files join queries, keys and values to one tensor, and gate and up.
func (a *Arch) Fused() bool { return a.fused }

// outputNorm returns the name of the norm before the output matrix.
func (p *Program) outputNorm() string {
	if p.arch != nil && p.arch.outputNorm != "" {
		return p.arch.outputNorm
	}
	return OutputNorm
}

// SetDefaults completes hyperparameters that were read from a model file.
func (a *Arch) SetDefaults(c *Config) {
	if a.defaults != nil {
		a.defaults(c)
	}
}

// ArchByName returns the architecture with GGUF's name.
func ArchByName(name string) (*Arch, error) {
	return find(fmt.Sprintf("architecture %q", name), func(a *Arch) bool { return a.Name == name })
}

// ArchByHFType returns the architecture with a model_type of Hugging Face.
func ArchByHFType(modelType string) (*Arch, error) {
	return find(fmt.Sprintf("model_type %q", modelType), func(a *Arch) bool { return slices.Contains(a.HFTypes, modelType) })
}

func find(what string, match func(*Arch) bool) (*Arch, error) {
	var known []string
	for _, a := range archs() {
		if match(a) {
			return a, nil
		}
		known = append(known, a.Name)
	}
	return nil, fmt.Errorf("%s: %w%s (known: %s)", what, ErrUnsupported, missing(what), strings.Join(known, ", "))
}

// missing says what an architecture has that no program does.
func missing(what string) string {
	for _, m := range []struct {
		has   string
		names []string
	}{
		{"mixtures of experts", []string{"moe", "mixtral", "gpt-oss", "gpt_oss"}},
		{"Gated DeltaNet layers", []string{"qwen3next", "qwen3_next", "kimi"}},
		{"Mamba layers", []string{"mamba", "granitehybrid", "nemotron_h", "falcon-h1", "falcon_h1", "jamba", "plamo2"}},
		{"per-layer embeddings", []string{"gemma4", "gemma3n"}},
	} {
		for _, name := range m.names {
			if strings.Contains(what, name) {
				return ": " + m.has + " are not supported"
			}
		}
	}
	return ""
}

// Build returns the forward pass of the model that cfg describes. has reports whether the model has a tensor of the given name;
// it is asked for optional tensors and, so that a missing one is named here and not in the middle of loading, for all required
// ones.
func Build(cfg *Config, has func(tensor string) bool) (*Program, error) {
	p, err := build(cfg, has)
	if err != nil {
		return nil, err
	}
	for _, t := range p.Tensors() {
		if !has(t.Name) {
			return nil, fmt.Errorf("architecture %s needs tensor %s, which the model lacks", cfg.Architecture, t.Name)
		}
	}
	return p, nil
}

// Tensors returns the tensors of the model that cfg describes, whether or not it has them: what Build's Program would use. has
// is asked for optional tensors.
func Tensors(cfg *Config, has func(tensor string) bool) ([]TensorSpec, error) {
	p, err := build(cfg, has)
	if err != nil {
		return nil, err
	}
	return p.Tensors(), nil
}

func build(cfg *Config, has func(tensor string) bool) (*Program, error) {
	a, err := ArchByName(cfg.Architecture)
	if err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	if err := a.checkLayers(cfg); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	p := &Program{Config: *cfg, arch: a}
	a.build(p, has)
	return p, nil
}

// checkLayers refuses kinds of layers, and hyperparameters of such, that the architecture does not have.
func (a *Arch) checkLayers(c *Config) error {
	for l := range len(c.Layers) {
		if k := c.Layers[l]; k != LayerAttention && k != a.recurrent {
			return fmt.Errorf("layers: layer %d is of kind %q, which %s does not have", l, k, a.Name)
		}
	}
	if delta := a.recurrent == LayerDelta; delta != (c.DeltaValueHeads > 0) || a.recurrent == 0 && c.ConvKernel > 0 {
		return fmt.Errorf("delta_value_heads is %d and conv_kernel is %d, which does not fit %s", c.DeltaValueHeads, c.ConvKernel,
			a.Name)
	}
	return nil
}
