package source

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

// Matrices of 8-bit floats (F8_E4M3, F8_E5M2) or integers (I8) come with scales: X.weight_scale_inv (a scale for every block of
// 128 × 128 weights; in spite of its name weights are multiplied by it), or X.weight_scale (for the matrix, for every output, for
// every output and group of inputs, or for every block).
const (
	f8E4M3 safetensors.DType = "F8_E4M3"
	f8E5M2 safetensors.DType = "F8_E5M2"
	int8s  safetensors.DType = "I8"
)

// scaleBlock is how many outputs and inputs share a scale where quantization_config does not say.
const scaleBlock = 128

// noWeights are the ends of the names of tensors that quantized checkpoints have for activations and caches.
var noWeights = []string{".input_scale", ".output_scale", ".activation_scale", ".q_scale", ".k_scale", ".v_scale", ".prob_scale",
	".input_scale_ub"}

func is8Bit(d safetensors.DType) bool { return d == f8E4M3 || d == f8E5M2 || d == int8s }

// scales are those of one matrix: value [r/rows][c/cols] belongs to weight [r][c], as stored.
type scales struct {
	values     []float32
	rows, cols int // that share a scale
	perRow     int // scales beside each other
}

// takeScales removes the scales of matrix t from byName and returns them.
func (s *hfSource) takeScales(byName map[string]*safetensors.Tensor, t *safetensors.Tensor) (*scales, error) {
	if k := s.scales[t.Name]; k != nil { // of a joined tensor, taken before
		return k, nil
	}
	if len(t.Shape) != 2 || t.Shape[0] < 1 || t.Shape[1] < 1 {
		return nil, fmt.Errorf("tensor %s: %s of shape %v, expected two dimensions", t.Name, t.DType, t.Shape)
	}
	base := strings.TrimSuffix(t.Name, ".weight")
	if z := byName[base+".weight_zero_point"]; z != nil {
		if err := checkZeroPoint(z); err != nil {
			return nil, err
		}
		delete(byName, z.Name)
	}
	for _, suffix := range []string{".weight_scale_inv", ".weight_scale"} {
		x := byName[base+suffix]
		if x == nil {
			continue
		}
		delete(byName, x.Name)
		k, err := newScales(x, t.Shape[0], t.Shape[1], s.scaleBlock)
		if err == nil {
			k.values, err = readFloats(x)
		}
		if err != nil {
			return nil, err
		}
		if s.scales == nil {
			s.scales = map[string]*scales{}
		}
		s.scales[t.Name] = k
		return k, nil
	}
	return nil, fmt.Errorf("tensor %s: %s without scales, expected a tensor %s.weight_scale or %[3]s.weight_scale_inv", t.Name,
		t.DType, base)
}

// newScales tells from the shape of the scales x which of the m × n weights share one; block is what quantization_config says.
func newScales(x *safetensors.Tensor, m, n int, block [2]int) (*scales, error) {
	if _, err := elementType(x.DType); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", x.Name, err)
	}
	down, across := 1, 1
	switch len(x.Shape) {
	case 0:
	case 1:
		down = x.Shape[0]
	case 2:
		down, across = x.Shape[0], x.Shape[1]
	default:
		down = 0
	}
	k := &scales{rows: block[0], cols: block[1], perRow: across}
	switch down {
	case 1:
		k.rows = m
	case m:
		k.rows = 1
	}
	switch {
	case across == 1:
		k.cols = n
	case down == m && across > 0 && n%across == 0:
		k.cols = n / across
	}
	if down < 1 || across < 1 || down != (m-1)/k.rows+1 || across != (n-1)/k.cols+1 {
		return nil, fmt.Errorf("tensor %s has shape %v, expected a scale for all %d × %d weights, for every row, or for every block "+
			"of %d × %d", x.Name, x.Shape, m, n, block[0], block[1])
	}
	return k, nil
}

// checkZeroPoint refuses zero points other than 0.
func checkZeroPoint(t *safetensors.Tensor) error {
	b := make([]byte, t.Size)
	if err := t.ReadAt(b, 0); err != nil {
		return err
	}
	for _, v := range b {
		if v != 0 {
			return fmt.Errorf("tensor %s: zero points other than 0 are not supported", t.Name)
		}
	}
	return nil
}

// apply multiplies row r of a matrix by its scales.
func (k *scales) apply(r int, row []float32) {
	s := k.values[r/k.rows*k.perRow:][:k.perRow]
	for len(row) > 0 {
		n := min(k.cols, len(row))
		for i := range row[:n] {
			row[i] *= s[0]
		}
		row, s = row[n:], s[1:]
	}
}

// dequantize converts the bytes of floats or 8-bit integers.
func dequantize(d safetensors.DType, b []byte, dst []float32) error {
	if is8Bit(d) {
		var table [256]float32
		for i := range table {
			table[i] = value8(d, uint8(i))
		}
		for i, v := range b {
			dst[i] = table[v]
		}
		return nil
	}
	kind, err := elementType(d)
	if err != nil {
		return err
	}
	return gguf.Dequantize(kind, b, dst)
}

// value8 returns the value of an 8-bit float or integer ("OCP 8-bit Floating Point Specification" 1.0, section 5). E5M2 is the
// upper half of a float16; E4M3 has the same form with one exponent bit less, no infinities, and NaN at the end.
func value8(d safetensors.DType, bits uint8) float32 {
	switch {
	case d == int8s:
		return float32(int8(bits))
	case d == f8E5M2:
		return gguf.F16ToFloat(uint16(bits) << 8)
	case bits&0x7f == 0x7f:
		return float32(math.NaN())
	}
	return 256 * gguf.F16ToFloat(uint16(bits&0x80)<<8|uint16(bits&0x7f)<<7)
}

// parseScaleBlock reads how many outputs and inputs share a scale from the quantization_config of a checkpoint with 8-bit
// weights, and refuses forms that are not such.
func parseScaleBlock(method string, b []byte) (block [2]int, err error) {
	var c struct {
		Block  []int  `json:"weight_block_size"`
		Format string `json:"format"`     // compressed-tensors'
		Algo   string `json:"quant_algo"` // modelopt's
		Groups map[string]struct {
			Format  string `json:"format"`
			Weights *struct {
				Block []int `json:"block_structure"`
			} `json:"weights"`
		} `json:"config_groups"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return block, fmt.Errorf("quantization_config: %w", err)
	}
	formats := []string{c.Format}
	sizes := c.Block
	for _, g := range c.Groups {
		formats = append(formats, g.Format)
		if g.Weights != nil && len(g.Weights.Block) > 0 {
			sizes = g.Weights.Block
		}
	}
	for _, f := range formats {
		switch f {
		case "", "dense", "float-quantized", "naive-quantized", "int-quantized", "mixed-precision":
		default:
			return block, fmt.Errorf("quantization_config: %s format %q is not supported (supported: float-quantized, int-quantized)",
				method, f)
		}
	}
	if c.Algo != "" && !strings.HasPrefix(c.Algo, "FP8") {
		return block, fmt.Errorf("quantization_config: %s algorithm %q is not supported (supported: FP8)", method, c.Algo)
	}
	if sizes == nil {
		return [2]int{scaleBlock, scaleBlock}, nil
	}
	if len(sizes) != 2 || sizes[0] < 1 || sizes[1] < 1 {
		return block, fmt.Errorf("quantization_config: weights share scales in blocks of %v, expected two positive numbers", sizes)
	}
	return [2]int(sizes), nil
}
