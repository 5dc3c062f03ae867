// Package gguf reads and writes GGUF files (versions 2 and 3): metadata, tensors, and the block-quantized
// element types as floats or as integers with scales.
//
// Block layouts and arithmetic are those of ggml's reference dequantizers (ggml-quants.c). The parser is our own rather than
// github.com/gpustack/gguf-parser-go because the metadata has to be encoded again, and decoded from a section of a
// container where there is no GGUF file; that codec is most of a parser, and the library brings 13 modules and panics on
// mismatched types.
package gguf

import (
	"fmt"
	"math/bits"
)

// Type is a tensor's element type, with GGUF's numbers.
type Type uint32

const (
	F32     Type = 0
	F16     Type = 1
	Q4_0    Type = 2
	Q4_1    Type = 3
	Q5_0    Type = 6
	Q5_1    Type = 7
	Q8_0    Type = 8
	Q2_K    Type = 10
	Q3_K    Type = 11
	Q4_K    Type = 12
	Q5_K    Type = 13
	Q6_K    Type = 14
	IQ2_XXS Type = 16
	IQ2_XS  Type = 17
	IQ3_XXS Type = 18
	IQ1_S   Type = 19
	IQ4_NL  Type = 20
	IQ3_S   Type = 21
	IQ2_S   Type = 22
	IQ4_XS  Type = 23
	IQ1_M   Type = 29
	BF16    Type = 30
	MXFP4   Type = 39
)

// Layout describes a block-quantized type as integers and scales:
//
//	weight = d·(sub + SubBias)·q + dmin·submin
//
// with products formed in float32 from left to right, q = code + Zero or Values[code]. Without sub-scales sub and submin are 1.
type Layout struct {
	Codes   int     // number of different codes, a power of two up to 256
	Zero    int32   // added to a code
	Values  []int16 // or: the value of each code
	Block   int     // columns per sub-scale (= Super without sub-scales)
	Super   int     // columns per D
	SubBits int     // bits of a sub-scale and of a sub-minimum; 0: none. 8 bits: two's complement
	SubBias int     // added to a sub-scale (not to a sub-minimum)
	HasMin  bool    // the type has DMin
	SubMin  bool    // the type has SubMin

	PlainScale bool // there are sub-minima, but no sub-scales (none of GGUF's types)
}

// Blocks holds rows of a block-quantized tensor as integers and scales, row-major. Slices are reused when large enough;
// those that the type's Layout lacks have length 0.
type Blocks struct {
	Codes    []uint8  // rows × cols, without Zero
	D, DMin  []uint16 // float16, rows × cols/Super; DMin is to be added: its sign is flipped where the type subtracts
	SubScale []uint8  // rows × cols/Block, one per byte, without SubBias
	SubMin   []uint8  // rows × cols/Block, one per byte
}

