// Package source reads model files of other programs: configuration, tokenizer, and tensors under GGUF's names.
package source

import (
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// Model is a model in another program's format. Tensors carry GGUF's names and row order whatever the
// file was. ReadRows and ReadBlocks stream and may be called from several goroutines.
type Model interface {
	Path() string
	Config() (*model.Config, error)
	Tokenizer() (*tokenizer.Tokenizer, error)
	ChatTemplate() string
	// Ends returns the ids of tokens that end a generation, beside those that the tokenizer knows by itself.
	Ends() ([]int32, error)
	// Warnings returns what was found wrong in the files and is not needed, after the other methods have been called.
	Warnings() []string
	// GGUFMetadata returns the metadata without the vocabulary in GGUF's encoding (gguf.Metadata.Encode), for export.
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

// BlockLayout describes a block-quantized type as integers and scales, the container's terms (docs/format.md, 6.2 and 6.6).
type BlockLayout = gguf.Layout

// Blocks receives integers and scales of some rows.
type Blocks = gguf.Blocks
