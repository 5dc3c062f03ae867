package dot

import (
	"encoding/binary"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

const (
	// RegularCode is the code of the number 0 of planes with escapes.
	RegularCode = 128
	// belowRegular is how many escapes in nibbles stand for codes below it; longEscape says that a byte follows.
	belowRegular = 7
	longEscape   = 15

	// EscapeSlack is how many bytes after the escapes of a row must exist: as many more are expanded for it as the longest row of a
	// tile has.
	EscapeSlack = 4096
)

// HasEscapes reports whether k has instructions for rows with escapes. Other instruction sets multiply them, but slowly.
func (k Kernels) HasEscapes() bool { return k.ISA == isa.AVX512 }

// NibbleEscapes returns the codes that rows with escapes hold in their planes and nibbles.
func NibbleEscapes(width int) (first, last int) {
	return RegularCode - belowRegular, RegularCode + 1<<width - 2 + longEscape - belowRegular
}

// MaxEscapeBytes returns the most bytes that a row's escapes take, and what PackEscapes may write after them.
func MaxEscapeBytes(steps int) int { return 2 + steps*StepCols*3/2 + StepCols }

// ScratchBytes returns the size of Rows.Scratch: two rows' escapes, expanded.
func ScratchBytes(steps int) int { return 2 * expandedBytes(steps) }

// expandedBytes is room for a row's escapes, a vector that a step reads after them, and one written after them.
func expandedBytes(steps int) int { return (steps + 2) * StepCols }

// CodeBits returns the number of bits of w's codes.
func (w *Rows) CodeBits() int {
	if w.Escaped {
		return 8
	}
	return w.Width
}

// EscapeCount returns how many escapes a row has, given what PackEscapes wrote.
func EscapeCount(escape []byte) int { return int(binary.LittleEndian.Uint16(escape)) }

// PackEscapes packs codes − low, modulo 256, as a row with escapes. These go to escape[:MaxEscapeBytes(w.Steps)]; it returns the
// number of their bytes. w gives Width, Steps and Scratch.
func (k Kernels) PackEscapes(w *Rows, low int, nibble, bits, escape, codes []byte) int {
	if k.ISA == isa.AVX512 && w.Steps > 0 {
		return packEscapesAVX512(w, low, nibble, bits, escape, codes)
	}
	planes := make([]byte, w.Steps*StepCols)
	n := packEscapesGeneric(w, byte(low), planes, escape, codes)
	With(isa.Generic).packGeneric(w.Width, nibble, bits, planes, w.Steps)
	return n
}

// UnpackRow sets codes to row r.
func (k Kernels) UnpackRow(w *Rows, r int, codes []byte) {
	nibble, bits := w.Nibble[r*w.NibbleStride:], w.Bits[min(len(w.Bits), r*w.BitsStride):]
	switch {
	case !w.Escaped:
		k.Unpack(w.Width, codes, nibble, bits, w.Steps)
	case k.ISA == isa.AVX512 && w.Steps > 0:
		one := *w
		one.Nibble, one.Bits, one.Start, one.Count = nibble, bits, w.Start[r*w.StartStride:], 1
		unpackRowsAVX512(codes, &one)
	default:
		With(isa.Generic).unpackGeneric(w.Width, codes, nibble, bits, w.Steps)
		insertEscapesGeneric(w, codes[:w.Steps*StepCols], w.Escape[w.Start[r*w.StartStride]:])
	}
}

// UnpackRows sets codes to all rows plus add, each 64·Steps bytes after the one before. No sum may be above 255.
func (k Kernels) UnpackRows(w *Rows, codes []byte, add uint8) {
	whole := w.NibbleStride == w.Steps*NibbleBytes(w.Width) && w.BitsStride == w.Steps*BitBytes(w.Width)
	if k.ISA == isa.AVX2 && w.Steps > 0 && w.Count > 0 && w.Width >= 4 && w.Width < 7 && !w.Escaped && whole {
		unpackAVX2(w.Width, codes, w.Nibble, w.Bits, w.Steps*w.Count, add)
		return
	}
	k.unpackRows(w, codes)
	if add > 0 {
		k.Raise(codes[:w.Count*w.Steps*StepCols], add)
	}
}

func (k Kernels) unpackRows(w *Rows, codes []byte) {
	if k.ISA == isa.AVX512 && w.Steps > 0 && w.Count > 0 && w.Width < 7 {
		unpackRowsAVX512(codes, w)
		return
	}
	for r := range w.Count {
		k.UnpackRow(w, r, codes[r*w.Steps*StepCols:])
	}
}

// packEscapesGeneric writes a row's escapes and returns their bytes; planes get what is left.
func packEscapesGeneric(w *Rows, low byte, planes, escape, codes []byte) int {
	marker, n := byte(1<<w.Width-1), 0
	var long []byte
	nibbles := escape[2:]
	for c, u := range codes[:len(planes)] {
		u -= low
		planes[c] = min(u-RegularCode, marker)
		if planes[c] < marker {
			continue
		}
		e := nibbleOf(u, marker)
		if e == longEscape {
			long = append(long, u)
		}
		if n%2 == 0 {
			nibbles[n/2] = e
		} else {
			nibbles[n/2] |= e << 4
		}
		n++
	}
	binary.LittleEndian.PutUint16(escape, uint16(n))
	end := 2 + (n+1)/2
	return end + copy(escape[end:], long)
}

// nibbleOf returns the escape of a code.
func nibbleOf(u, marker byte) byte {
	if e := u - (RegularCode - belowRegular); e < belowRegular {
		return e
	}
	if e := u - (RegularCode + marker); e < longEscape-belowRegular {
		return e + belowRegular
	}
	return longEscape
}

// insertEscapesGeneric turns the planes' numbers into codes.
func insertEscapesGeneric(w *Rows, codes, escape []byte) {
	marker, n := byte(1<<w.Width-1), 0
	nibbles, long := escape[2:], escape[2+(EscapeCount(escape)+1)/2:]
	for c, p := range codes {
		if p != marker {
			codes[c] = p + RegularCode
			continue
		}
		e := nibbles[n/2] >> (n % 2 * 4) & 15
		n++
		switch {
		case e < belowRegular:
			codes[c] = RegularCode - belowRegular + e
		case e < longEscape:
			codes[c] = RegularCode + marker + e - belowRegular
		default:
			codes[c], long = long[0], long[1:]
		}
	}
}
