// Package format reads and writes the .ellm container. docs/format.md is its specification.
package format

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"unsafe"
)

// Version is the container version this package reads and writes.
const Version = 3

const (
	magic       = "\x89ELLM\r\n\x1a"
	headerSize  = 64
	recordSize  = 40
	maxSections = 1 << 16
	maxTables   = 256
	// A section may inflate to inflateSlack + maxInflation times its stored bytes: text that people write gets 3 to 30 times
	// shorter.
	maxInflation = 64
	inflateSlack = 1 << 20
	// Parts that are shorter in the file (CompactParts) may take expandSlack + expandShare times the file's bytes: usually it is a
	// hundredth.
	expandShare  = 2
	expandSlack  = 16 << 20
	maxName      = 1024
	maxParts     = 32
	alignSection = 64
	alignPart    = 64
	flagDeflate  = 1
)

// Section kinds.
const (
	KindMeta      = "META"
	KindTokenizer = "TOKN"
	KindGGUF      = "GGKV"
	KindTables    = "TBLS"
	KindIndex     = "TIDX"
	KindTensor    = "TNSR"
)

// Meta is the META section.
type Meta struct {
	Producer     string          `json:"producer"`
	Scheme       string          `json:"scheme"`
	Source       string          `json:"source,omitempty"`
	Config       json.RawMessage `json:"config"` // internal/model.Config
	ChatTemplate string          `json:"chat_template,omitempty"`
	Ends         []int32         `json:"end_tokens,omitempty"` // ids that end a generation, beside those the tokenizer knows
	Quantizer    map[string]any  `json:"quantizer,omitempty"`
}

// section is a record of the section table.
type section struct {
	kind   string
	flags  uint32
	offset uint64
	length uint64 // stored
	size   uint64 // after inflating
	crc    uint32

	reserved uint32 // must be zero
}

// indexEntry is a tensor in the TIDX section.
type indexEntry struct {
	Name    string              `json:"name"`
	Rows    int                 `json:"rows"`
	Cols    int                 `json:"cols"`
	Section int                 `json:"section"`
	Kind    string              `json:"kind"` // "raw" or "coded"
	DType   DType               `json:"dtype,omitempty"`
	Coding  *Coding             `json:"coding,omitempty"`
	Scale   *Scale              `json:"scale,omitempty"`
	Parts   map[string][2]int64 `json:"parts"`
}

type index struct {
	Tensors []indexEntry `json:"tensors"`
}

const (
	kindRaw   = "raw"
	kindCoded = "coded"
	partData  = "data"
)

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (s *section) encode(b []byte) {
	copy(b, s.kind)
	le := binary.LittleEndian
	le.PutUint32(b[4:], s.flags)
	le.PutUint64(b[8:], s.offset)
	le.PutUint64(b[16:], s.length)
	le.PutUint64(b[24:], s.size)
	le.PutUint32(b[32:], s.crc)
	le.PutUint32(b[36:], s.reserved)
}

func decodeSection(b []byte) section {
	le := binary.LittleEndian
	return section{kind: string(b[:4]), flags: le.Uint32(b[4:]), offset: le.Uint64(b[8:]), length: le.Uint64(b[16:]),
		size: le.Uint64(b[24:]), crc: le.Uint32(b[32:]), reserved: le.Uint32(b[36:])}
}

// element is what a tensor part consists of.
type element interface {
	~uint8 | ~uint16 | ~uint32 | ~float32
}

// bytesOf returns the memory of s. The supported hosts (amd64, arm64) are little endian, as is the file.
func bytesOf[T element](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// viewOf returns b, whose start and length are multiples of T's size, as a slice of T.
func viewOf[T element](b []byte) []T {
	var zero T
	n := len(b) / int(unsafe.Sizeof(zero))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
}

func alignUp(n, a int64) int64 { return (n + a - 1) / a * a }
