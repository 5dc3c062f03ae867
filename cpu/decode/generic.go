package decode

import "github.com/ellm-gpu/ellm-gpu/internal/huffman"

// reader walks the words of one lane: the interleaved ones, then its tail.
type reader struct {
	words []uint32
	at    int // next word
	inc   int // 32 in the interleaved part, 1 in the tail
	end   int // index at which the interleaved part ends for this lane
	tail  int
}

func (c *chunk) lane(lane, tail int) reader {
	r := reader{words: c.words, at: lane, inc: huffman.Lanes, end: huffman.Lanes*c.mainWords + lane, tail: tail}
	r.skip()
	return r
}

func (r *reader) skip() {
	if r.at == r.end && r.inc != 1 {
		r.at, r.inc = r.tail, 1
	}
}

func (r *reader) next() uint64 {
	w := uint64(r.words[r.at])
	r.at += r.inc
	r.skip()
	return w
}

// lowReader reads a lane's low bits.
type lowReader struct {
	words []uint32
	acc   uint64
	n     int
	at    int
}

func (l *lowReader) bits(n int) uint32 {
	if l.n < n {
		l.acc |= uint64(l.words[l.at]) << l.n
		l.at += huffman.Lanes
		l.n += 32
	}
	v := uint32(l.acc) & (1<<n - 1)
	l.acc >>= n
	l.n -= n
	return v
}

// decodeGeneric decodes lane after lane with a bit buffer of 64 bits; guard words keep it inside the stream whatever the words are.
func decodeGeneric(c *chunk, dst []byte, stride int) {
	maxLen := 0
	for 1<<maxLen < len(c.lut) {
		maxLen++
	}
	mask := uint64(len(c.lut) - 1)
	tail := huffman.Lanes * c.mainWords
	for lane := range huffman.Lanes {
		r := c.lane(lane, tail)
		tail += int(c.tail[lane])
		low := lowReader{words: c.low, at: lane}
		acc, n := uint64(0), 0
		for row := range c.rows {
			p := dst[row*stride+2*lane:]
			for s := 0; s < c.steps; s++ {
				if n < maxLen {
					acc |= r.next() << n
					n += 32
				}
				e := c.lut[acc&mask]
				length := int(e >> 16)
				acc >>= length
				n -= length
				if c.lowBits > 0 {
					v := low.bits(2 * c.lowBits)
					e += v & (1<<c.lowBits - 1)
					e += v >> c.lowBits << 8
				}
				q := p[s*2*huffman.Lanes:]
				q[0], q[1] = byte(e), byte(e>>8)
			}
		}
	}
}

// lowGeneric unpacks low bits lane after lane.
func lowGeneric(c *chunk, dst []byte, stride int) {
	for lane := range huffman.Lanes {
		low := lowReader{words: c.low, at: lane}
		for row := range c.rows {
			p := dst[row*stride+2*lane:]
			for s := range c.steps {
				v := low.bits(2 * c.lowBits)
				q := p[s*2*huffman.Lanes:]
				q[0], q[1] = byte(v&(1<<c.lowBits-1)), byte(v>>c.lowBits)
			}
		}
	}
}

// decodeWide is decodeGeneric for codes of more than 8 bits; the table holds plain levels.
func decodeWide(c *chunk, dst []uint16, stride int) {
	maxLen := 0
	for 1<<maxLen < len(c.lut) {
		maxLen++
	}
	mask := uint64(len(c.lut) - 1)
	tail := huffman.Lanes * c.mainWords
	for lane := range huffman.Lanes {
		r := c.lane(lane, tail)
		tail += int(c.tail[lane])
		low := lowReader{words: c.low, at: lane}
		acc, n := uint64(0), 0
		for row := range c.rows {
			p := dst[row*stride+2*lane:]
			for s := 0; s < c.steps; s++ {
				if n < maxLen {
					acc |= r.next() << n
					n += 32
				}
				e := c.lut[acc&mask]
				length := int(e >> 16)
				acc >>= length
				n -= length
				a0, a1 := e&0xff<<c.lowBits, e>>8&0xff<<c.lowBits
				if c.lowBits > 0 {
					v := low.bits(2 * c.lowBits)
					a0 |= v & (1<<c.lowBits - 1)
					a1 |= v >> c.lowBits
				}
				q := p[s*2*huffman.Lanes:]
				q[0], q[1] = uint16(a0), uint16(a1)
			}
		}
	}
}
