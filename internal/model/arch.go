package model

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
)

// ErrUnsupported is wrapped by Build's error for an architecture this program cannot run.
var ErrUnsupported = errors.New("unsupported architecture")

// Bounds of what Build accepts. Everything that a backend allocates is a product of these.
const (
	maxVocab  = 1 << 20
	maxEmbd   = 1 << 16
	maxLayers = 1 << 10
	maxHeads  = 1 << 10
	maxDim    = 1 << 10 // of one head
	maxFF     = 1 << 17
	maxCtx    = 1 << 24
)

// Names of tensors outside the layers, as in GGUF.
const (
	tokenEmbd  = "token_embd.weight"
	outputNorm = "output_norm.weight"
	output     = "output.weight"
	ropeFreqs  = "rope_freqs.weight"
)

// arch writes an architecture's forward pass into p. has reports which optional tensors exist.
type arch func(p *Program, has func(tensor string) bool)

// archOf returns the architecture with GGUF's name.
func archOf(name string) (arch, error) {
	archs := map[string]arch{"llama": llama, "qwen2": qwen2}
	if a, ok := archs[name]; ok {
		return a, nil
	}
	known := make([]string, 0, len(archs))
	for n := range archs {
		known = append(known, n)
	}
	sort.Strings(known)
	return nil, fmt.Errorf("%w %q (known: %s)", ErrUnsupported, name, strings.Join(known, ", "))
}

// Build returns the forward pass of the model that cfg describes. has reports whether the model has a tensor of the given name;
// it is asked for optional tensors and, so that a missing one is named here and not in the middle of loading, for all required ones.
func Build(cfg *Config, has func(tensor string) bool) (*Program, error) {
	a, err := archOf(cfg.Architecture)
	if err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	p := &Program{Config: *cfg}
	a(p, has)
	for _, n := range p.Nodes {
		for _, name := range []string{n.Weight, n.Bias} {
			if name != "" && !has(name) {
				return nil, fmt.Errorf("architecture %s needs tensor %s, which the model lacks", cfg.Architecture, name)
			}
		}
	}
	return p, nil
}

// Validate checks that every hyperparameter is set and within bounds.
func (c *Config) Validate() error {
	for _, f := range []struct {
		name     string
		n, limit int
	}{
		{"n_vocab", c.NVocab, maxVocab}, {"n_embd", c.NEmbd, maxEmbd}, {"n_layers", c.NLayers, maxLayers},
		{"n_heads", c.NHeads, maxHeads}, {"n_kv_heads", c.NKVHeads, maxHeads}, {"head_dim", c.HeadDim, maxDim},
		{"n_ff", c.NFF, maxFF}, {"n_ctx", c.NCtx, maxCtx}, {"rope_dim", c.RopeDim, maxDim},
	} {
		if f.n < 1 || f.n > f.limit {
			return fmt.Errorf("%s is %d, expected 1 to %d", f.name, f.n, f.limit)
		}
	}
	switch {
	case c.NHeads%c.NKVHeads != 0:
		return fmt.Errorf("n_heads is %d, expected a multiple of n_kv_heads (%d)", c.NHeads, c.NKVHeads)
	case c.NHeads*c.HeadDim > maxEmbd:
		return fmt.Errorf("%d heads of %d dimensions, expected at most %d together", c.NHeads, c.HeadDim, maxEmbd)
	case c.RopeDim > c.HeadDim || c.RopeDim%2 != 0:
		return fmt.Errorf("rope_dim is %d, expected an even number up to head_dim (%d)", c.RopeDim, c.HeadDim)
	case !(c.NormEps >= 0 && c.NormEps < 1):
		return fmt.Errorf("norm_eps is %g, expected 0 to 1", c.NormEps)
	case !(c.RopeBase >= 1 && c.RopeBase <= math.MaxFloat32):
		return fmt.Errorf("rope_base is %g, expected at least 1", c.RopeBase)
	case !(c.RopeScale >= 0 && c.RopeScale <= maxCtx):
		return fmt.Errorf("rope_scale is %g, expected 0 (none) or more", c.RopeScale)
	}
	return nil
}

// decoder appends the pre-norm decoder that both Llama and Qwen2 are: RMSNorm, grouped-query attention with rotary positions,
// and a gated feed-forward network (SwiGLU) per layer. qkvBias adds biases to queries, keys and values.
func (p *Program) decoder(qkvBias bool, has func(tensor string) bool) {
	p.add(Node{Op: OpEmbed, Layer: -1, Dst: BufX, Weight: tokenEmbd})
	for l := range p.Config.NLayers {
		p.attention(l, qkvBias)
		p.feedForward(l)
	}
	head := output
	if !has(output) {
		head = tokenEmbd
	}
	p.add(
		Node{Op: OpRMSNorm, Layer: -1, Dst: BufNorm, A: BufX, Weight: outputNorm, Last: true},
		Node{Op: OpMatMul, Layer: -1, Dst: BufLogits, A: BufNorm, Weight: head, Last: true},
	)
}

func (p *Program) attention(l int, qkvBias bool) {
	last := l == p.Config.NLayers-1 // behind the last cache only the tokens with logits matter
	qkv := func(dst Buffer, name string, last bool) Node {
		n := Node{Op: OpMatMul, Layer: l, Dst: dst, A: BufNorm, Weight: tensor(l, name+".weight"), Last: last}
		if qkvBias {
			n.Bias = tensor(l, name+".bias")
		}
		return n
	}
	p.add(
		Node{Op: OpRMSNorm, Layer: l, Dst: BufNorm, A: BufX, Weight: tensor(l, "attn_norm.weight")},
		qkv(BufQ, "attn_q", last),
		qkv(BufK, "attn_k", false),
		qkv(BufV, "attn_v", false),
		Node{Op: OpRoPE, Layer: l, Dst: BufQ, Last: last},
		Node{Op: OpRoPE, Layer: l, Dst: BufK},
		Node{Op: OpAttention, Layer: l, Dst: BufAttn, A: BufQ, B: BufK, C: BufV, Last: last},
		Node{Op: OpMatMul, Layer: l, Dst: BufProj, A: BufAttn, Weight: tensor(l, "attn_output.weight"), Last: last},
		Node{Op: OpAdd, Layer: l, Dst: BufX, A: BufProj, Last: last},
	)
}

func (p *Program) feedForward(l int) {
	last := l == p.Config.NLayers-1
	matmul := func(dst, a Buffer, name string) Node {
		return Node{Op: OpMatMul, Layer: l, Dst: dst, A: a, Weight: tensor(l, name+".weight"), Last: last}
	}
	p.add(
		Node{Op: OpRMSNorm, Layer: l, Dst: BufNorm, A: BufX, Weight: tensor(l, "ffn_norm.weight"), Last: last},
		matmul(BufGate, BufNorm, "ffn_gate"),
		matmul(BufUp, BufNorm, "ffn_up"),
		Node{Op: OpSwiGLU, Layer: l, Dst: BufGate, A: BufGate, B: BufUp, Last: last},
		matmul(BufProj, BufGate, "ffn_down"),
		Node{Op: OpAdd, Layer: l, Dst: BufX, A: BufProj, Last: last},
	)
}

func (p *Program) add(nodes ...Node) { p.Nodes = append(p.Nodes, nodes...) }

// tensor returns the GGUF name of a tensor of layer l.
func tensor(l int, name string) string { return fmt.Sprintf("blk.%d.%s", l, name) }
