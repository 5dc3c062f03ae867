package decode

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Best returns the fastest decoder of this processor: AVX2 needs BMI1 and BMI2 too, AVX-512 needs F, BW, VBMI and VBMI2.
func Best() isa.ISA {
	x := &cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VBMI && x.HasAVX512VBMI2:
		return isa.AVX512
	case x.HasAVX2 && x.HasBMI1 && x.HasBMI2: // and LZCNT, which came with these
		return isa.AVX2
	}
	return isa.Generic
}

// chunkArgs mirrors the offsets in internal/asm.
type chunkArgs struct {
	dst       unsafe.Pointer
	stride    int
	words     unsafe.Pointer
	lut       unsafe.Pointer
	low       unsafe.Pointer
	steps     int
	rows      int
	lowBits   int
	lowFields [4]uint64 // which bits of two lanes' low bits go to which byte, for four pairs
	mask      uint32
	lowMask   uint32 // low bits of a pair, in bytes 0 and 1
	one       uint32
	_         uint32
	ahead     uintptr // where what is fetched next lies, and by how much it moves on with four steps
	aheadStep int
	// A lane's next word, the distance to the one after, the index that ends its interleaved part, where its tail starts.
	ix, inc, limit, tail [huffman.Lanes]int32
}

// fetchAhead is how many bytes ahead the stream is fetched: gathers make no pattern that the processor would follow across pages.
const fetchAhead = 2048

// set fills a in place: arguments made here would be allocated.
func (a *chunkArgs) set(c *chunk, dst []byte, stride int) {
	*a = chunkArgs{
		dst: unsafe.Pointer(&dst[0]), stride: stride, words: unsafe.Pointer(&c.words[0]), lut: unsafe.Pointer(&c.lut[0]),
		steps: c.steps, rows: c.rows, lowBits: c.lowBits, mask: uint32(len(c.lut) - 1), one: 1,
	}
	// What is fetched may lie after the stream: nothing is read there.
	a.ahead = uintptr(a.words) + fetchAhead
	a.aheadStep = 4 * 4 * c.length / (c.rows * c.steps)
	var tails [huffman.Lanes]int32
	main := int32(huffman.Lanes * c.mainWords)
	tail := main
	for l := range tails {
		tails[l] = tail
		tail += int32(c.tail[l])
	}
	for i, l := range lanes512 {
		lane := int32(l)
		a.ix[i], a.inc[i], a.limit[i], a.tail[i] = lane, huffman.Lanes, main+lane, tails[l&(huffman.Lanes-1)]
		if c.mainWords == 0 {
			a.ix[i], a.inc[i], a.limit[i] = a.tail[i], 1, -1
		}
	}
	if c.lowBits > 0 {
		a.low = unsafe.Pointer(&c.low[0])
		a.lowMask = (1<<c.lowBits - 1) * 0x0101
	}
}

// lanes512 holds the lanes with bit 2 of their number clear, then those with it set: packing two registers of 32-bit entries to
// 16 bits then gives lanes in order.
var lanes512 = [huffman.Lanes]uint8{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27, 4, 5, 6, 7, 12, 13, 14, 15, 20,
	21, 22, 23, 28, 29, 30, 31}

func decodeAVX512(c *chunk, dst []byte, stride int) {
	var a chunkArgs
	a.set(c, dst, stride)
	if c.lowBits == 0 {
		chunk512((*byte)(unsafe.Pointer(&a)))
		return
	}
	for i := range a.lowFields {
		even := uint64(2 * i * c.lowBits) // byte 0 of the first lane; bytes 2 and 3 have no meaning
		a.lowFields[i] = (even | (even+uint64(c.lowBits))<<8) | (even+32|(even+32+uint64(c.lowBits))<<8)<<32
	}
	chunk512Low((*byte)(unsafe.Pointer(&a)))
}

func lowAVX512(c *chunk, dst []byte, stride int) {
	a := chunkArgs{
		dst: unsafe.Pointer(&dst[0]), stride: stride, low: unsafe.Pointer(&c.low[0]), steps: c.steps, rows: c.rows, lowBits: c.lowBits,
		lowMask: 1<<c.lowBits - 1,
	}
	low512((*byte)(unsafe.Pointer(&a)))
}
