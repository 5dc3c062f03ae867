package source

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// hfDelta is what config.json says of a gated delta rule.
type hfDelta struct {
	Text            json.RawMessage `json:"text_config"` // of models that also see
	FullInterval    int             `json:"full_attention_interval"`
	DeltaKernel     int             `json:"linear_conv_kernel_dim"`
	DeltaKeyDim     int             `json:"linear_key_head_dim"`
	DeltaValueDim   int             `json:"linear_value_head_dim"`
	DeltaKeyHeads   int             `json:"linear_num_key_heads"`
	DeltaValueHeads int             `json:"linear_num_value_heads"`
}

// qwen35 takes the part for text out of a configuration of Qwen 3.5, and completes it.
func (h *hfConfig) qwen35() error {
	if h.ModelType == "qwen3_5" {
		outer := *h
		*h = hfConfig{NameOrPath: outer.NameOrPath, Tied: outer.Tied, Quantization: outer.Quantization}
		if err := infile.DecodeJSON(outer.Text, h); err != nil {
			return fmt.Errorf("text_config: %w", err)
		}
	}
	if h.ModelType != "qwen3_5_text" {
		h.hfDelta = hfDelta{}
		return nil
	}
	const defaultInterval, defaultShare = 4, 0.25
	for _, d := range []struct {
		to *int
		n  int
	}{{&h.DeltaKernel, 4}, {&h.DeltaKeyDim, 128}, {&h.DeltaValueDim, 128}, {&h.DeltaKeyHeads, 16}, {&h.DeltaValueHeads, 32},
		{&h.HeadDim, 256}, {&h.FullInterval, defaultInterval}} {
		if *d.to == 0 {
			*d.to = d.n
		}
	}
	if h.RopeShare == 0 && (h.RopeParameters == nil || h.RopeParameters.Share == 0) {
		h.RopeShare = defaultShare
	}
	if len(h.LayerTypes) > 0 {
		return nil
	}
	for l := range min(max(h.Layers, 0), model.MaxLayers) {
		kind := "linear_attention"
		if (l+1)%h.FullInterval == 0 {
			kind = "full_attention"
		}
		h.LayerTypes = append(h.LayerTypes, kind)
	}
	return nil
}

// notText reports whether a tensor belongs to what this program leaves out of a model: what sees, and what predicts several
// tokens.
func notText(name string) bool {
	return strings.HasPrefix(name, "model.visual.") || strings.HasPrefix(name, "mtp.") || strings.HasPrefix(name, "model.mtp.")
}

// textName returns what a tensor is called in a model that only reads.
func textName(name string) string { return strings.Replace(name, "model.language_model.", "model.", 1) }
