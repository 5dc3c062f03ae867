package main

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// escapeSpread is the standard deviation of the codes that are packed with 3, 4, 5 and 6 bits: those for which quantized weights
// get that width.
var escapeSpread = [...]float64{3: 2.2, 4: 4.2, 5: 8, 6: 15}

// escapeWorks are products of rows with escapes and one vector from memory, on one core.
func escapeWorks(k dot.Kernels, x []int8, out []int32) (works []work, rows []row) {
	if !k.HasEscapes() {
		return nil, nil
	}
	for width := 3; width <= 6; width++ {
		w, size := escapedRows(k, width)
		n := float64(productRows * productSteps * dot.StepCols)
		works = append(works, work{n, func() error { k.Dot(out, w, x); return nil }})
		rows = append(rows, row{
			What:  fmt.Sprintf("resident product, one vector, %d bits and escapes, %.2f bits, %s", width, 8*size/n, k),
			Unit:  "G weights/s per core",
			Bytes: size / n * 1e9, LimitName: "reading them",
		})
	}
	return works, rows
}

// escapedRows packs rounded normal numbers, the same few rows again and again, and returns the bytes they take.
func escapedRows(k dot.Kernels, width int) (w *dot.Rows, size float64) {
	const pattern = 256
	rng := rand.New(rand.NewPCG(uint64(width), 2))
	w = &dot.Rows{Width: width, Escaped: true, Count: productRows, Steps: productSteps, StartStride: 1,
		Scratch: make([]byte, dot.ScratchBytes(productSteps))}
	w.NibbleStride, w.BitsStride = productSteps*dot.NibbleBytes(width), productSteps*dot.BitBytes(width)
	codes, row := make([]byte, productSteps*dot.StepCols), make([]byte, dot.MaxEscapeBytes(productSteps))
	nibble, bits := make([]byte, pattern*w.NibbleStride), make([]byte, pattern*w.BitsStride)
	var escape []byte
	var start []uint32
	for r := range pattern {
		for i := range codes {
			codes[i] = byte(min(max(math.Round(rng.NormFloat64()*escapeSpread[width])+dot.RegularCode+float64(int(1)<<width)/2-1, 0), 255))
		}
		n := k.PackEscapes(w, 0, nibble[r*w.NibbleStride:], bits[r*w.BitsStride:], row, codes)
		start, escape = append(start, uint32(len(escape))), append(escape, row[:n]...)
		w.Most = max(w.Most, dot.EscapeCount(row))
	}
	for i := range productRows / pattern {
		w.Nibble, w.Bits = append(w.Nibble, nibble...), append(w.Bits, bits...)
		for _, s := range start {
			w.Start = append(w.Start, s+uint32(i*len(escape)))
		}
		w.Escape = append(w.Escape, escape...)
	}
	size = float64(len(w.Nibble) + len(w.Bits) + len(w.Escape))
	w.Escape = append(w.Escape, make([]byte, dot.EscapeSlack)...)
	return w, size
}
