package decode

import (
	"encoding/binary"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

const (
	// chains is how many lanes are decoded together, so that a processor overlaps their lookups, each of which waits for the one
	// before.
	chains = 4
	// roundPairs is how many pairs of a lane are decoded before its next words are collected.
	roundPairs = 1344
	// roundBytes is a power of two with room for the longest codes of these pairs and for the bits before them in their first word.
	roundBytes = 2048
	// quad is how many pairs of a lane are decoded from one load of 57 bits or more.
	quad = 4
)

// chain is the state of a lane: its next words, joined, and the next bit in them.
type chain struct {
	bit   uint
	word  int // number of the first of these words in the lane
	lane  int
	tail  int                  // where in the stream the lane's words after the interleaved ones begin
	bytes [roundBytes + 8]byte // a load may begin at any of the first roundBytes
}

// collect copies the words that n pairs of the longest codes take, from the one with the next bit on. Guard words follow the
// last chunk for that.
func (h *chain) collect(c *chunk, n int) {
	h.word, h.bit = h.word+int(h.bit/32), h.bit%32
	need := (n*huffman.MaxCodeLen+31)/32 + 1
	main := max(0, min(need, c.mainWords-h.word))
	if main > 0 {
		src, i := c.words[huffman.Lanes*h.word+h.lane:][:huffman.Lanes*(main-1)+1], 0
		for at := 0; at < len(src); at += huffman.Lanes {
			binary.LittleEndian.PutUint32(h.bytes[i:i+4], src[at])
			i = (i + 4) % roundBytes
		}
	}
	first := min(len(c.words), h.tail+max(0, h.word-c.mainWords))
	rest := c.words[first:min(len(c.words), first+need-main)]
	copy(h.bytes[4*main:], unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(rest))), 4*len(rest)))
}

// decodeGeneric decodes a few lanes at a time. Entries of the decoding table are values << 16 | length.
func decodeGeneric(c *chunk, dst []byte, stride int) {
	var h [chains]chain
	tail := huffman.Lanes * c.mainWords
	rows := roundPairs / c.steps
	for lane := 0; lane < huffman.Lanes; lane += chains {
		for l := range h {
			h[l].lane, h[l].word, h[l].bit, h[l].tail = lane+l, 0, 0, tail
			tail += int(c.tail[lane+l])
		}
		for row := 0; row < c.rows; row += rows {
			n := min(rows, c.rows-row)
			for l := range h {
				h[l].collect(c, n*c.steps)
			}
			decodeRows(&h, c.lut, dst[row*stride+2*lane:], stride, n, c.steps)
		}
	}
	if c.lowBits > 0 {
		orLow(c, dst, stride)
	}
}

// next returns at least 57 of the bits from the next one on.
func (h *chain) next(bit uint) uint64 {
	i := bit / 8 % roundBytes
	return binary.LittleEndian.Uint64(h.bytes[i:i+8]) >> (bit % 8)
}

// put stores the values of one table entry from each lane.
func put(p []byte, e0, e1, e2, e3 uint32) {
	binary.LittleEndian.PutUint64(p, uint64(e0>>16|e1&^0xffff)|uint64(e2>>16|e3&^0xffff)<<32)
}

// decodeRows decodes rows of four neighbouring lanes from the words that were collected. Lengths are below 1<<16 in any sum of
// four entries.
func decodeRows(h *[chains]chain, lut []uint32, dst []byte, stride, rows, steps int) {
	const step = format.StepCols
	if len(lut) == 0 {
		return
	}
	mask := uint64(len(lut) - 1)
	b0, b1, b2, b3 := h[0].bit, h[1].bit, h[2].bit, h[3].bit
	for r := range rows {
		d := dst[r*stride:]
		n := steps
		for ; n >= quad; n -= quad {
			p := (*[(quad-1)*step + 2*chains]byte)(d)
			a0, a1, a2, a3 := h[0].next(b0), h[1].next(b1), h[2].next(b2), h[3].next(b3)
			e0, e1, e2, e3 := lut[a0&mask], lut[a1&mask], lut[a2&mask], lut[a3&mask]
			put(p[:], e0, e1, e2, e3)
			a0, a1, a2, a3 = a0>>(e0&63), a1>>(e1&63), a2>>(e2&63), a3>>(e3&63)
			f0, f1, f2, f3 := lut[a0&mask], lut[a1&mask], lut[a2&mask], lut[a3&mask]
			put(p[step:], f0, f1, f2, f3)
			a0, a1, a2, a3 = a0>>(f0&63), a1>>(f1&63), a2>>(f2&63), a3>>(f3&63)
			e0, e1, e2, e3 = e0+f0, e1+f1, e2+f2, e3+f3
			f0, f1, f2, f3 = lut[a0&mask], lut[a1&mask], lut[a2&mask], lut[a3&mask]
			put(p[2*step:], f0, f1, f2, f3)
			a0, a1, a2, a3 = a0>>(f0&63), a1>>(f1&63), a2>>(f2&63), a3>>(f3&63)
			e0, e1, e2, e3 = e0+f0, e1+f1, e2+f2, e3+f3
			f0, f1, f2, f3 = lut[a0&mask], lut[a1&mask], lut[a2&mask], lut[a3&mask]
			put(p[3*step:], f0, f1, f2, f3)
			b0, b1, b2, b3 = b0+uint((e0+f0)&0xffff), b1+uint((e1+f1)&0xffff), b2+uint((e2+f2)&0xffff), b3+uint((e3+f3)&0xffff)
			if n > quad {
				d = d[quad*step:]
			}
		}
		for ; n > 0; n-- {
			e0, e1, e2, e3 := lut[h[0].next(b0)&mask], lut[h[1].next(b1)&mask], lut[h[2].next(b2)&mask], lut[h[3].next(b3)&mask]
			put(d, e0, e1, e2, e3)
			b0, b1, b2, b3 = b0+uint(e0&0xffff), b1+uint(e1&0xffff), b2+uint(e2&0xffff), b3+uint(e3&0xffff)
			if n > 1 {
				d = d[step:]
			}
		}
	}
	h[0].bit, h[1].bit, h[2].bit, h[3].bit = b0, b1, b2, b3
}

