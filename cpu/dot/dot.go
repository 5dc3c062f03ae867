// Package dot multiplies packed integer codes with activations quantized to 16 bits. All sums of whole numbers are exact, so every
// instruction set gives the same bits and a product does not depend on how its rows were split over threads.
//
// # Activations
//
// A tile of up to MaxSteps steps of 64 activations has one scale: x ≈ scale · v with |v| ≤ 32,512. v = 256·hi + lo is stored as 64 bytes hi then 64
// bytes lo per step, because the fast instructions multiply bytes.
//
// # Codes
//
// Codes are unsigned, 4, 5, 6 or 8 bits wide. Of a row's step the low 4 bits take 32 bytes: byte i holds column i in its low nibble and
// column 32 + i in its high one; each further bit takes 8 bytes, a plane: bit b of byte i is column 8b + i, but with AVX-512 column 8i + b. So rows belong to
// the instruction set that packed them. Codes of 8 bits are plain bytes;
// as width 7 these are below 128, or 1<<Rows.Below, which is faster with AVX2. Nothing is packed with that width.
//
// # Escapes
//
// Quantized weights are bell-shaped: few codes lie outside of a narrow window. Rows may keep these apart. Their planes have 3 to 6 bits, of which the low
// 2 of 3 are in the main plane: byte i holds columns i, 16 + i, 32 + i and 48 + i. Numbers n of the planes stand for codes 128 + n; where the number is the largest one, the code is the row's
// next escape. A row's escapes are their number in 16 bits, a nibble e each, the low one of a byte first, and a byte for every e = 15. The nibbles stand for the
// codes beside the window: 121 + e (e < 7) and 120 + 2^width + e; 15 for the next byte, which is a code.
package dot

// StepCols is the number of columns of a step.
const StepCols = 64

// MaxValue bounds the magnitude of quantized activations: 127·256 + 127 would overflow the high byte when rounded.
const MaxValue = 127 * 256

// ISA is an instruction set with kernels in this package.
type ISA int

const (
	Generic ISA = iota // portable Go
	AVX2               // AVX2 and FMA
	AVX512             // AVX-512 F, BW, DQ, VL, VBMI2 and VNNI
	NEON               // of ARMv8.0-A
)

func (i ISA) String() string { return [...]string{"generic Go", "AVX2", "AVX-512 VNNI", "NEON"}[i] }

// Best returns the fastest instruction set of this processor.
func Best() ISA {
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
	Scale        []float32 // Blocks only: row r's block scales start at r·ScaleStride
	ScaleStride  int
	Count        int
	Steps        int
}

// Quantize splits x into hi and lo bytes at dst (128 bytes per step; x is padded with zeros to whole steps) and returns the scale and Σ v.
func (i ISA) Quantize(dst []int8, x []float32) (scale float32, sum int64) {
	steps := (len(x) + StepCols - 1) / StepCols
	if i != Generic && len(x) == steps*StepCols && steps > 0 {
		return i.quantizeASM(dst, x, steps)
	}
	return quantizeGeneric(dst, x, steps)
}

// Dot writes the product of every row in two parts: it is 256·out[2r] + out[2r+1].
func (i ISA) Dot(out []int32, w *Rows, x []int8) {
	if i != Generic && w.Count > 0 && w.Steps > 0 && (!w.Escaped || i == AVX512) {
		i.dotASM(out, w, x)
	} else {
		dotGeneric(i, out, w, x)
	}
	if w.CorrectStart != nil {
		i.correct(out, w, x)
	}
}

// DotBlocks writes Σ_b scale_b · Σ_{c in b} u·v of every row to out[r]; block is 16 or 32 columns.
func (i ISA) DotBlocks(out []float32, w *Rows, block int, x []int8) {
	if i != Generic && w.Count > 0 && w.Steps > 0 && (block == 16 || block == 32) {
		i.dotBlocksASM(out, w, block, x)
		return
	}
	dotBlocksGeneric(i, out, w, block, x)
}

// Pack turns a row of steps·64 codes into planes.
func (i ISA) Pack(width int, nibble, bits, codes []byte, steps int) {
	switch {
	case width == 8:
		copy(nibble[:steps*StepCols], codes)
	case i == AVX512 && steps > 0:
		packAVX512(width, nibble, bits, codes, steps)
	default:
		packGeneric(i, width, nibble, bits, codes, steps)
	}
}

// Unpack is the inverse of Pack.
func (i ISA) Unpack(width int, codes, nibble, bits []byte, steps int) {
	switch {
	case width == 8:
		copy(codes[:steps*StepCols], nibble)
	case i == AVX512 && steps > 0:
		unpackAVX512(width, codes, nibble, bits, steps)
	default:
		unpackGeneric(i, width, codes, nibble, bits, steps)
	}
}

// TileRows is the number of rows that Tile and Gemm work on.
const TileRows = 32

// TileBytes returns the size of a tile.
func TileBytes(steps int) int { return TileRows * StepCols * steps }

// Tile reorders 32 rows of codes, one byte each and stride bytes apart, for Gemm: with AVX2 and AVX-512 [16·steps][32 rows][4 columns], else [32 rows][64·steps].
func (i ISA) Tile(dst, codes []byte, stride, steps int) {
	switch {
	case i == AVX512 && steps > 0:
		tileAVX512(dst, codes, stride, steps)
	case i == AVX2 && steps > 0:
		tileAVX2(dst, codes, stride, steps)
	default:
		tileRows(dst, codes, stride, steps)
	}
}

// Gemm multiplies a tile of codes below 1<<width with tokens whose quantized activations lie xStride bytes apart: out is int32[tokens][2][32 rows],
// the two parts of the products.
func (i ISA) Gemm(out []int32, tile []byte, width int, x []int8, xStride, steps, tokens int) {
	switch {
	case i == AVX512 && steps > 0:
		gemmAVX512(out, tile, x, xStride, steps, tokens)
	case i == AVX2 && steps > 0:
		gemmAVX2(out, tile, width, x, xStride, steps, tokens)
	case i == NEON && steps > 0:
		gemmNEON(out, tile, x, xStride, steps, tokens)
	default:
		gemmGeneric(out, tile, x, xStride, steps, tokens)
	}
}

// BlockRows is the number of rows that GemmBlocks works on.
const BlockRows = 4

// GemmBlocks multiplies four rows of codes below 1<<w.Width, one byte each, with tokens whose quantized activations lie xStride bytes apart:
//
//	acc[t][r] += scale[t] · (DotBlocks(row r, token t) + rest[t][r])
//
// in exactly this order, with exactly DotBlocks' sum. acc and rest are float32[tokens][4]; block is 16 or 32 columns.
func (i ISA) GemmBlocks(acc, rest, scale []float32, w *Rows, block int, x []int8, xStride, tokens int) {
	if i != Generic && w.Steps > 0 && (block == 16 || block == 32) {
		i.gemmBlocksASM(acc, rest, scale, w, block, x, xStride, tokens)
		return
	}
	gemmBlocksGeneric(i, acc, rest, scale, w, block, x, xStride, tokens)
}
