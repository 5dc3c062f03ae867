// Package convert turns model files of other programs into .ellm containers and back.
package convert

import (
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// Source is a model in another program's format. Tensors carry GGUF's names and row order whatever the
// file was. ReadRows and ReadBlocks stream and may be called from several goroutines.
type Source interface {
	Path() string
	Config() (*model.Config, error)
	Tokenizer() (*tokenizer.Tokenizer, error)
	ChatTemplate() string
	// GGUFMetadata returns the metadata (without tokenizer arrays) in GGUF's key-value encoding, for export.
	GGUFMetadata() ([]byte, error)
	Tensors() []TensorInfo
	// ReadRows dequantizes rows [r0, r1) of tensor i into dst, (r1−r0) × cols.
	ReadRows(i, r0, r1 int, dst []float32) error
	// ReadBlocks returns rows [r0, r1) of a block-quantized tensor as integers; TensorInfo.Layout says how to read them.
	ReadBlocks(i, r0, r1 int, dst *Blocks) error
	// ReadBits16 returns rows [r0, r1) of an F16 or BF16 tensor unchanged.
	ReadBits16(i, r0, r1 int, dst []uint16) error
	Close() error
}

// TensorInfo describes one tensor of a Source.
type TensorInfo struct {
	Name       string
	Rows, Cols int    // vectors: Rows = 1
	Vector     bool   // one-dimensional
	Type       string // the file's name for the element type: "F16", "Q4_K", …
	Layout     *BlockLayout
}

// BlockLayout describes a block-quantized type in the container's terms (docs/format.md, 6.2 and 6.6).
type BlockLayout struct {
	Codes   int     // number of different integer codes: a power of two up to 256
	Zero    int32   // added to the stored code
	Values  []int16 // or: the value of each code
	Block   int     // columns per sub-scale
	Super   int     // columns per D
	SubBits int     // 0: no sub-scales
	SubBias int
	HasMin  bool // DMin is present
	SubMin  bool // SubMin is present
}

// Blocks receives integers and scales of some rows, row-major. Slices are reused when large enough.
type Blocks struct {
	Codes    []uint8  // rows × cols, without Zero
	D, DMin  []uint16 // float16, rows × cols/Super; DMin is added (so negated where the file subtracts)
	SubScale []uint8  // rows × cols/Block, one per byte, without bias (8 bits: two's complement)
	SubMin   []uint8
}
