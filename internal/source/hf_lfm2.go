package source

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// hfLFM2 is what config.json says of LFM2 in words of its own.
type hfLFM2 struct {
	ConvKernel    int      `json:"conv_L_cache"`
	ConvBias      bool     `json:"conv_bias"`
	AttnLayers    []int    `json:"full_attn_idxs"` // instead of layer_types
	LFM2Eps       float64  `json:"norm_eps"`
	FFDim         int      `json:"block_ff_dim"` // instead of intermediate_size
	AdjustFF      *bool    `json:"block_auto_adjust_ff_dim"`
	FFMultiplier  *float64 `json:"block_ffn_dim_multiplier"`
	FFMultiple    *int     `json:"block_multiple_of"`
	TiedEmbedding *bool    `json:"tie_embedding"` // instead of tie_word_embeddings
}

// lfm2 brings these words to those of other models; what is absent has the defaults of transformers. b is config.json.
func (h *hfConfig) lfm2(b []byte) error {
	if h.ConvBias {
		return errors.New("conv_bias is true, which is not supported")
	}
	const defaultKernel, defaultMultiple, defaultEps = 3, 256, 1e-5
	if h.ConvKernel == 0 {
		h.ConvKernel = defaultKernel
	}
	if h.LFM2Eps > 0 {
		h.NormEps = h.LFM2Eps
	} else if h.NormEps == 0 {
		h.NormEps = defaultEps
	}
	if h.FFDim > 0 {
		h.IntermediateSize = h.FFDim
	}
	if h.AdjustFF == nil || *h.AdjustFF {
		n, multiple := 2*h.IntermediateSize/3, defaultMultiple
		if h.FFMultiplier != nil {
			n = int(*h.FFMultiplier * float64(n))
		}
		if h.FFMultiple != nil {
			multiple = *h.FFMultiple
		}
		if multiple < 1 || multiple > 1<<16 {
			return fmt.Errorf("block_multiple_of is %d, expected 1 or more", multiple)
		}
		h.IntermediateSize = (n + multiple - 1) / multiple * multiple
	}
	var tied struct {
		Words *bool `json:"tie_word_embeddings"`
	}
	if err := infile.DecodeJSON(b, &tied); err != nil {
		return err
	}
	switch {
	case h.TiedEmbedding != nil:
		h.Tied = *h.TiedEmbedding
	case tied.Words == nil:
		h.Tied = true
	}
	if len(h.LayerTypes) == 0 && h.AttnLayers != nil {
		for l := range min(max(h.Layers, 0), model.MaxLayers) {
			kind := "conv"
			if slices.Contains(h.AttnLayers, l) {
				kind = "full_attention"
			}
			h.LayerTypes = append(h.LayerTypes, kind)
		}
	}
	return nil
}

// layerKinds returns model.Config.Layers for layer_types; empty if all layers have attention.
func layerKinds(types []string) string {
	if !slices.Contains(types, "conv") && !slices.Contains(types, "linear_attention") {
		return ""
	}
	kinds := make([]byte, len(types))
	for l, t := range types {
		kinds[l] = model.LayerAttention
		switch t {
		case "conv":
			kinds[l] = model.LayerConv
		case "linear_attention":
			kinds[l] = model.LayerDelta
		}
	}
	return string(kinds)
}