// laneBits are the strings of low bits of a chunk's lanes.
type laneBits struct {
	words  []uint32
	joined [huffman.Lanes]uint32
}

// at returns words with bits bit … bit+n−1 of every lane, from bit `shift` on. These are valid until the next call.
func (b *laneBits) at(bit, n int) (w *[huffman.Lanes]uint32, shift uint) {
	from, shift := bit/32*huffman.Lanes, uint(bit%32)
	w = (*[huffman.Lanes]uint32)(b.words[from:])
	if int(shift)+n <= 32 {
		return w, shift
	}
	next := (*[huffman.Lanes]uint32)(b.words[from+huffman.Lanes:])
	for l := range w {
		b.joined[l] = w[l]>>(shift&31) | next[l]<<((32-shift)&31)
	}
	return &b.joined, 0
}

// lowGeneric unpacks low bits to one byte each.
func lowGeneric(c *chunk, dst []byte, stride int) {
	for r := range c.rows {
		clear(dst[r*stride:][:c.steps*format.StepCols])
	}
	orLow(c, dst, stride)
}

// orLow adds low bits, up to 8 per weight, to bytes whose own ones are 0.
func orLow(c *chunk, dst []byte, stride int) {
	b := laneBits{words: c.low}
	n := 2 * c.lowBits
	for r := range c.rows {
		for s := range c.steps {
			w, shift := b.at((r*c.steps+s)*n, n)
			orStep((*[format.StepCols]byte)(dst[r*stride+s*format.StepCols:]), w, shift, uint(c.lowBits))
		}
	}
}

// orStep adds the low bits of one step, n per weight: it takes two lanes at a time, in the halves of a 64-bit word.
func orStep(d *[format.StepCols]byte, w *[huffman.Lanes]uint32, shift, n uint) {
	even := (uint64(1)<<(n&15) - 1) * (1<<32 | 1)
	odd, up := even<<8, (8-n)&63
	for l := 0; l < huffman.Lanes; l += 4 {
		v0 := (uint64(w[l]) | uint64(w[l+1])<<32) >> (shift & 63)
		v1 := (uint64(w[l+2]) | uint64(w[l+3])<<32) >> (shift & 63)
		v0, v1 = v0&even|v0<<up&odd, v1&even|v1<<up&odd
		p := d[2*l : 2*l+8]
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)|uint64(uint32(v0|v0>>16))|(v1|v1>>16)<<32)
	}
}

// decodeWide decodes codes of more than 8 bits, whose table holds plain levels: first the levels, as bytes in the second half of
// each row, and from these and the low bits, front to back, the codes.
func decodeWide(c *chunk, dst []uint16, stride int) {
	levels := *c
	levels.lowBits = 0
	cols := c.steps * format.StepCols
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 2*len(dst))
	decodeGeneric(&levels, bytes[cols:], 2*stride)
	b := laneBits{words: c.low}
	s := uint(c.lowBits) & 15
	mask := uint32(1)<<s - 1
	bit := 0
	for r := range c.rows {
		row, levels := dst[r*stride:][:cols], bytes[2*r*stride+cols:][:cols]
		for len(levels) > 0 {
			w, shift := &b.joined, uint(0) // zeros, if there are no low bits
			if s > 0 {
				w, shift = b.at(bit, 2*int(s))
				bit += 2 * int(s)
			}
			u, out := (*[format.StepCols]byte)(levels), (*[format.StepCols]uint16)(row)
			for l, v := range w {
				v >>= shift & 31
				u0, u1 := uint32(u[2*l]), uint32(u[2*l+1])
				out[2*l], out[2*l+1] = uint16(u0<<s|v&mask), uint16(u1<<s|v>>s&mask)
			}
			row, levels = row[format.StepCols:], levels[format.StepCols:]
		}
	}
}
