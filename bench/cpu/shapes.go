package main

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// shape is what decides the matrices of a model.
type shape struct {
	name                           string
	layers, hidden, kv, ffn, vocab int
}

// shapes are those of SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-3B.
func shapes() []shape {
	return []shape{
		{"135M", 30, 576, 192, 1536, 49152},
		{"1.5B", 28, 1536, 256, 8960, 151936},
		{"3B", 36, 2048, 256, 11008, 151936},
	}
}

// matrices returns rows and columns of every product of a token.
func (s *shape) matrices() (m [][2]int) {
	for range s.layers {
		m = append(m, [2]int{s.hidden + 2*s.kv, s.hidden}, [2]int{s.hidden, s.hidden}, [2]int{2 * s.ffn, s.hidden},
			[2]int{s.hidden, s.ffn})
	}
	return append(m, [2]int{s.vocab, s.hidden})
}

// shapeWidth is the bits per weight of these products.
const shapeWidth = 5

// benchShapes measures the products of one token on all cores for models of different size, with random weights.
func benchShapes(o *options, r *report, _ *bandwidth) error {
	for _, s := range shapes() {
		f, size := tokenProducts(dot.Best(), s.matrices())
		got, err := rates([]work{{float64(size), f}}, o.rounds, o.each)
		if err != nil {
			return err
		}
		ms := 1e3 * float64(size) / median(got[0])
		r.add(row{
			What: fmt.Sprintf("products of a token, shapes of %s, %.0f MB at %d bits: %.2f ms", s.name, float64(size)/1e6, shapeWidth,
				ms), Unit: "GB/s",
			Ours: scaled(got[0], 1e-9), Bytes: 1e9, AllCores: true, LimitName: "reading",
		})
	}
	return nil
}

// tokenProducts makes matrices of random codes and returns a function that multiplies each with a vector, and their bytes.
func tokenProducts(k dot.Kernels, matrices [][2]int) (f func() error, size int) {
	const unit = 32
	pattern := randomRows(8, 1024).Nibble
	var all []dot.Rows
	most := 0
	for _, m := range matrices {
		steps := (m[1] + dot.StepCols - 1) / dot.StepCols
		w := dot.Rows{Width: shapeWidth, NibbleStride: steps * dot.NibbleBytes(shapeWidth),
			BitsStride: steps * dot.BitBytes(shapeWidth), Count: m[0], Steps: min(steps, 32)}
		w.Nibble, w.Bits = make([]byte, m[0]*w.NibbleStride), make([]byte, m[0]*w.BitsStride)
		for _, b := range [][]byte{w.Nibble, w.Bits} {
			for i := 0; i < len(b); i += copy(b[i:], pattern) {
			}
			size += len(b)
		}
		all, most = append(all, w), max(most, steps)
	}
	x := quantized(k, most)
	return func() error {
		for i := range all {
			parallel.Do((all[i].Count+unit-1)/unit, func(u int) { multiplyUnit(k, &all[i], u*unit, min(unit, all[i].Count-u*unit), x) })
		}
		return nil
	}, size
}

// multiplyUnit multiplies n rows from `first` on, in tiles of up to 32 steps.
func multiplyUnit(k dot.Kernels, w *dot.Rows, first, n int, x []int8) {
	var out [64]int32
	nb, bb := dot.NibbleBytes(w.Width), dot.BitBytes(w.Width)
	part := *w
	part.Count = n
	for at, steps := 0, w.NibbleStride/nb; at < steps; at += part.Steps {
		part.Steps = min(32, steps-at)
		part.Nibble, part.Bits = w.Nibble[first*w.NibbleStride+at*nb:], w.Bits[first*w.BitsStride+at*bb:]
		k.Dot(out[:], &part, x[at*2*dot.StepCols:])
	}
}
