package source

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// hfRope describes the rotation frequencies of all layers, or of the layers of each type.
type hfRope struct {
	Type           string    `json:"rope_type"`
	OldType        string    `json:"type"`
	Theta          float64   `json:"rope_theta"`
	Share          float64   `json:"partial_rotary_factor"`
	Factor         float64   `json:"factor"`
	LowFreqFactor  float64   `json:"low_freq_factor"`
	HighFreqFactor float64   `json:"high_freq_factor"`
	OriginalLength float64   `json:"original_max_position_embeddings"`
	Gain           float64   `json:"attention_factor"`
	Fast           float64   `json:"beta_fast"`
	Slow           float64   `json:"beta_slow"`
	MScale         float64   `json:"mscale"`
	MScaleAll      float64   `json:"mscale_all_dim"`
	Temperature    float64   `json:"llama_4_scaling_beta"`
	Long           []float32 `json:"long_factor"`
	Short          []float32 `json:"short_factor"`
	FullLayers     *hfRope   `json:"full_attention"`
	WindowLayers   *hfRope   `json:"sliding_attention"`
}

// scaleRope sets c's rotation hyperparameters, and returns the divisors of its frequencies that are tensors in GGUF.
func (h *hfConfig) scaleRope(c *model.Config) (map[string][]float32, error) {
	r := h.RopeScaling
	if h.RopeParameters != nil {
		r = h.RopeParameters
	}
	if r == nil {
		r = &hfRope{}
	}
	if r.WindowLayers != nil && r.WindowLayers.Theta != 0 {
		c.RopeBaseLocal = float32(r.WindowLayers.Theta)
	}
	if r.FullLayers != nil {
		r = r.FullLayers
	}
	c.RopeBase = float32(max(h.RopeTheta, r.Theta))
	if r.Theta != 0 {
		c.RopeBase = float32(r.Theta)
	}
	if c.RopeBase == 0 {
		c.RopeBase = 10000
	}
	if share := max(r.Share, h.RopeShare); share > 0 {
		c.RopeDim = int(share * float64(c.HeadDim))
	}
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	switch kind {
	case "", "default", "none":
		return nil, nil
	case "linear":
		if !(r.Factor > 0) {
			return nil, fmt.Errorf("rope_scaling factor is %g, expected more than 0", r.Factor)
		}
		c.RopeScale = float32(r.Factor)
		return nil, nil
	case "llama3":
		return r.llama3(c)
	case "yarn":
		return nil, r.yarn(c)
	case "longrope", "su":
		return h.longRope(r, c)
	}
	return nil, fmt.Errorf("rope_scaling of type %q is not supported (supported: linear, llama3, longrope, yarn)", kind)
}

func (r *hfRope) llama3(c *model.Config) (map[string][]float32, error) {
	if !(r.Factor > 0 && r.LowFreqFactor > 0 && r.HighFreqFactor > r.LowFreqFactor && r.OriginalLength > 0) {
		return nil, fmt.Errorf("rope_scaling of type llama3 needs factor, low_freq_factor < high_freq_factor and "+
			"original_max_position_embeddings, "+
			"got %g, %g, %g, %g", r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalLength)
	}
	if err := c.Validate(); err != nil { // RopeDim is about to be trusted
		return nil, err
	}
	l, rope := model.Llama3{Factor: r.Factor, LowFreq: r.LowFreqFactor, HighFreq: r.HighFreqFactor, Ctx: r.OriginalLength},
		c.Rope(false)
	return map[string][]float32{model.RopeFreqs: l.Divisors(&rope)}, nil
}

func (r *hfRope) yarn(c *model.Config) error {
	if !(r.Factor > 0 && r.OriginalLength >= 1) {
		return fmt.Errorf("rope_scaling of type yarn needs factor and original_max_position_embeddings, got %g, %g", r.Factor,
			r.OriginalLength)
	}
	c.RopeCtx, c.YarnFactor, c.YarnFast, c.YarnSlow = int(r.OriginalLength), float32(r.Factor), 32, 1
	c.Temperature = float32(r.Temperature)
	if r.Fast > 0 {
		c.YarnFast = float32(r.Fast)
	}
	if r.Slow > 0 {
		c.YarnSlow = float32(r.Slow)
	}
	switch {
	case r.Gain > 0:
		c.RopeGain = float32(r.Gain)
	case r.MScale > 0 && r.MScaleAll > 0:
		c.RopeGain = yarnGain(r.Factor, r.MScale) / yarnGain(r.Factor, r.MScaleAll)
	default:
		c.RopeGain = yarnGain(r.Factor, 1)
	}
	return nil
}

// longRope reads LongRoPE's two lists of divisors. Rotated vectors grow by √(1 + ln(s)/ln(n)) where the context is s times as
// long as the original one of n tokens (Ding et al., 2024).
func (h *hfConfig) longRope(r *hfRope, c *model.Config) (map[string][]float32, error) {
	c.RopeCtx = h.OriginalLength
	if r.OriginalLength > 0 {
		c.RopeCtx = int(r.OriginalLength)
	}
	if len(r.Long) != c.RopeDim/2 || len(r.Short) != c.RopeDim/2 || c.RopeCtx < 2 {
		return nil, fmt.Errorf("rope_scaling of type longrope needs %d values each of long_factor and short_factor and "+
			"original_max_position_embeddings, "+
			"got %d, %d, %d", c.RopeDim/2, len(r.Long), len(r.Short), c.RopeCtx)
	}
	factor := float64(c.NCtx) / float64(c.RopeCtx)
	if r.Factor > 0 {
		factor = r.Factor
	}
	switch {
	case r.Gain > 0:
		c.RopeGain = float32(r.Gain)
	case factor > 1:
		c.RopeGain = float32(math.Sqrt(1 + math.Log(factor)/math.Log(float64(c.RopeCtx))))
	}
	return map[string][]float32{model.RopeLong: r.Long, model.RopeShort: r.Short}, nil
}
