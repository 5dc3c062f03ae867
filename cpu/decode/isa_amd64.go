package decode

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Best returns the fastest decoder of this processor.
func Best() ISA {
	x := &cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VBMI2:
		return AVX512
	case x.HasAVX2:
		return AVX2
	}
	return Generic
}

// chunkArgs mirrors the offsets in internal/asm.
type chunkArgs struct {
	dst      unsafe.Pointer
	stride   int
	words    unsafe.Pointer
	lut      unsafe.Pointer
	low      unsafe.Pointer
	steps    int
	rows     int
	lowBits  int
	mask     uint32
	lowMask0 uint32 // low bits of the even weight
	lowMask1 uint32 // of the odd one, in the second byte
	lowShift uint32 // from where they stand to the second byte
	// A lane's next word, the distance to the one after, the index that ends its interleaved part, where its tail starts.
	ix, inc, limit, tail [huffman.Lanes]int32
	// Constants that AVX2 reads as vectors: mask, 31, 32, 0xffff, 1, lowMask0, lowMask1.
	vec [7][8]uint32
}

// set fills a in place: arguments made here would be allocated.
func (a *chunkArgs) set(c *chunk, dst []byte, stride int) {
	*a = chunkArgs{
		dst: unsafe.Pointer(&dst[0]), stride: stride, words: unsafe.Pointer(&c.words[0]), lut: unsafe.Pointer(&c.lut[0]),
		steps: c.steps, rows: c.rows, lowBits: c.lowBits, mask: uint32(len(c.lut) - 1),
	}
	main, tail := int32(huffman.Lanes*c.mainWords), int32(huffman.Lanes*c.mainWords)
	for l := range int32(huffman.Lanes) {
		a.ix[l], a.inc[l], a.limit[l], a.tail[l] = l, huffman.Lanes, main+l, tail
		if c.mainWords == 0 {
			a.ix[l], a.inc[l], a.limit[l] = tail, 1, -1
		}
		tail += int32(c.tail[l])
	}
	if c.lowBits > 0 {
		a.low = unsafe.Pointer(&c.low[0])
		a.lowMask0 = 1<<c.lowBits - 1
		a.lowMask1 = a.lowMask0 << 8
		a.lowShift = uint32(8 - c.lowBits)
	}
}

func decodeAVX512(c *chunk, dst []byte, stride int) {
	var a chunkArgs
	a.set(c, dst, stride)
	if c.lowBits > 0 {
		chunk512Low((*byte)(unsafe.Pointer(&a)))
		return
	}
	chunk512((*byte)(unsafe.Pointer(&a)))
}

func decodeAVX2(c *chunk, dst []byte, stride int) {
	var a chunkArgs
	a.set(c, dst, stride)
	for i, v := range [...]uint32{a.mask, 31, 32, 0xffff, 1, a.lowMask0, a.lowMask1} {
		for l := range a.vec[i] {
			a.vec[i][l] = v
		}
	}
	if c.lowBits > 0 {
		chunk256Low((*byte)(unsafe.Pointer(&a)))
		return
	}
	chunk256((*byte)(unsafe.Pointer(&a)))
}
