package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

const (
	mostlyF16   = uint32(1) // general.file_type
	bandWeights = 1 << 18   // weights, about, that one random stream serves
)

// dither writes the model in file in to file out, block-quantized tensors as F16 with their weights spread, others as they are.
func dither(in, out string, seed uint64) error {
	f, err := gguf.Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	m := f.Filter(func(string) bool { return true })
	m.Set("general.file_type", mostlyF16)
	tensors := make([]gguf.Tensor, len(f.Tensors))
	for i, t := range f.Tensors {
		tensors[i] = gguf.Tensor{Name: t.Name, Dims: t.Dims, Type: t.Type}
		if t.Type.Layout() != nil {
			tensors[i].Type = gguf.F16
		}
	}
	w, err := gguf.Create(out, m, tensors)
	if err != nil {
		return err
	}
	defer w.Abort()
	for i := range f.Tensors {
		if err := write(w, f, i, seed); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", in, f.Tensors[i].Name, err)
		}
	}
	return w.Close()
}

// write appends tensor i, several bands of rows at a time.
func write(w *gguf.Writer, f *gguf.File, i int, seed uint64) error {
	t := &f.Tensors[i]
	rows := max(1, bandWeights/t.Cols())
	results := make([]band, runtime.GOMAXPROCS(0))
	for r := 0; r < t.Rows(); {
		var wg sync.WaitGroup
		n := 0
		for ; n < len(results) && r < t.Rows(); n++ {
			b, r0, r1 := &results[n], r, min(t.Rows(), r+rows)
			wg.Go(func() { b.err = b.read(f, i, r0, r1, seed) })
			r = r1
		}
		wg.Wait()
		for k := range results[:n] {
			if err := results[k].write(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// band is some rows of a tensor.
type band struct {
	raw     []byte // of a tensor that is not quantized
	weights []float32
	blocks  gguf.Blocks
	err     error
}

// read reads rows [r0, r1) of tensor i and spreads their weights. The random stream belongs to the tensor and its first row.
func (b *band) read(f *gguf.File, i, r0, r1 int, seed uint64) error {
	t := &f.Tensors[i]
	raw, err := f.Rows(t, r0, r1)
	if err != nil {
		return err
	}
	defer f.Release(raw)
	b.raw, b.weights = b.raw[:0], b.weights[:0]
	layout := t.Type.Layout()
	if layout == nil {
		b.raw = append(b.raw, raw...)
		return nil
	}
	n := (r1 - r0) * t.Cols()
	if cap(b.weights) < n {
		b.weights = make([]float32, n)
	}
	b.weights = b.weights[:n]
	if err := gguf.Dequantize(t.Type, raw, b.weights); err != nil {
		return err
	}
	if err := gguf.Unpack(t.Type, raw, n, &b.blocks); err != nil {
		return err
	}
	spread(b.weights, &b.blocks, layout, rand.New(rand.NewPCG(seed, uint64(i)<<32|uint64(r0))))
	return nil
}

func (b *band) write(w *gguf.Writer) error {
	if b.err != nil {
		return b.err
	}
	if len(b.raw) > 0 {
		_, err := w.Write(b.raw)
		return err
	}
	return w.WriteFloats(b.weights)
}

// spread moves every weight to a uniformly distributed place in its cell.
func spread(weights []float32, b *gguf.Blocks, l *gguf.Layout, rng *rand.Rand) {
	low, width := cells(l)
	for i := 0; i < len(weights); i += l.Block {
		scale := gguf.F16ToFloat(b.D[i/l.Super])
		switch {
		case l.SubBits == 8:
			scale *= float32(int8(b.SubScale[i/l.Block]))
		case l.SubBits > 0:
			scale *= float32(int(b.SubScale[i/l.Block]) + l.SubBias)
		}
		for k := i; k < i+l.Block; k++ {
			c := b.Codes[k]
			weights[k] += scale * (low[c] + width[c]*rng.Float32())
		}
	}
}

// cells returns where the cell of every code begins, relative to its value, and how wide it is, for a scale of 1. A cell reaches
// half-way to the neighbouring values; that of the first and the last value is as wide on its outer side as on its inner one.
func cells(l *gguf.Layout) (low, width [256]float32) {
	for c := range l.Codes {
		low[c], width[c] = -0.5, 1
		if v := l.Values; v != nil {
			before, after := 0, 0
			if c > 0 {
				before = int(v[c]) - int(v[c-1])
			}
			if c+1 < len(v) {
				after = int(v[c+1]) - int(v[c])
			}
			if c == 0 {
				before = after
			}
			if c+1 == len(v) {
				after = before
			}
			low[c], width[c] = -float32(before)/2, float32(before+after)/2
		}
	}
	return low, width
}
