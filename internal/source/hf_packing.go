package source

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

// packing says how a GPTQ or AWQ checkpoint stores its quantized matrices. A matrix X of m outputs and n inputs, with one scale s
// and one zero point z for every output and every `group` inputs, has weights s·(q − z) and is stored as
//
//	X.qweight  i32: q, `perWord` to a word
//	X.qzeros   i32 [n/group, m/perWord]: z − zeroBias, packed along outputs
//	X.scales   float [n/group, m]
//	X.g_idx    i32 [n], GPTQ only, optional: which group each input belongs to
//
// GPTQ packs q along inputs, [n/perWord, m], and all fields of a word in order from the least significant bits on. AWQ ("gemm")
// packs q along outputs, [n, m/perWord], and field i of a word belongs to output awqOrder[i].
type packing struct {
	method   string // "GPTQ" or "AWQ"
	bits     int
	group    int  // 0: all inputs
	zeroBias int  // GPTQ's first format stores zero points less 1
	sorted   bool // inputs were sorted by activation (desc_act): g_idx says into which groups
}

// awqOrder is the order in which AWQ's packing takes eight neighbouring outputs.
var awqOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

func (k *packing) perWord() int { return 32 / k.bits }
func (k *packing) awq() bool    { return k.method == "AWQ" }
func (k *packing) name() string { return fmt.Sprintf("%s, %d bits", k.method, k.bits) }

// field returns the output, within its word, that field i of a word packed along outputs belongs to.
func (k *packing) field(i int) int {
	if k.awq() {
		return awqOrder[i]
	}
	return i
}

// parsePacking reads quantization_config, or GPTQ's quantize_config.json, which means the same.
func parsePacking(b []byte) (*packing, error) {
	c := struct {
		Method  string `json:"quant_method"`
		Bits    int    `json:"bits"`
		Group   int    `json:"group_size"`
		Sorted  bool   `json:"desc_act"`
		Format  string `json:"checkpoint_format"` // GPTQ's
		Version string `json:"version"`           // AWQ's
	}{Method: "gptq"}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("quantization_config: %w", err)
	}
	k := &packing{bits: c.Bits, group: c.Group, sorted: c.Sorted}
	switch c.Method {
	case "gptq":
		k.method = "GPTQ"
		switch c.Format {
		case "", "gptq":
			k.zeroBias = 1
		case "gptq_v2":
		default:
			return nil, fmt.Errorf("quantization_config: GPTQ checkpoint_format %q is not supported (supported: gptq, gptq_v2)", c.Format)
		}
	case "awq":
		k.method = "AWQ"
		if v := strings.ToLower(c.Version); v != "" && v != "gemm" {
			return nil, fmt.Errorf("quantization_config: AWQ version %q is not supported (supported: gemm)", c.Version)
		}
	default:
		return nil, fmt.Errorf("quantization_config: the weights are quantized already by method %q, which is not supported "+
			"(supported: gptq, awq, fp8, compressed-tensors; or obtain the original weights, or a GGUF file)", c.Method)
	}
	if !(k.bits == 4 || !k.awq() && (k.bits == 2 || k.bits == 8)) {
		return nil, fmt.Errorf("quantization_config: %d bits are not supported (supported: 2, 4 and 8 for GPTQ, 4 for AWQ)", k.bits)
	}
	if k.group == -1 {
		k.group = 0
	} else if k.group < 2 || k.group%2 != 0 {
		return nil, fmt.Errorf("quantization_config: group_size %d, expected an even number or -1", k.group)
	}
	return k, nil
}

// readQuantization returns what config.json or the file beside it says: how GPTQ or AWQ weights are packed (nil if they are not),
// or which 8-bit weights share a scale.
func readQuantization(dir string, quantization json.RawMessage) (k *packing, block [2]int, err error) {
	block = [2]int{scaleBlock, scaleBlock}
	if len(quantization) > 0 && string(quantization) != "null" {
		var c struct {
			Method string `json:"quant_method"`
		}
		if err := json.Unmarshal(quantization, &c); err != nil {
			return nil, block, fmt.Errorf("quantization_config: %w", err)
		}
		switch c.Method {
		case "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt":
			block, err = parseScaleBlock(c.Method, quantization)
			return nil, block, err
		}
		k, err = parsePacking(quantization)
		return k, block, err
	}
	path := filepath.Join(dir, "quantize_config.json")
	b, err := infile.ReadAll(path, maxConfigSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, block, nil
	}
	if err != nil {
		return nil, block, err
	}
	if k, err = parsePacking(b); err != nil {
		return nil, block, fmt.Errorf("%s: %w", path, err)
	}
	return k, block, nil
}

// packed is a quantized matrix in a GPTQ or AWQ checkpoint.
type packed struct {
	packing
	rows, cols             int // outputs, inputs
	weights, zeros, scales *safetensors.Tensor
	layout                 BlockLayout
	groupOf                []int32 // of each input, if groups are not made of neighbouring inputs; there is no layout then
}

// takePacked removes the parts of the matrix called name (without ".weight") from byName and returns it, or nil if it is not
// quantized.
func (k *packing) takePacked(byName map[string]*safetensors.Tensor, name string) (*packed, error) {
	part := func(suffix string) *safetensors.Tensor {
		t := byName[name+suffix]
		delete(byName, name+suffix)
		return t
	}
	p := &packed{packing: *k, weights: part(".qweight")}
	if p.weights == nil {
		return nil, nil
	}
	p.zeros, p.scales = part(".qzeros"), part(".scales")
	if err := p.checkShapes(); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	if g := part(".g_idx"); g != nil {
		if err := p.checkGroups(g); err != nil {
			return nil, err
		}
	} else if k.sorted && !k.awq() && p.group < p.cols {
		return nil, fmt.Errorf("tensor %s: quantization_config says desc_act, but there is no tensor %[1]s.g_idx with the groups of "+
			"inputs", name)
	}
	if bias := byName[name+".bias"]; bias != nil { // AutoGPTQ gives every matrix a bias, of zeros where the model has none
		if zero, err := allZero(bias); err != nil {
			return nil, err
		} else if zero {
			delete(byName, name+".bias")
		}
	}
	return p, p.chooseLayout()
}

