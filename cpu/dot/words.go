package dot

import (
	"encoding/binary"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// HasWords reports whether k multiplies activations of several tokens as 16-bit words.
func (k Kernels) HasWords() bool { return !k.Factored() && (k.ISA == isa.AVX512 || k.ISA == isa.AVX2) }

// Words are the activations of some tokens as whole numbers, of each step the 32 even columns first, then the odd ones.
type Words struct {
	V      []int16
	Stride int // numbers from one token's to the next one's
	Count  int
	Ahead  []byte // memory that is needed next: it is fetched while codes are multiplied
}

// from returns the activations of token t and those after it.
func (x *Words) from(t int) []int16 { return x.V[t*x.Stride:] }

// Words sets v to the activations of `steps` steps in the order of type Words.
func (k Kernels) Words(v []int16, x []int8, steps int) {
	if k.HasWords() && steps > 0 {
		wordsAVX2(v, x, steps)
		return
	}
	for s := range steps {
		out, hi, lo := v[s*StepCols:][:StepCols], x[2*s*StepCols:][:StepCols], x[(2*s+1)*StepCols:][:StepCols]
		for c := range out {
			out[c%2*StepCols/2+c/2] = int16(hi[c])<<8 + int16(lo[c])
		}
	}
}

// GemmWords multiplies rows of codes of one byte each, stride bytes apart, with tokens: out is int32[tokens][2][32 rows], the two
// parts of the products. rows is at most PanelRows; it is rounded up to BlockRows, and there must be memory for as many.
func (k Kernels) GemmWords(out []int32, codes []byte, stride, rows, steps int, x Words) {
	rows = (rows + BlockRows - 1) / BlockRows * BlockRows
	switch {
	case rows == 0 || x.Count == 0:
	case steps == 0:
		clear(out[:2*PanelRows*x.Count])
	case k.HasWords():
		k.gemmWordsASM(out, codes, stride, rows, steps, x)
	default:
		gemmWordsGeneric(out, codes, stride, rows, steps, x)
	}
}

func gemmWordsGeneric(out []int32, codes []byte, stride, rows, steps int, x Words) {
	var v wide
	for t := range x.Count {
		words := x.from(t)
		for c := range steps * StepCols {
			v[c] = int32(words[c/StepCols*StepCols+c%2*StepCols/2+c%StepCols/2])
		}
		acc := out[t*2*PanelRows:][:2*PanelRows]
		for r := 0; r < rows; r += BlockRows {
			for i, sum := range dotFour(codes[r*stride:], stride, BlockRows, &v, steps) {
				acc[r+i], acc[PanelRows+r+i] = int32(sum>>8), int32(sum&0xff)
			}
		}
	}
}

// AddScaled adds scale · (256·hi + lo + offset) to acc: what is in brackets is exact and rounded once.
func (k Kernels) AddScaled(acc []float32, hi, lo []int32, scale float32, offset int64) {
	i := 0
	if k.ISA == isa.AVX2 || k.ISA == isa.AVX512 {
		if i = len(acc) &^ 3; i > 0 {
			addScaledAVX2(acc[:i], hi, lo, scale, offset)
		}
	}
	for ; i < len(acc); i++ {
		acc[i] += float32(scale * float32(int64(hi[i])<<8+int64(lo[i])+offset))
	}
}

// AddPairs is AddScaled with hi and lo of each number side by side, as Dot writes them.
func (k Kernels) AddPairs(acc []float32, sums []int32, scale float32, offset int64) {
	i := 0
	if k.ISA == isa.AVX2 || k.ISA == isa.AVX512 {
		if i = len(acc) &^ 3; i > 0 {
			addPairsAVX2(acc[:i], sums, scale, offset)
		}
	}
	for ; i < len(acc); i++ {
		acc[i] += float32(scale * float32(int64(sums[2*i])<<8+int64(sums[2*i+1])+offset))
	}
}

// Raise adds n to whole steps of bytes, none of which may overflow.
func (k Kernels) Raise(b []byte, n uint8) {
	if len(b) > 0 && (k.ISA == isa.AVX2 || k.ISA == isa.AVX512) {
		raiseAVX2(b, n)
		return
	}
	all := uint64(n) * ones
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])+all)
	}
}
