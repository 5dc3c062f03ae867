package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// Sizes of the products: from memory, and in the cache.
const (
	productRows   = 64 << 10
	productSteps  = 32
	productTokens = 48
)

// benchProducts measures products with resident weights on one core, with every instruction set that this processor has.
func benchProducts(o *options, r *report, _ *bandwidth) error {
	for _, k := range dot.Available()[1:] {
		if err := productsOf(k, o, r); err != nil {
			return err
		}
	}
	return nil
}

// productsOf measures products with one vector from memory, at each width, and with many from the cache.
func productsOf(k dot.Kernels, o *options, r *report) error {
	var works []work
	var rows []row
	x := quantized(k, productSteps)
	out := make([]int32, 2*productRows)
	for _, width := range []int{4, 5, 6, 8} {
		w := randomRows(width, productRows)
		n := float64(productRows * productSteps * dot.StepCols)
		works = append(works, work{n, func() error { k.Dot(out, w, x); return nil }})
		rows = append(rows, row{
			What: fmt.Sprintf("resident product, one vector, %d bits, %s", width, k), Unit: "G weights/s per core",
			Bytes: float64(width) / 8 * 1e9, LimitName: "reading them",
		})
	}
	escaped, escapedRows := escapeWorks(k, x, out)
	works, rows = append(works, escaped...), append(rows, escapedRows...)
	works = append(works, gemmWork(k), gemmBlocksWork(k, 16), gemmBlocksWork(k, 32))
	for _, scales := range []string{"scales of rows", "scales of 16 columns", "scales of 32 columns"} {
		rows = append(rows, row{What: fmt.Sprintf("resident product, many vectors, %s, %s", scales, k), Unit: "G products/s per core"})
	}
	got, err := rates(works, o.rounds, o.each)
	if err != nil {
		return err
	}
	for i, x := range rows {
		x.Ours = scaled(got[i], 1e-9)
		r.add(x)
	}
	return nil
}

// randomRows returns packed rows of productSteps steps.
func randomRows(width, rows int) *dot.Rows {
	rng := rand.New(rand.NewPCG(uint64(width), 1))
	w := &dot.Rows{Width: width, NibbleStride: productSteps * dot.NibbleBytes(width),
		BitsStride: productSteps * dot.BitBytes(width), Count: rows, Steps: productSteps}
	w.Nibble, w.Bits = make([]byte, rows*w.NibbleStride), make([]byte, rows*w.BitsStride)
	for _, b := range [][]byte{w.Nibble, w.Bits} {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	return w
}

// vectors returns the quantized activations of productTokens tokens.
func vectors(k dot.Kernels) (x []int8, stride int) {
	one := quantized(k, productSteps)
	for range productTokens {
		x = append(x, one...)
	}
	return x, len(one)
}

func gemmWork(k dot.Kernels) work {
	codes := randomRows(8, dot.PanelRows).Nibble
	for i := range codes {
		codes[i] &= 63
	}
	x, stride := vectors(k)
	tile, out := make([]byte, dot.PanelBytes(productSteps)), make([]int32, 2*dot.PanelRows*productTokens)
	return work{float64(len(codes) * productTokens), func() error {
		k.Panel(tile, codes, productSteps*dot.StepCols, productSteps)
		k.Gemm(out, tile, 6, productSteps, dot.Tokens{Q: x, Stride: stride, Count: productTokens})
		return nil
	}}
}

func gemmBlocksWork(k dot.Kernels, block int) work {
	w := randomRows(8, dot.BlockRows)
	for i := range w.Nibble {
		w.Nibble[i] &= 63
	}
	w.Width, w.ScaleStride = 6, productSteps*dot.StepCols/block
	w.Scale = make([]float32, dot.BlockRows*w.ScaleStride)
	for i := range w.Scale {
		w.Scale[i] = 1 + float32(i%7)
	}
	x, stride := vectors(k)
	n := dot.BlockRows * productTokens
	acc, rest, scale := make([]float32, n), make([]float32, n), make([]float32, productTokens)
	return work{float64(len(w.Nibble) * productTokens), func() error {
		k.GemmBlocks(acc, rest, scale, w, block, dot.Tokens{Q: x, Stride: stride, Count: productTokens})
		return nil
	}}
}
