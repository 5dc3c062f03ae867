package model

import (
	"fmt"
	"math"
	"strings"
)

// Bounds of what Build accepts. Everything that a backend allocates is a product of these.
const (
	MaxLayers = 1 << 10
	MaxKernel = 16 // positions of a convolution
	maxVocab  = 1 << 20
	maxEmbd   = 1 << 16
	maxHeads  = 1 << 10
	maxDim    = 1 << 10 // of one head
	maxFF     = 1 << 17
	maxCtx    = 1 << 24
	maxFactor = 1e9
)

// Validate checks that every hyperparameter is set and within bounds.
func (c *Config) Validate() error {
	for _, f := range []struct {
		name     string
		n, limit int
	}{
		{"n_vocab", c.NVocab, maxVocab}, {"n_embd", c.NEmbd, maxEmbd}, {"n_layers", c.NLayers, MaxLayers},
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
	return c.validateOptional()
}

// validateOptional checks the hyperparameters that may be 0.
func (c *Config) validateOptional() error {
	for _, f := range []struct {
		name     string
		n, limit int
	}{
		{"window", c.Window, maxCtx}, {"full_every", c.FullEvery, MaxLayers}, {"no_rope_every", c.NoRopeEvery, MaxLayers},
		{"rope_ctx", c.RopeCtx, maxCtx},
	} {
		if f.n < 0 || f.n > f.limit {
			return fmt.Errorf("%s is %d, expected 0 (none) to %d", f.name, f.n, f.limit)
		}
	}
	for _, f := range []struct {
		name string
		x    float32
	}{
		{"attn_scale", c.AttnScale}, {"attn_soft_cap", c.AttnSoftCap}, {"logit_soft_cap", c.LogitSoftCap},
		{"embed_scale", c.EmbedScale},
		{"residual_scale", c.ResidualScale}, {"logit_scale", c.LogitScale}, {"rope_base_local", c.RopeBaseLocal},
		{"rope_gain", c.RopeGain},
		{"yarn_factor", c.YarnFactor}, {"yarn_fast", c.YarnFast}, {"yarn_slow", c.YarnSlow}, {"temperature", c.Temperature},
	} {
		if !(f.x >= 0 && f.x <= maxFactor) {
			return fmt.Errorf("%s is %g, expected 0 (none) to %g", f.name, f.x, float32(maxFactor))
		}
	}
	if err := c.validateLayers(); err != nil {
		return err
	}
	if c.YarnFactor > 0 && (c.RopeCtx < 1 || c.YarnFast <= 0 || c.YarnSlow <= 0 || c.RopeBase <= 1) {
		return fmt.Errorf("yarn needs rope_ctx, yarn_fast and yarn_slow, got %d, %g, %g", c.RopeCtx, c.YarnFast, c.YarnSlow)
	}
	if c.Temperature > 0 && c.RopeCtx < 1 {
		return fmt.Errorf("temperature needs rope_ctx, got %d", c.RopeCtx)
	}
	return nil
}

// validateLayers checks the kinds of layers and what they need.
func (c *Config) validateLayers() error {
	if c.Layers == "" && c.ConvKernel == 0 && c.DeltaValueHeads == 0 {
		return nil
	}
	if c.Layers != "" && len(c.Layers) != c.NLayers {
		return fmt.Errorf("layers lists %d layers, expected n_layers (%d)", len(c.Layers), c.NLayers)
	}
	for l := range len(c.Layers) {
		if k := c.Layers[l]; k != LayerAttention && k != LayerConv && k != LayerDelta {
			return fmt.Errorf("layers: layer %d is of kind %q, expected %q, %q or %q", l, k, LayerAttention, LayerConv, LayerDelta)
		}
	}
	if strings.IndexByte(c.Layers, LayerDelta) >= 0 || c.DeltaValueHeads != 0 {
		for _, f := range []struct {
			name     string
			n, limit int
		}{
			{"delta_key_heads", c.DeltaKeyHeads, maxHeads}, {"delta_value_heads", c.DeltaValueHeads, maxHeads},
			{"delta_key_dim", c.DeltaKeyDim, maxDim}, {"delta_value_dim", c.DeltaValueDim, maxDim},
		} {
			if f.n < 1 || f.n > f.limit {
				return fmt.Errorf("%s is %d, expected 1 to %d", f.name, f.n, f.limit)
			}
		}
		if c.DeltaValueHeads%c.DeltaKeyHeads != 0 || c.stateWidth(BufMix) > maxFF {
			return fmt.Errorf("delta rule with %d value heads of %d dimensions and %d key heads of %d, expected a multiple and at "+
				"most %d dimensions together", c.DeltaValueHeads, c.DeltaValueDim, c.DeltaKeyHeads, c.DeltaKeyDim, maxFF)
		}
	}
	if c.ConvKernel < 2 || c.ConvKernel > MaxKernel {
		return fmt.Errorf("conv_kernel is %d, expected 2 to %d", c.ConvKernel, MaxKernel)
	}
	return nil
}
