// Package dot multiplies packed integer codes with activations quantized to 16 bits. All sums of whole numbers are exact, so
// every instruction set gives the same bits and a product does not depend on how its rows were split over threads.
//
// # Activations
//
// A tile of up to MaxSteps steps of 64 activations has one scale: x ≈ scale · v with |v| ≤ 32,512. v = 256·hi + lo is stored as
// 64 bytes hi then 64 bytes lo per step, because the fast instructions multiply bytes.
//
// Activations of 8 bits have a factor per step besides: x ≈ scale · factor · q with |q| ≤ 127 and 1 ≤ factor ≤ 255. A step whose
// factor is much larger than the tile's others, which would have most of the error, gets four bits more: x ≈ scale · v, v =
// factor · q + f · n with −8 ≤ n ≤ 7. v has at most 16 bits, so such products are those of coarser 16-bit activations, and as
// exact. AVX2 multiplies the bytes q and takes the factors where it widens the products. Its steps are 64 bytes q; factor, then f
// (0: there are no n), each as two 16-bit numbers; 24 bytes that are not used; and 32 bytes n + 8, in the low nibbles columns 0
// to 31. Other instruction sets keep v as above.
//
// # Codes
//
// Codes are unsigned, 4, 5, 6 or 8 bits wide. Of a row's step the low 4 bits take 32 bytes: byte i holds column i in its low
// nibble and column 32 + i in its high one; each further bit takes 8 bytes, a plane: bit b of byte i is column 8b + i, but with
// AVX-512 column 8i + b. With AVX2 the two further bits of 6 lie in 16 bytes side by side: byte i has those of columns i, 16 + i,
// 32 + i and 48 + i, the first lowest. So rows belong to the instruction set that packed them. Codes of 8 bits are plain bytes;
// as width 7 these are below 128, or 1<<Rows.Below, which is faster with AVX2. Nothing is packed with that width.
//
// # Escapes
//
// Quantized weights are bell-shaped: few codes lie outside of a narrow window. Rows may store these separately. Their planes have
// 3 to 6 bits, of which the low 2 of 3 are in the main plane: byte i holds columns i, 16 + i, 32 + i and 48 + i. Numbers n of the
// planes stand for codes 128 + n; where the number is the largest one, the code is the row's next escape. A row's escapes are
// their number in 16 bits, a nibble e each, the low one of a byte first, and a byte for every e = 15. The nibbles stand for the
// codes beside the window: 121 + e (e < 7) and 120 + 2^width + e; 15 for the next byte, which is a code.
package dot

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// StepCols is the number of columns of a step.
const StepCols = 64

// MaxValue bounds the magnitude of quantized activations: 127·256 + 127 would overflow the high byte when rounded.
const MaxValue = 127 * 256

// Kernels are this package's functions in one instruction set, for activations of 16 or 8 bits: AVX2 needs FMA too, AVX-512 needs
// F, BW, DQ, VL, VBMI2 and VNNI.
type Kernels struct {
	isa.ISA
	narrow bool // activations have 8 bits
}

// With returns the functions in instruction set i, which must be one of Available, for activations of 16 bits.
func With(i isa.ISA) Kernels { return Kernels{ISA: i} }

// WithBits returns the functions for activations of 8 or 16 bits.
func (k Kernels) WithBits(bits int) Kernels { return Kernels{k.ISA, bits == 8} }

// FastNarrow reports whether products with 8-bit activations are faster than those with 16-bit ones.
func (k Kernels) FastNarrow() bool { return k.ISA == isa.AVX2 }

// Factored reports whether activations lie in memory as bytes and factors.
func (k Kernels) Factored() bool { return k.narrow && k.ISA == isa.AVX2 }

// Best returns the fastest functions of this processor.
func Best() Kernels {
	all := Available()
	return all[len(all)-1]
}

// widths lists the supported code widths in bits.
var widths = [...]int{4, 5, 6, 8}

// WidthFor returns the smallest supported width of at least bits, at most 8.
func WidthFor(bits int) int {
	for _, w := range widths {
		if w >= bits {
			return w
		}
	}
	return 8
}

// mainBits returns the bits of a code that are in the main plane.
func mainBits(width int) int {
	switch {
	case width >= 7:
		return 8
	case width == 3:
		return 2
	}
	return 4
}

// NibbleBytes returns the bytes per step of a row's main plane: 32; 64 for codes of 7 and 8 bits, 16 for 3 bits.
func NibbleBytes(width int) int { return StepCols / 8 * mainBits(width) }

// BitBytes returns the bytes per step of a row's bit planes.
func BitBytes(width int) int { return 8 * max(0, width-mainBits(width)) }

// Rows is a run of packed rows with a constant distance between them.
type Rows struct {
	Width        int
	Below        int    // width 7 only: codes are below 1<<Below; 0: 7
	Nibble, Bits []byte // row r's steps start at r·NibbleStride and r·BitsStride
	NibbleStride int
	BitsStride   int
	Escaped      bool
	Escape       []byte   // escapes of all rows, and EscapeSlack bytes
	Start        []uint32 // row r's begin at Escape[Start[r·StartStride]]
	StartStride  int
	Most         int       // the most escapes that a row has
	Scratch      []byte    // ScratchBytes for escapes
	Correct      []uint16  // corrections of all rows
	CorrectStart []uint32  // row r's are Correct[CorrectStart[r]:CorrectStart[r+1]]; nil: there are none
	Values       []int16   // the activations as Kernels.Values gives them, or nil: Dot finds them itself
	Sums         []int32   // memory for running sums of corrections, or nil
	Ahead        []byte    // planes that are read next, fetched while corrections are added up; or nil
	Scale        []float32 // Blocks only: row r's block scales start at r·ScaleStride
	ScaleStride  int
	Count        int
	Steps        int
}

