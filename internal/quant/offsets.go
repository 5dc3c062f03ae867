package quant

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Offsets are the bits per weight that matrices get above the average (a negative number: below), by what their error does to the
// model's predictions: the step is κ·2^(−offset)·rms. Keys are types of matrices as in GGUF names, and First and Last, which are
// added for the first and the last layer.
type Offsets map[string]float64

// Keys of Offsets beside types of matrices.
const (
	Tied  = "tied"  // an input embedding that is the output matrix, too
	First = "first" // first layer
	Last  = "last"  // last layer
)

// Context is what an offset depends on besides the tensor's name.
type Context struct {
	Tied   bool // there is no output matrix but the input embedding
	Layers int
}

// DefaultOffsets returns what compress uses. gqa: several query heads share a key and value head. The last layer's and a tied
// embedding's come from derivatives (package calibrate) of Qwen2.5-Coder-1.5B and SmolLM2-135M, the others from published
// measurements.
func DefaultOffsets(gqa bool) Offsets {
	o := Offsets{
		"token_embd": -1, Tied: 1.1, "output": 1,
		"attn_q": -0.47, "attn_k": -0.57, "attn_v": 0.86, "attn_output": 0.36,
		"ffn_gate": -0.36, "ffn_up": -0.09, "ffn_down": 0.25,
		First: 0, Last: 0.8,
	}
	if gqa { // errors of keys and values act on all heads that share them, and the matrices are small
		o["attn_k"], o["attn_v"] = 1.2, 1.6
	}
	return o
}

// Check returns an error if o has keys that mean nothing, or values that cannot be meant.
func (o Offsets) Check() error {
	known := DefaultOffsets(false)
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if _, ok := known[k]; !ok {
			return fmt.Errorf("offset of %q: known are %s", k, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if x := o[k]; !(x >= -8 && x <= 8) {
			return fmt.Errorf("offset of %s: %g bits, expected −8 to 8", k, x)
		}
	}
	return nil
}

// Of returns the offset of the matrix of this GGUF name.
func (o Offsets) Of(name string, c Context) float64 {
	kind, bits := strings.TrimSuffix(name, ".weight"), 0.0
	if layer, rest, ok := strings.Cut(strings.TrimPrefix(kind, "blk."), "."); ok && strings.HasPrefix(kind, "blk.") {
		kind = rest
		switch layer {
		case "0":
			bits = o[First]
		case strconv.Itoa(c.Layers - 1):
			bits = o[Last]
		}
	}
	if kind == "token_embd" && c.Tied {
		kind = Tied
	}
	return bits + o[kind]
}
