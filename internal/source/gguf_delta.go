package source

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Keys of models with a gated delta rule, after the architecture's name.
const (
	keyInner     = ".ssm.inner_size"
	keyRecurrent = ".attention.recurrent_layers"
	keyInterval  = ".full_attention_interval"
	keyPredict   = ".nextn_predict_layers"
	keySections  = ".rope.dimension_sections"
)

// convKernelKey returns what GGUF calls the positions of an architecture's convolutions.
func convKernelKey(arch string) string {
	if arch == "lfm2" {
		return "shortconv.l_cache"
	}
	return "ssm.conv_kernel"
}

// ggufDelta reads which layers have a gated delta rule, and leaves out those that predict several tokens.
func ggufDelta(m *gguf.Metadata, c *model.Config) error {
	if c.Architecture != "qwen35" {
		return nil
	}
	predict, err := m.IntOr(c.Architecture+keyPredict, 0)
	if err != nil {
		return err
	}
	if predict < 0 || predict >= c.NLayers {
		return fmt.Errorf("%s%s is %d of %d layers", c.Architecture, keyPredict, predict, c.NLayers)
	}
	inner, err := m.Int(c.Architecture + keyInner)
	if err != nil {
		return err
	}
	if c.DeltaValueHeads > 0 {
		c.DeltaValueDim = inner / c.DeltaValueHeads
	}
	c.NLayers -= predict
	interval, err := m.IntOr(c.Architecture+keyInterval, 4)
	if err != nil {
		return err
	}
	kinds := make([]byte, min(c.NLayers, model.MaxLayers))
	which, _ := m.Get(c.Architecture + keyRecurrent)
	recurrent, listed := which.([]bool)
	if which != nil && (!listed || len(recurrent) < len(kinds)) || !listed && interval < 1 {
		return fmt.Errorf("%s%s is not a list of %d layers", c.Architecture, keyRecurrent, c.NLayers)
	}
	for l := range kinds {
		kinds[l] = model.LayerDelta
		if listed && !recurrent[l] || !listed && (l+1)%interval == 0 {
			kinds[l] = model.LayerAttention
		}
	}
	c.Layers = string(kinds)
	return nil
}

// writeDelta writes what ggufDelta reads. llama.cpp wants the parts of a head that rotate by time, height and width, which for
// text are the same.
func writeDelta(m *gguf.Metadata, c *model.Config) {
	if c.DeltaValueHeads == 0 {
		return
	}
	m.Set(c.Architecture+keyInner, uint32(c.DeltaValueDim*c.DeltaValueHeads))
	m.Set(c.Architecture+keyRecurrent, recurrentLayers(c))
	m.Set(c.Architecture+keyInterval, uint32(firstAttention(c)+1))
	m.Set(c.Architecture+keySections, []int32{11, 11, 10, 0})
}

// recurrentLayers lists which layers have a state.
func recurrentLayers(c *model.Config) []bool {
	recurrent := make([]bool, len(c.Layers))
	for l := range recurrent {
		recurrent[l] = c.Layers[l] == model.LayerDelta
	}
	return recurrent
}

// leftOut reports whether a tensor belongs to a layer that predicts several tokens.
func leftOut(c *model.Config, name string) bool {
	if c.Architecture != "qwen35" {
		return false
	}
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return false
	}
	layer, _, _ := strings.Cut(rest, ".")
	l, err := strconv.Atoi(layer)
	return err == nil && l >= c.NLayers
}

// firstAttention returns the first layer with attention; the number of layers if there is none.
func firstAttention(c *model.Config) int {
	if l := strings.IndexByte(c.Layers, model.LayerAttention); l >= 0 {
		return l
	}
	return len(c.Layers)
}