// Quantize splits x into hi and lo bytes at dst (128 bytes per step; x is padded with zeros to whole steps) and returns the scale
// and Σ v.
func (k Kernels) Quantize(dst []int8, x []float32) (scale float32, sum int64) {
	steps := (len(x) + StepCols - 1) / StepCols
	if k.narrow {
		return k.quantizeNarrow(dst, x, steps)
	}
	if k.ISA != isa.Generic && len(x) == steps*StepCols && steps > 0 {
		return k.quantizeASM(dst, x, steps)
	}
	return quantizeGeneric(dst, x, steps)
}

// Dot writes the product of every row in two parts: it is 256·out[2r] + out[2r+1].
func (k Kernels) Dot(out []int32, w *Rows, x []int8) {
	switch {
	case w.Count == 0 || w.Steps == 0:
		clear(out[:2*w.Count])
	case k.Factored():
		k.dotNarrow(out, w, x)
	case k.ISA != isa.Generic && (!w.Escaped || k.ISA == isa.AVX512):
		k.dotASM(out, w, x)
	default:
		k.dotGeneric(out, w, x)
	}
	if w.CorrectStart != nil {
		k.correct(out, w, x)
	}
}

// DotBlocks, with activations of 16 bits, writes Σ_b scale_b · Σ_{c in b} u·v of every row to out[r]; block is 16 or 32 columns.
func (k Kernels) DotBlocks(out []float32, w *Rows, block int, x []int8) {
	if k.ISA != isa.Generic && w.Count > 0 && w.Steps > 0 && (block == 16 || block == 32) {
		k.dotBlocksASM(out, w, block, x)
		return
	}
	k.dotBlocksGeneric(out, w, block, x)
}

// Pack turns a row of steps·64 codes into planes.
func (k Kernels) Pack(width int, nibble, bits, codes []byte, steps int) {
	switch {
	case width == 8:
		copy(nibble[:steps*StepCols], codes)
	case k.ISA == isa.AVX512 && steps > 0:
		packAVX512(width, nibble, bits, codes, steps)
	case k.ISA == isa.AVX2 && steps > 0 && width >= 4:
		packAVX2(width, nibble, bits, codes, steps)
	default:
		k.packGeneric(width, nibble, bits, codes, steps)
	}
}

// Unpack is the inverse of Pack.
func (k Kernels) Unpack(width int, codes, nibble, bits []byte, steps int) {
	switch {
	case width == 8:
		copy(codes[:steps*StepCols], nibble)
	case k.ISA == isa.AVX512 && steps > 0:
		unpackAVX512(width, codes, nibble, bits, steps)
	case k.ISA == isa.AVX2 && steps > 0 && width >= 4:
		unpackAVX2(width, codes, nibble, bits, steps, 0)
	default:
		k.unpackGeneric(width, codes, nibble, bits, steps)
	}
}

// PanelRows is the number of rows that Panel and Gemm work on.
const PanelRows = 32

// PanelBytes returns the size of a panel.
func PanelBytes(steps int) int { return PanelRows * StepCols * steps }

// Panel reorders 32 rows of codes, one byte each and stride bytes apart, for Gemm: where activations are Factored [16·steps][32
// rows][4 columns], else [32 rows][64·steps].
func (k Kernels) Panel(dst, codes []byte, stride, steps int) {
	if k.Factored() && steps > 0 {
		panelAVX2(dst, codes, stride, steps)
		return
	}
	panelRows(dst, codes, stride, steps)
}

// Tokens are the quantized activations of some tokens.
type Tokens struct {
	Q      []int8
	Stride int // bytes from one token's to the next one's
	Count  int
}

// from returns the activations of token t and those after it.
func (x *Tokens) from(t int) []int8 { return x.Q[t*x.Stride:] }

// Gemm multiplies a panel of codes below 1<<width with tokens: out is int32[tokens][2][32 rows], the two parts of the products.
// Where there are words, GemmWords is faster.
func (k Kernels) Gemm(out []int32, panel []byte, width int, steps int, x Tokens) {
	switch {
	case k.Factored():
		gemmNarrow(out, panel, width, steps, x)
	case k.ISA == isa.NEON && steps > 0:
		gemmNEON(out, panel, steps, x)
	default:
		gemmGeneric(out, panel, steps, x)
	}
}

// BlockRows is the number of rows that GemmBlocks works on.
const BlockRows = 4

// GemmBlocks, with activations of 16 bits, multiplies four rows of codes below 1<<w.Width, one byte each, with tokens:
//
//	acc[t][r] += scale[t] · (DotBlocks(row r, token t) + rest[t][r])
//
// in exactly this order, with exactly DotBlocks' sum. acc and rest are float32[tokens][4]; block is 16 or 32 columns.
func (k Kernels) GemmBlocks(acc, rest, scale []float32, w *Rows, block int, x Tokens) {
	if k.ISA != isa.Generic && w.Steps > 0 && (block == 16 || block == 32) {
		k.gemmBlocksASM(acc, rest, scale, w, block, x)
		return
	}
	k.gemmBlocksGeneric(acc, rest, scale, w, block, x)
}
