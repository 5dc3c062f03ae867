package testmodel

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// Variant says in which form to write the model. The zero value is the embedded one.
type Variant struct {
	// Arch is "llama" or "qwen2"; empty means llama. The qwen2 model has the same matrices, rotates the halves of a
	// head instead of adjacent pairs, and adds biases to queries, keys and values.
	Arch string
	// Type of the matrices: "F16", "BF16" or "F32" without loss, or (GGUF only) "Q8_0" or "Q4_1". Empty means F16 in
	// GGUF files and BF16 in Hugging Face folders.
	Type string
	// Shards is the number of safetensors files; 0 means one, without an index.
	Shards int
}

// weights is a model in memory, with GGUF's names and metadata.
type weights struct {
	arch    string
	meta    *gguf.Metadata
	tensors []tensor
}

type tensor struct {
	name       string
	rows, cols int
	vector     bool
	data       []float32
}

// load returns the embedded model as the given architecture, rows of queries and keys in the order that this
// architecture's GGUF files have.
func load(arch string) (w *weights, err error) {
	dir, err := os.MkdirTemp("", "testmodel")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path, err := WriteTo(dir)
	if err != nil {
		return nil, err
	}
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w = &weights{arch: "llama", meta: f.Filter(func(string) bool { return true })}
	for i := range f.Tensors {
		t := &f.Tensors[i]
		raw, err := f.Rows(t, 0, t.Rows())
		if err != nil {
			return nil, err
		}
		values := make([]float32, t.Rows()*t.Cols())
		if err := gguf.Dequantize(t.Type, raw, values); err != nil {
			return nil, err
		}
		w.tensors = append(w.tensors, tensor{t.Name, t.Rows(), t.Cols(), len(t.Dims) == 1, values})
	}
	switch arch {
	case "", "llama":
		return w, nil
	case "qwen2":
		return w, w.toQwen2()
	}
	return nil, fmt.Errorf("testmodel: no variant of architecture %q", arch)
}

// toQwen2 renames the metadata, undoes the adjacent-pair order and adds biases.
func (w *weights) toQwen2() error {
	if err := w.halfPairs(); err != nil {
		return err
	}
	w.arch = "qwen2"
	meta := &gguf.Metadata{}
	for _, key := range w.meta.Keys() {
		value, _ := w.meta.Get(key)
		if rest, ok := strings.CutPrefix(key, "llama."); ok {
			key = "qwen2." + rest
		}
		meta.Set(key, value)
	}
	meta.Set("general.architecture", "qwen2")
	meta.Set("general.name", "tiny-qwen2")
	w.meta = meta
	var tensors []tensor
	for _, t := range w.tensors {
		tensors = append(tensors, t)
		for which, part := range []string{"attn_q", "attn_k", "attn_v"} {
			var layer int
			if n, _ := fmt.Sscanf(t.name, "blk.%d."+part+".weight", &layer); n == 1 && strings.HasSuffix(t.name, part+".weight") {
				bias := fmt.Sprintf("blk.%d.%s.bias", layer, part)
				tensors = append(tensors, tensor{bias, 1, t.rows, true, qwen2Bias(layer, which, t.rows)})
			}
		}
	}
	w.tensors = tensors
	return nil
}

// qwen2Bias returns multiples of 1/256 in [−0.125, 0.125); golden.py has the same formula.
func qwen2Bias(layer, which, n int) []float32 {
	b := make([]float32, n)
	for i := range b {
		b[i] = float32((37*i+11*layer+5*which)%64-32) / 256
	}
	return b
}

// halfPairs reorders the rows of queries and keys of a llama model from adjacent rotation pairs (2i, 2i+1) to the order of
// Hugging Face and of neox-style rotation (i, i + head_dim/2).
func (w *weights) halfPairs() error {
	headDim, err := w.meta.Int(w.arch + ".rope.dimension_count")
	if err != nil {
		return err
	}
	for k := range w.tensors {
		t := &w.tensors[k]
		if !strings.HasSuffix(t.name, ".attn_q.weight") && !strings.HasSuffix(t.name, ".attn_k.weight") {
			continue
		}
		src := t.data
		t.data = make([]float32, len(src))
		for r := range t.rows {
			head, i := r/headDim, r%headDim
			from := head*headDim + i%(headDim/2)*2 + i/(headDim/2)
			copy(t.data[r*t.cols:(r+1)*t.cols], src[from*t.cols:(from+1)*t.cols])
		}
	}
	return nil
}

