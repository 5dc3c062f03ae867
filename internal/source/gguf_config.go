package source

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// ggufConfig reads the hyperparameters. nVocab is the number of rows of the embedding.
func ggufConfig(m *gguf.Metadata, arch string, nVocab int) (*model.Config, error) {
	c := &model.Config{Architecture: arch, NVocab: nVocab}
	var errs []error
	integer := func(to *int, key string) {
		var err error
		*to, err = m.Int(arch + "." + key)
		errs = append(errs, err)
	}
	integerOr := func(key string, def int) int {
		n, err := m.IntOr(arch+"."+key, def)
		errs = append(errs, err)
		return n
	}
	float := func(to *float32, key string, def *float64) {
		x, err := m.Float(arch + "." + key)
		if def != nil && errors.Is(err, gguf.ErrMissing) {
			x, err = *def, nil
		}
		*to = float32(x)
		errs = append(errs, err)
	}
	var err error
	c.Name, err = m.StringOr("general.name", "")
	errs = append(errs, err)
	integer(&c.NEmbd, "embedding_length")
	integer(&c.NLayers, "block_count")
	integer(&c.NHeads, "attention.head_count")
	integer(&c.NFF, "feed_forward_length")
	integer(&c.NCtx, "context_length")
	errs = append(errs, ggufKVHeads(m, c))
	c.HeadDim = integerOr("attention.key_length", c.NEmbd/max(c.NHeads, 1))
	if n := integerOr("attention.value_length", c.HeadDim); n != c.HeadDim {
		errs = append(errs, fmt.Errorf("%s.attention.value_length is %d, expected the same as key_length (%d)", arch, n, c.HeadDim))
	}
	c.RopeDim = integerOr("rope.dimension_count", c.HeadDim)
	if n := integerOr("expert_count", 0); n > 0 {
		errs = append(errs, fmt.Errorf("%s.expert_count is %d: mixtures of experts are not supported", arch, n))
	}
	ropeBase := 10000.0
	float(&c.NormEps, "attention.layer_norm_rms_epsilon", nil)
	float(&c.RopeBase, "rope.freq_base", &ropeBase)
	for _, k := range optionalKeys(c) {
		errs = append(errs, k.read(m, arch))
	}
	errs = append(errs, ggufRopeScaling(m, c), ggufDelta(m, c))
	if err = errors.Join(errs...); err != nil {
		return nil, err
	}
	a, err := model.ArchByName(arch)
	if err != nil {
		return nil, err
	}
	a.SetDefaults(c)
	return c, c.Validate()
}

// ggufKVHeads reads the number of key heads: one, or one per layer, of which 0 stands for a layer without attention.
func ggufKVHeads(m *gguf.Metadata, c *model.Config) (err error) {
	key := c.Architecture + ".attention.head_count_kv"
	if c.NKVHeads, err = m.IntOr(key, c.NHeads); err == nil {
		return nil
	}
	heads, arrayErr := m.Int32s(key)
	if arrayErr != nil {
		return err
	}
	kinds := make([]byte, len(heads))
	c.NKVHeads = 0
	for l, n := range heads {
		kinds[l] = model.LayerAttention
		switch {
		case n == 0:
			kinds[l] = model.LayerConv
		case c.NKVHeads == 0:
			c.NKVHeads = int(n)
		case int(n) != c.NKVHeads:
			return fmt.Errorf("%s: layer %d has %d heads and others %d, expected the same number or 0", key, l, n, c.NKVHeads)
		}
	}
	c.Layers = string(kinds)
	return nil
}

// kvHeads returns what ggufKVHeads reads.
func kvHeads(c *model.Config) any {
	if strings.IndexByte(c.Layers, model.LayerConv) < 0 {
		return uint32(c.NKVHeads)
	}
	heads := make([]int32, len(c.Layers))
	for l := range heads {
		if c.Layers[l] == model.LayerAttention {
			heads[l] = int32(c.NKVHeads)
		}
	}
	return heads
}

// optionalKey is a hyperparameter that not all models have, as GGUF calls it after the architecture's name.
type optionalKey struct {
	name string
	i    *int
	f    *float32
}

// optionalKeys lists those of c. Both readers' configurations are written to GGUF files by it.
func optionalKeys(c *model.Config) []optionalKey {
	return []optionalKey{
		{name: "attention.sliding_window", i: &c.Window},
		{name: "attention.sliding_window_pattern", i: &c.FullEvery},
		{name: "rope.freq_base_swa", f: &c.RopeBaseLocal},
		{name: "attention.scale", f: &c.AttnScale},
		{name: "attn_logit_softcapping", f: &c.AttnSoftCap},
		{name: "final_logit_softcapping", f: &c.LogitSoftCap},
		{name: "embedding_scale", f: &c.EmbedScale},
		{name: "residual_scale", f: &c.ResidualScale},
		{name: "logit_scale", f: &c.LogitScale},
		{name: "rope.scaling.original_context_length", i: &c.RopeCtx},
		{name: "rope.scaling.attn_factor", f: &c.RopeGain},
		{name: "attention.temperature_scale", f: &c.Temperature},
		{name: convKernelKey(c.Architecture), i: &c.ConvKernel},
		{name: "ssm.state_size", i: &c.DeltaKeyDim},
		{name: "ssm.group_count", i: &c.DeltaKeyHeads},
		{name: "ssm.time_step_rank", i: &c.DeltaValueHeads},
	}
}