// iq4Values are the levels of IQ4_NL and IQ4_XS: the format's constants.
var iq4Values = []int16{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// traits is what the package knows about a Type. A block is the smallest unit of storage.
type traits struct {
	name    string
	weights int // per block
	bytes   int // per block
	layout  *Layout
	unpack  unpackFunc
	decode  func(src []byte, dst []float32) // one block; nil: by layout and unpack
}

func plain32(codes int, zero int32, hasMin bool) *Layout {
	return &Layout{Codes: codes, Zero: zero, Block: 32, Super: 32, HasMin: hasMin}
}

// allTraits is constant.
var allTraits = map[Type]*traits{
	F32:    {name: "F32", weights: 1, bytes: 4},
	F16:    {name: "F16", weights: 1, bytes: 2},
	BF16:   {name: "BF16", weights: 1, bytes: 2},
	Q4_0:   {"Q4_0", 32, 18, plain32(16, -8, false), unpackQ4_0, nil},
	Q4_1:   {"Q4_1", 32, 20, plain32(16, 0, true), unpackQ4_1, nil},
	Q5_0:   {"Q5_0", 32, 22, plain32(32, -16, false), unpackQ5_0, nil},
	Q5_1:   {"Q5_1", 32, 24, plain32(32, 0, true), unpackQ5_1, nil},
	Q8_0:   {"Q8_0", 32, 34, plain32(256, -128, false), unpackQ8_0, nil},
	Q2_K:   {"Q2_K", 256, 84, &Layout{Codes: 4, Block: 16, Super: 256, SubBits: 4, HasMin: true, SubMin: true}, unpackQ2K, nil},
	Q3_K:   {"Q3_K", 256, 110, &Layout{Codes: 8, Zero: -4, Block: 16, Super: 256, SubBits: 6, SubBias: -32}, unpackQ3K, nil},
	Q4_K:   {"Q4_K", 256, 144, &Layout{Codes: 16, Block: 32, Super: 256, SubBits: 6, HasMin: true, SubMin: true}, unpackQ4K, nil},
	Q5_K:   {"Q5_K", 256, 176, &Layout{Codes: 32, Block: 32, Super: 256, SubBits: 6, HasMin: true, SubMin: true}, unpackQ5K, nil},
	Q6_K:   {"Q6_K", 256, 210, &Layout{Codes: 64, Zero: -32, Block: 16, Super: 256, SubBits: 8}, unpackQ6K, nil},
	IQ4_NL: {"IQ4_NL", 32, 18, &Layout{Codes: 16, Values: iq4Values, Block: 32, Super: 32}, unpackQ4_0, nil},
	IQ4_XS: {"IQ4_XS", 256, 136, &Layout{Codes: 16, Values: iq4Values, Block: 32, Super: 256, SubBits: 6, SubBias: -32},
		unpackIQ4XS, nil},
	MXFP4:   {"MXFP4", 32, 17, &Layout{Codes: 16, Values: mxfp4Values, Block: 32, Super: 32}, unpackMXFP4, decodeMXFP4},
	IQ1_S:   {name: "IQ1_S", weights: 256, bytes: 50, decode: decodeIQ1S},
	IQ1_M:   {name: "IQ1_M", weights: 256, bytes: 56, decode: decodeIQ1M},
	IQ2_XXS: {name: "IQ2_XXS", weights: 256, bytes: 66, decode: decodeIQ2XXS},
	IQ2_XS:  {name: "IQ2_XS", weights: 256, bytes: 74, decode: decodeIQ2XS},
	IQ2_S:   {name: "IQ2_S", weights: 256, bytes: 82, decode: decodeIQ2S},
	IQ3_XXS: {name: "IQ3_XXS", weights: 256, bytes: 98, decode: decodeIQ3XXS},
	IQ3_S:   {name: "IQ3_S", weights: 256, bytes: 110, decode: decodeIQ3S},
}

// otherNames are types that files may hold and this package does not read, for error messages.
var otherNames = map[Type]string{
	9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
}

// String returns ggml's name of the type.
func (t Type) String() string {
	if tr := allTraits[t]; tr != nil {
		return tr.name
	}
	if s := otherNames[t]; s != "" {
		return s
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Layout returns how the type's integers and scales make weights, or nil for a type that has no integers and scales: floats,
// IQ1, IQ2 and IQ3.
// The result is shared and must not be changed.
func (t Type) Layout() *Layout {
	if tr := allTraits[t]; tr != nil {
		return tr.layout
	}
	return nil
}

// Bytes returns the stored size of n weights, which must be whole blocks; ok is false for an unsupported type, a broken block or
// overflow.
func (t Type) Bytes(n uint64) (size uint64, ok bool) {
	tr := allTraits[t]
	if tr == nil || n%uint64(tr.weights) != 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(n/uint64(tr.weights), uint64(tr.bytes))
	return lo, hi == 0 && lo < 1<<62
}

func (t Type) traits() (*traits, error) {
	if tr := allTraits[t]; tr != nil {
		return tr, nil
	}
	return nil, fmt.Errorf("element type %s is not supported (supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K … "+
		"Q6_K, IQ1_S … IQ4_XS, MXFP4)", t)
}
