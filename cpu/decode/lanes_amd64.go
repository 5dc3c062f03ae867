package decode

import (
	"slices"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// laneArgs mirrors the offsets in internal/asm; its first fields are those of chunkArgs.
type laneArgs struct {
	dst     unsafe.Pointer
	_       [2]int
	lut     unsafe.Pointer
	_       int
	steps   int
	_       [2]int
	words   unsafe.Pointer
	notMask int
	pos     [huffman.Lanes]uint32 // of each lane's next bit, counted from words
}

// decodeAVX2 decodes levels with 64-bit registers (BMI2) and adds low bits with AVX2.
func decodeAVX2(c *chunk, dst []byte, stride int) {
	l := c.scratch.Get().(*lanes)
	defer c.scratch.Put(l)
	l.split(c)
	longest := int(slices.Max(c.tail))
	l.addTails(c, longest+1) // a lookup sees bits after its code
	if !l.decode(c, dst, stride) {
		// The stream is damaged: other decoders read on, as far as codes can reach.
		l.addTails(c, l.stride-c.mainWords)
		l.decode(c, dst, stride)
	}
}

// decode decodes c from its lanes and reports whether these were long enough.
func (l *lanes) decode(c *chunk, dst []byte, stride int) bool {
	a := laneArgs{lut: unsafe.Pointer(&c.lut[0]), words: unsafe.Pointer(&l.words[0]), notMask: ^(len(c.lut) - 1)}
	for i := range a.pos {
		a.pos[i] = uint32(32 * l.stride * i)
	}
	var low lowArgs
	low.set(c)
	for r := range c.rows {
		row := unsafe.Pointer(&dst[r*stride:][:c.steps*format.StepCols][0])
		a.dst, a.steps = row, c.steps
		rowLanes((*byte)(unsafe.Pointer(&a)))
		if c.lowBits > 0 {
			low.dst = row
			addLow256((*byte)(unsafe.Pointer(&low)))
		}
	}
	for i, p := range a.pos {
		if int(p)-32*l.stride*i > 32*(c.mainWords+int(c.tail[i])) {
			return false
		}
	}
	return true
}

// laneBlock is how many words of a lane are copied together.
const laneBlock = 8

// split fills l with the interleaved words of c.
func (l *lanes) split(c *chunk) {
	const line = 16 // words of a cache line
	// What a lane's codes can take, and what it has; an odd number of lines, so that lanes do not share places in a cache.
	reach := max((huffman.MaxCodeLen*c.steps*c.rows+31)/32+2, c.mainWords+1<<8) + laneBlock
	l.stride = ((reach+line-1)/line | 1) * line
	if n := huffman.Lanes * l.stride; len(l.words) < n {
		l.words = make([]uint32, n)
	}
	blocks := c.mainWords / laneBlock
	if c.mainWords%laneBlock > 0 && huffman.Lanes*laneBlock*(blocks+1) <= len(c.words) {
		blocks++ // the tails replace what is too much
	}
	if blocks > 0 {
		splitLanes(&l.words[0], 4*l.stride, &c.words[:huffman.Lanes*laneBlock*blocks][0], blocks)
	}
	for i := laneBlock * blocks; i < c.mainWords; i++ {
		for lane, w := range c.words[huffman.Lanes*i:][:huffman.Lanes] {
			l.words[lane*l.stride+i] = w
		}
	}
}

// addTails copies n words or a few more, within each lane, from the start of its tail on, as far as there are any.
func (l *lanes) addTails(c *chunk, n int) {
	at, from := c.mainWords, huffman.Lanes*c.mainWords
	for lane, tail := range c.tail {
		end := (lane + 1) * l.stride // copying in blocks must not reach the next lane
		for i := 0; i < n; i += laneBlock {
			dst, src := l.words[at+i:end], c.words[min(from+i, len(c.words)):]
			if len(src) < laneBlock || len(dst) < laneBlock {
				copy(dst, src)
				break
			}
			*(*[laneBlock]uint32)(dst) = [laneBlock]uint32(src)
		}
		at, from = at+l.stride, from+int(tail)
	}
}

// lowArgs mirrors the offsets in internal/asm; its first fields are those of chunkArgs.
type lowArgs struct {
	dst       unsafe.Pointer
	_         [3]int
	low       unsafe.Pointer
	steps     int
	_         int
	lowBits   int
	fields    int // steps whose low bits are read together
	pos       int
	even, odd uint64
	oddFactor uint64
	next      uint64
}

// set prepares a for the first row of c. Without low bits it does nothing.
func (a *lowArgs) set(c *chunk) {
	if c.lowBits == 0 {
		return
	}
	const words = 0x0001000100010001 // 4 × uint16
	even := uint64(1<<c.lowBits-1) * words
	*a = lowArgs{
		low: unsafe.Pointer(&c.low[0]), steps: c.steps, lowBits: c.lowBits, fields: 16 / (2 * c.lowBits), even: even, odd: even << 8,
		oddFactor: words << (8 - c.lowBits), next: words << (16 - 2*c.lowBits),
	}
}

func lowAVX2(c *chunk, dst []byte, stride int) {
	var a lowArgs
	a.set(c)
	for r := range c.rows {
		a.dst = unsafe.Pointer(&dst[r*stride:][:c.steps*format.StepCols][0])
		low256((*byte)(unsafe.Pointer(&a)))
	}
}
