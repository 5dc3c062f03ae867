package format

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// bitWriter appends to a bit string that fills bytes from the least significant bit.
type bitWriter struct {
	b    []byte
	acc  uint64
	have uint
}

// put appends the low n ≤ 32 bits of v, least significant first.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= (v & (1<<n - 1)) << w.have
	for w.have += n; w.have >= 8; w.have -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

// rice appends the Golomb–Rice code of v: v >> k zeros and a one, then the low k bits of v.
func (w *bitWriter) rice(v uint64, k uint) {
	q := v >> k
	for ; q >= 32; q -= 32 {
		w.put(0, 32)
	}
	w.put(1<<q, uint(q)+1)
	w.put(v, k)
}

// gamma appends the Elias gamma code of v ≥ 1: n zeros and a one, then the low n bits of v, where 2^n ≤ v < 2^(n+1).
func (w *bitWriter) gamma(v uint64) {
	n := uint(bits.Len64(v)) - 1
	w.put(1<<n, n+1)
	w.put(v, n)
}

// bytes returns the string, filled up with zeros.
func (w *bitWriter) bytes() []byte {
	w.put(0, -w.have%8)
	return w.b
}

// bitReader reads such a string. Behind its end it finds zeros, and left becomes negative.
type bitReader struct {
	b  []byte
	at int // bit
}

func (r *bitReader) left() int { return 8*len(r.b) - r.at }

// peek returns the next bits, at least 57 of them.
func (r *bitReader) peek() uint64 {
	if i := r.at >> 3; i+8 <= len(r.b) {
		return binary.LittleEndian.Uint64(r.b[i:]) >> (r.at & 7)
	}
	return r.peekEnd()
}

// peekEnd is peek for the last bytes.
func (r *bitReader) peekEnd() uint64 {
	var last [8]byte
	if i := r.at >> 3; i < len(r.b) {
		copy(last[:], r.b[i:])
	}
	return binary.LittleEndian.Uint64(last[:]) >> (r.at & 7)
}

// get reads n ≤ 32 bits.
func (r *bitReader) get(n uint) uint64 {
	v := r.peek() & (1<<n - 1)
	r.at += int(n)
	return v
}

// unary reads zeros up to a one, or to the end of the string.
func (r *bitReader) unary() uint {
	v, q := r.peek(), uint(0)
	for v == 0 && r.left() > 0 {
		n := 64 - r.at&7
		q += uint(n)
		r.at += n
		v = r.peek()
	}
	n := uint(bits.TrailingZeros64(v)) // 64 at the end
	r.at += int(n) + 1
	return q + n
}

// rice is the inverse of bitWriter.rice.
func (r *bitReader) rice(k uint) uint64 {
	v := r.peek()
	if n := uint(bits.TrailingZeros64(v)); n+k < 56 {
		r.at += int(n + 1 + k)
		return uint64(n)<<k | v>>(n+1)&(1<<k-1)
	}
	q := uint64(r.unary())
	return q<<k | r.get(k)
}

// end checks that nothing is left of the part but zeros up to a whole byte.
func (r *bitReader) end(part string) error {
	if left := r.left(); left < 0 || left > 7 || r.get(uint(left)) != 0 {
		return fmt.Errorf("%s: %d bits are left after the last number, expected zeros up to a whole byte", part, left)
	}
	return nil
}