// checkShapes sets rows, cols and group, and checks that all parts fit them.
func (p *packed) checkShapes() error {
	if p.zeros == nil || p.scales == nil {
		return errors.New("has qweight, but qzeros or scales are missing")
	}
	w, s := p.weights.Shape, p.scales.Shape
	if len(w) != 2 || len(s) != 2 {
		return fmt.Errorf("qweight has shape %v and scales %v, expected two dimensions", w, s)
	}
	n := p.perWord()
	p.rows, p.cols = s[1], w[0]
	if !p.awq() {
		p.cols = w[0] * n
	}
	if p.group == 0 {
		p.group = p.cols
	}
	if p.rows < 1 || p.cols < 1 || p.rows%n != 0 || p.cols%p.group != 0 {
		return fmt.Errorf("%d outputs and %d inputs in groups of %d: expected whole words of %d outputs, and whole groups", p.rows,
			p.cols, p.group, n)
	}
	words, groups := [2]int{p.cols / n, p.rows}, p.cols/p.group
	if p.awq() {
		words = [2]int{p.cols, p.rows / n}
	}
	if err := cmp.Or(p.checkPart("qweight", p.weights, words), p.checkPart("qzeros", p.zeros, [2]int{groups, p.rows / n}),
		p.checkPart("scales", p.scales, [2]int{groups, p.rows})); err != nil {
		return err
	}
	_, err := elementType(p.scales.DType)
	return err
}

// checkPart checks shape and type of a part; scales may have several types.
func (p *packed) checkPart(part string, t *safetensors.Tensor, shape [2]int) error {
	if !slices.Equal(t.Shape, shape[:]) {
		return fmt.Errorf("%s has shape %v, expected %v for %s in groups of %d", part, t.Shape, shape, p.name(), p.group)
	}
	if part != "scales" && t.DType != "I32" {
		return fmt.Errorf("%s is of type %s, expected I32", part, t.DType)
	}
	return nil
}

// checkGroups reads which group each input belongs to: inputs that were sorted by activation (desc_act) are in any.
func (p *packed) checkGroups(t *safetensors.Tensor) error {
	if t.DType != "I32" || len(t.Shape) != 1 || t.Shape[0] != p.cols {
		return fmt.Errorf("tensor %s is %s of shape %v, expected I32 of [%d]", t.Name, t.DType, t.Shape, p.cols)
	}
	index, err := readWords(t)
	if err != nil {
		return err
	}
	groupOf, sorted := make([]int32, p.cols), false
	for i, g := range index {
		if int64(g) >= int64(p.cols/p.group) {
			return fmt.Errorf("tensor %s puts input %d into group %d of %d", t.Name, i, int32(g), p.cols/p.group)
		}
		groupOf[i] = int32(g)
		sorted = sorted || int(g) != i/p.group
	}
	if sorted {
		p.groupOf = groupOf
	}
	return nil
}

// allZero tells whether a floating-point tensor holds zeros only.
func allZero(t *safetensors.Tensor) (bool, error) {
	x, err := readFloats(t)
	for _, v := range x {
		if v != 0 {
			return false, err
		}
	}
	return true, err
}

// chooseLayout lets one zero point that serves the whole matrix become part of the code. Others become sub-minima: s·(q − z) =
// s·q + (−s)·z, both products and the sum being exact in float32.
func (p *packed) chooseLayout() error {
	zeros, err := p.readZeros()
	if err != nil {
		return err
	}
	p.layout = BlockLayout{Codes: 1 << p.bits, Block: p.group, Super: p.group, Zero: -int32(p.zeroBias)}
	for _, z := range zeros {
		if z != zeros[0] {
			p.layout.SubBits, p.layout.HasMin, p.layout.SubMin, p.layout.PlainScale = p.bits, true, true, true
			return nil
		}
	}
	p.layout.Zero -= int32(zeros[0])
	return nil
}

// readZeros returns the stored zero points, [output][group].
func (p *packed) readZeros() ([]uint8, error) {
	words, err := readWords(p.zeros)
	if err != nil {
		return nil, err
	}
	groups, n := p.cols/p.group, p.perWord()
	zeros := make([]uint8, p.rows*groups)
	for i, w := range words {
		g, first := i/(p.rows/n), i%(p.rows/n)*n
		for f := range n {
			zeros[(first+p.field(f))*groups+g] = uint8(w >> (f * p.bits) & (1<<p.bits - 1))
		}
	}
	return zeros, nil
}

// readScales returns the scales as float16, [output][group].
func (p *packed) readScales() ([]uint16, error) {
	x, err := readFloats(p.scales)
	if err != nil {
		return nil, err
	}
	groups := p.cols / p.group
	d := make([]uint16, len(x))
	for i, s := range x {
		h := gguf.FloatToF16(s)
		if gguf.F16ToFloat(h) != s {
			return nil, fmt.Errorf("tensor %s: scale %g is not a float16", p.scales.Name, s)
		}
		d[i%p.rows*groups+i/p.rows] = h
	}
	return d, nil
}
