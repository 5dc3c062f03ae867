package dot

// Escapes says how rows keep codes that do not fit their planes, see the package's comment.
type Escapes int

const (
	NoEscapes     Escapes = iota
	EscapeNibbles         // planes of 4 bits, 16 more codes
	EscapeBytes           // planes of 5 or 6 bits, all codes of 8 bits
)

// Codes that rows with EscapeNibbles can hold: RegularNibbleCode … RegularNibbleCode+14 in the planes, and 8 on both sides.
const (
	FirstNibbleCode   = 8
	LastNibbleCode    = 38
	RegularNibbleCode = 16
)

// EscapeSlack is how many bytes behind the escapes of a row must exist.
const EscapeSlack = 64

// HasEscapes reports whether i has instructions for rows with escapes. Other instruction sets multiply them, but slowly.
func (i ISA) HasEscapes() bool { return i == AVX512 }

// CodeBits returns the number of bits of w's codes.
func (w *Rows) CodeBits() int {
	switch w.Escapes {
	case EscapeNibbles:
		return 6
	case EscapeBytes:
		return 8
	}
	return w.Width
}

// PackEscapes is Pack for rows with escapes, which it appends to escape[:0]; their number of bytes, which it returns, is at most one per code, and
// there must be room for EscapeSlack more. w gives Width, Escapes, Low and Steps.
func (i ISA) PackEscapes(w *Rows, nibble, bits, escape, codes []byte) int {
	if i == AVX512 && w.Steps > 0 {
		return packEscapesAVX512(w, nibble, bits, escape, codes)
	}
	planes := make([]byte, w.Steps*StepCols)
	n := packEscapesGeneric(w, planes, escape, codes)
	packGeneric(w.Width, nibble, bits, planes, w.Steps)
	return n
}

// UnpackRow sets codes to row r.
func (i ISA) UnpackRow(w *Rows, r int, codes []byte) {
	nibble, bits := w.Nibble[r*w.NibbleStride:], w.Bits[min(len(w.Bits), r*w.BitsStride):]
	switch {
	case w.Escapes == NoEscapes:
		i.Unpack(w.Width, codes, nibble, bits, w.Steps)
	case i == AVX512 && w.Steps > 0:
		unpackEscapesAVX512(w, codes, nibble, bits, w.Escape[w.Start[r*w.StartStride]:])
	default:
		unpackGeneric(w.Width, codes, nibble, bits, w.Steps)
		insertEscapesGeneric(w, codes[:w.Steps*StepCols], w.Escape[w.Start[r*w.StartStride]:])
	}
}

func packEscapesGeneric(w *Rows, planes, escape, codes []byte) int {
	marker, at := byte(1<<w.Width-1), 0
	var list [StepCols]byte
	for s := range w.Steps {
		n := 0
		for c, u := range codes[s*StepCols:][:StepCols] {
			low := byte(w.Low)
			if w.Escapes == EscapeNibbles {
				low = RegularNibbleCode
			}
			p := min(u-low, marker)
			planes[s*StepCols+c] = p
			if p == marker {
				list[n] = u
				n++
			}
		}
		if w.Escapes == EscapeBytes {
			at += copy(escape[at:], list[:n])
			continue
		}
		clear(list[n:])
		for c := 0; c < n; c += 2 {
			escape[at] = nibbleOf(list[c]) | nibbleOf(list[c+1])<<4
			at++
		}
	}
	return at
}

// nibbleOf returns the escape of a code; 0 where there is none.
func nibbleOf(u byte) byte {
	switch {
	case u >= RegularNibbleCode:
		return (u - RegularNibbleCode + 9) & 15
	case u >= FirstNibbleCode:
		return u - FirstNibbleCode
	}
	return 0
}

// insertEscapesGeneric turns the planes' numbers into codes.
func insertEscapesGeneric(w *Rows, codes, escape []byte) {
	marker, at := byte(1<<w.Width-1), 0
	for s := 0; s < len(codes); s += StepCols {
		n := 0
		for c, p := range codes[s : s+StepCols] {
			u := &codes[s+c]
			switch {
			case p != marker && w.Escapes == EscapeNibbles:
				*u = p + RegularNibbleCode
			case p != marker:
				*u = p + byte(w.Low)
			case w.Escapes == EscapeNibbles:
				e := escape[at+n/2] >> (n % 2 * 4) & 15
				if *u = e + FirstNibbleCode; e >= 8 {
					*u = e + RegularNibbleCode + 7
				}
				n++
			default:
				*u = escape[at+n]
				n++
			}
		}
		if w.Escapes == EscapeNibbles {
			n = (n + 1) / 2
		}
		at += n
	}
}
