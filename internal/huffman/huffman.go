// Package huffman builds length-limited canonical Huffman codes over pairs of weights and codes
// matrices with them, 32 lanes in parallel. Its decoder is the specification that every faster one is compared with.
// The bit layout is docs/format.md, sections 4 and 6.3.
package huffman

// Lanes is the number of independent bit strings of a chunk: a CUDA warp.
const Lanes = 32

// Limits of a code table.
const (
	MinLevels = 2
	MaxLevels = 32
	// MaxCodeLen keeps a decoding table of 32-bit entries in 16 KB: shared memory of a GPU block, half a CPU's first cache.
	MaxCodeLen = 12
)

// Table is a complete canonical code over pairs of levels.
type Table struct {
	Levels int     // A: levels per weight
	MaxLen int     // L: longest code, in bits
	Lens   []uint8 // A² code lengths, 0 = symbol does not occur; symbol = a0*A + a1
}