// WriteGGUF stores a variant as a GGUF file in dir and returns its path.
func WriteGGUF(dir string, v Variant) (path string, err error) {
	if v.Type == "" {
		v.Type = gguf.F16.String()
	}
	typ, ok := map[string]gguf.Type{"F16": gguf.F16, "BF16": gguf.BF16, "F32": gguf.F32, "Q8_0": gguf.Q8_0,
		"Q4_1": gguf.Q4_1}[v.Type]
	if !ok {
		return "", fmt.Errorf("testmodel: no GGUF variant of type %q", v.Type)
	}
	w, err := load(v.Arch)
	if err != nil {
		return "", err
	}
	list := make([]gguf.Tensor, len(w.tensors))
	for i, t := range w.tensors {
		list[i] = gguf.Tensor{Name: t.name, Dims: []uint64{uint64(t.cols), uint64(t.rows)}, Type: typ}
		if t.vector {
			list[i].Dims, list[i].Type = list[i].Dims[:1], gguf.F32
		}
	}
	w.meta.Set("general.file_type", map[gguf.Type]uint32{gguf.F32: 0, gguf.F16: 1, gguf.Q4_1: 3, gguf.Q8_0: 7, gguf.BF16: 32}[typ])
	path = filepath.Join(dir, fmt.Sprintf("tiny-%s-%s.gguf", w.arch, v.Type))
	out, err := gguf.Create(path, w.meta, list)
	if err != nil {
		return "", err
	}
	defer out.Abort()
	for i, t := range w.tensors {
		switch list[i].Type {
		case gguf.Q8_0:
			_, err = out.Write(encodeQ8_0(t.data))
		case gguf.Q4_1:
			_, err = out.Write(encodeQ4_1(t.data))
		default:
			err = out.WriteFloats(t.data)
		}
		if err != nil {
			return "", err
		}
	}
	return path, out.Close()
}

const blockSize = 32 // weights per block of Q8_0 and Q4_1

func appendF16(b []byte, x float32) ([]byte, float32) {
	bits := gguf.FloatToF16(x)
	return append(b, byte(bits), byte(bits>>8)), gguf.F16ToFloat(bits)
}

func quantize(x, scale, min float32, lo, hi float64) int {
	if scale == 0 {
		return 0
	}
	return int(math.Max(lo, math.Min(hi, math.Round(float64((x-min)/scale)))))
}

// encodeQ8_0 stores blocks of a float16 scale d and 32 signed bytes q; weight = d·q.
func encodeQ8_0(x []float32) []byte {
	var b []byte
	for ; len(x) > 0; x = x[blockSize:] {
		var most float32
		for _, v := range x[:blockSize] {
			most = max(most, v, -v)
		}
		var d float32
		b, d = appendF16(b, most/127)
		for _, v := range x[:blockSize] {
			b = append(b, byte(int8(quantize(v, d, 0, -127, 127))))
		}
	}
	return b
}

// encodeQ4_1 stores blocks of float16 d and m and 16 bytes, byte i holding weights i (low half) and i + 16; weight = d·q + m.
func encodeQ4_1(x []float32) []byte {
	var b []byte
	for ; len(x) > 0; x = x[blockSize:] {
		least, most := x[0], x[0]
		for _, v := range x[:blockSize] {
			least, most = min(least, v), max(most, v)
		}
		var d, m float32
		b, d = appendF16(b, (most-least)/15)
		b, m = appendF16(b, least)
		for i := range blockSize / 2 {
			q0, q1 := quantize(x[i], d, m, 0, 15), quantize(x[i+blockSize/2], d, m, 0, 15)
			b = append(b, byte(q0|q1<<4))
		}
	}
	return b
}