// read sets the hyperparameter, if m has it.
func (k *optionalKey) read(m *gguf.Metadata, arch string) (err error) {
	key := arch + "." + k.name
	if k.i != nil {
		*k.i, err = m.IntOr(key, 0)
		return err
	}
	x, err := m.FloatOr(key, 0)
	*k.f = float32(x)
	return err
}

// write stores the hyperparameter, unless it is 0.
func (k *optionalKey) write(m *gguf.Metadata, arch string) {
	switch key := arch + "." + k.name; {
	case k.i != nil && *k.i != 0:
		m.Set(key, uint32(*k.i))
	case k.f != nil && *k.f != 0:
		m.Set(key, *k.f)
	}
}

// ggufRopeScaling reads how rotation is extended beyond the original context.
func ggufRopeScaling(m *gguf.Metadata, c *model.Config) error {
	p := c.Architecture + ".rope."
	old, err := m.FloatOr(p+"scale_linear", 0) // before rope.scaling.* existed
	if err != nil {
		return err
	}
	factor, err := m.FloatOr(p+"scaling.factor", old)
	if err != nil {
		return err
	}
	switch kind, err := m.StringOr(p+"scaling.type", "linear"); {
	case err != nil:
		return err
	case kind == "linear":
		c.RopeScale = float32(factor)
		return nil
	case kind == "none" || kind == "longrope": // the latter's factors are tensors
		return nil
	case kind == "yarn":
		return ggufYarn(m, c, factor)
	default:
		return fmt.Errorf("%sscaling.type %q is not supported (supported: none, linear, yarn, longrope)", p, kind)
	}
}

// ggufYarn reads YaRN's parameters. Rotated vectors grow with the factor unless a multiplier of its logarithm says otherwise.
func ggufYarn(m *gguf.Metadata, c *model.Config, factor float64) error {
	p := c.Architecture + ".rope.scaling.yarn_"
	fast, err1 := m.FloatOr(p+"beta_fast", 32)
	slow, err2 := m.FloatOr(p+"beta_slow", 1)
	multiplier, err3 := m.FloatOr(p+"log_multiplier", 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if !(factor > 0) || c.RopeCtx < 1 {
		return fmt.Errorf("%s.rope.scaling.type yarn needs rope.scaling.factor and rope.scaling.original_context_length, "+
			"got %g, %d", c.Architecture, factor, c.RopeCtx)
	}
	c.YarnFactor, c.YarnFast, c.YarnSlow = float32(factor), float32(fast), float32(slow)
	gain := yarnGain(factor, 1) / yarnGain(factor, multiplier)
	if c.RopeGain != 0 { // attn_factor
		gain *= c.RopeGain
	}
	c.RopeGain = gain
	return nil
}

// yarnMultiplier returns the multiplier from which ggufYarn finds c's RopeGain; 0: none.
func yarnMultiplier(c *model.Config) float32 {
	whole := yarnGain(float64(c.YarnFactor), 1)
	if c.RopeGain == 0 || c.RopeGain == whole || whole <= 1 {
		return 0
	}
	return (whole/c.RopeGain - 1) / (whole - 1)
}

// yarnGain returns by what YaRN scales rotated vectors: 1 + 0.1·m·ln(factor).
func yarnGain(factor, m float64) float32 {
	if factor <= 1 {
		return 1
	}
	return float32(1 + 0.1*m*math.Log(factor))
}

// configMetadata writes a configuration as GGUF metadata, for sources that have none. The vocabulary is not part of it.
func configMetadata(c *model.Config, chatTemplate string) *gguf.Metadata {
	m, p := &gguf.Metadata{}, c.Architecture+"."
	m.Set("general.architecture", c.Architecture)
	m.Set("general.type", "model")
	if c.Name != "" {
		m.Set("general.name", c.Name)
	}
	m.Set(p+"vocab_size", uint32(c.NVocab))
	m.Set(p+"context_length", uint32(c.NCtx))
	m.Set(p+"embedding_length", uint32(c.NEmbd))
	m.Set(p+"block_count", uint32(c.NLayers))
	m.Set(p+"feed_forward_length", uint32(c.NFF))
	m.Set(p+"attention.head_count", uint32(c.NHeads))
	m.Set(p+"attention.head_count_kv", kvHeads(c))
	m.Set(p+"attention.key_length", uint32(c.HeadDim))
	m.Set(p+"attention.value_length", uint32(c.HeadDim))
	m.Set(p+"attention.layer_norm_rms_epsilon", c.NormEps)
	m.Set(p+"rope.dimension_count", uint32(c.RopeDim))
	m.Set(p+"rope.freq_base", c.RopeBase)
	for _, k := range optionalKeys(c) {
		if k.f != &c.RopeGain || c.YarnFactor == 0 { // with YaRN it follows from other keys
			k.write(m, c.Architecture)
		}
	}
	switch {
	case c.RopeScale != 0:
		m.Set(p+"rope.scaling.type", "linear")
		m.Set(p+"rope.scaling.factor", c.RopeScale)
	case c.YarnFactor != 0:
		m.Set(p+"rope.scaling.type", "yarn")
		m.Set(p+"rope.scaling.factor", c.YarnFactor)
		m.Set(p+"rope.scaling.yarn_beta_fast", c.YarnFast)
		m.Set(p+"rope.scaling.yarn_beta_slow", c.YarnSlow)
		if k := yarnMultiplier(c); k != 0 {
			m.Set(p+"rope.scaling.yarn_log_multiplier", k)
		}
	}
	writeDelta(m, c)
	if chatTemplate != "" {
		m.Set(keyChatTemplate, chatTemplate)
	}
	return m
}
