package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/x448/float16"
)

// maxSub is the largest number of sub-scales in a block.
const maxSub = 16

// Dequantize converts len(dst) weights stored at src, whole blocks of type t, to float32 with the arithmetic of ggml's reference.
func Dequantize(t Type, src []byte, dst []float32) error {
	tr, err := t.traits()
	if err != nil {
		return err
	}
	if size, ok := t.Bytes(uint64(len(dst))); !ok || size != uint64(len(src)) {
		return fmt.Errorf("%d bytes do not hold %d weights of type %s", len(src), len(dst), t)
	}
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			h := uint32(src[2*i]) | uint32(src[2*i+1])<<8
			if e := h & 0x7c00; e-1 < 0x7bff { // a normal number, see F16ToFloat
				dst[i] = math.Float32frombits(h&0x8000<<16 | (h&0x7fff<<13 + (127-15)<<23))
			} else {
				dst[i] = F16ToFloat(uint16(h))
			}
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(u16(src[2*i:])) << 16)
		}
	default:
		if tr.decode == nil {
			dequantizeBlocks(tr, src, dst)
			break
		}
		for ; len(dst) > 0; src, dst = src[tr.bytes:], dst[tr.weights:] {
			tr.decode(src[:tr.bytes], dst[:tr.weights])
		}
	}
	return nil
}

func dequantizeBlocks(tr *traits, src []byte, dst []float32) {
	var codes [256]uint8
	var sub, submin [maxSub]uint8
	value := tr.layout.values()
	for ; len(dst) > 0; src, dst = src[tr.bytes:], dst[tr.weights:] {
		d, dmin := tr.unpack(src[:tr.bytes], codes[:], sub[:], submin[:])
		tr.layout.weights(&value, F16ToFloat(d), F16ToFloat(dmin), codes[:tr.weights], sub[:], submin[:], dst[:tr.weights])
	}
}

// values returns the value q of every code.
func (l *Layout) values() (v [256]float32) {
	for c := range l.Codes {
		if l.Values != nil {
			v[c] = float32(l.Values[c])
		} else {
			v[c] = float32(int32(c) + l.Zero)
		}
	}
	return v
}

// weights computes one super-block. The conversions keep each product rounded to float32: no fused multiply-add.
func (l *Layout) weights(value *[256]float32, d, dmin float32, codes, sub, submin []uint8, dst []float32) {
	for b := 0; len(codes) > 0; b++ {
		scale, minimum := d, dmin
		switch {
		case l.SubBits == 8:
			scale *= float32(int8(sub[b]))
		case l.SubBits > 0:
			scale *= float32(int(sub[b]) + l.SubBias)
		}
		if l.SubMin {
			minimum *= float32(submin[b])
		}
		c, out := codes[:l.Block], dst[:l.Block]
		if l.HasMin {
			for i, q := range c {
				out[i] = float32(scale*value[q]) + minimum
			}
		} else {
			for i, q := range c {
				out[i] = scale * value[q]
			}
		}
		codes, dst = codes[l.Block:], dst[l.Block:]
	}
}

// Unpack splits n weights stored at src, whole blocks of the block-quantized type t, into integers and scales.
func Unpack(t Type, src []byte, n int, dst *Blocks) error {
	tr, err := t.traits()
	if err != nil {
		return err
	}
	if tr.layout == nil {
		return fmt.Errorf("type %s does not consist of integers and scales", t)
	}
	if size, ok := t.Bytes(uint64(n)); n < 0 || !ok || size != uint64(len(src)) {
		return fmt.Errorf("%d bytes do not hold %d weights of type %s", len(src), n, t)
	}
	l := tr.layout
	blocks, subs := n/l.Super, l.Super/l.Block
	dst.Codes = resize(dst.Codes, n)
	dst.D = resize(dst.D, blocks)
	dst.DMin = resize(dst.DMin, where(l.HasMin, blocks))
	dst.SubScale = resize(dst.SubScale, where(l.SubBits > 0, blocks*subs))
	dst.SubMin = resize(dst.SubMin, where(l.SubMin, blocks*subs))
	var sub, submin [maxSub]uint8
	for i := range blocks {
		block := src[i*tr.bytes:][:tr.bytes]
		if t == MXFP4 {
			if err := checkMXFP4(block); err != nil {
				return err
			}
		}
		d, dmin := tr.unpack(block, dst.Codes[i*l.Super:][:l.Super], sub[:], submin[:])
		dst.D[i] = d
		if l.HasMin {
			dst.DMin[i] = dmin
		}
		if l.SubBits > 0 {
			copy(dst.SubScale[i*subs:], sub[:subs])
		}
		if l.SubMin {
			copy(dst.SubMin[i*subs:], submin[:subs])
		}
	}
	return nil
}

func where(cond bool, n int) int {
	if cond {
		return n
	}
	return 0
}

func resize[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// F16ToFloat converts the bits of a float16.
func F16ToFloat(bits uint16) float32 {
	if e := bits & 0x7c00; e == 0 || e == 0x7c00 { // zero, subnormal, infinity, NaN
		return float16.Frombits(bits).Float32()
	}
	return math.Float32frombits(uint32(bits&0x8000)<<16 | (uint32(bits&0x7fff)<<13 + (127-15)<<23))
}

// FloatToF16 returns the bits of the nearest float16, ties to even.
func FloatToF16(x float32) uint16 { return float16.Fromfloat32(x).Bits() }

// FloatToBF16 returns the bits of the nearest bfloat16, ties to even.
func FloatToBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40 // keep it a NaN
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
