// Package format reads and writes the .ellm container (docs/format.md).
package format

// The API the rest of the project is written against:
//
//	func Open(path string) (*Reader, error)                 // maps the file; checks header, table, META, TBLS, TIDX
//	func (r *Reader) Close() error
//	func (r *Reader) Path() string
//	func (r *Reader) Meta() *Meta
//	func (r *Reader) Section(kind string) ([]byte, error)   // e.g. "TOKN": inflated, checked; nil, nil if absent
//	func (r *Reader) Tables() []*huffman.Table
//	func (r *Reader) Tensors() []*Tensor                    // in file order
//	func (r *Reader) Tensor(name string) (*Tensor, bool)
//	func (r *Reader) Verify(t *Tensor) error                // checksum of its section; cheap when repeated
//	func (r *Reader) Release(t *Tensor)                     // madvise: its pages are not needed any more
//
//	type Meta struct { Producer, Scheme, Source string; Config json.RawMessage; ChatTemplate string; Quantizer map[string]any }
//
//	func Create(path string) (*Writer, error)               // writes to a temporary name beside path
//	func (w *Writer) Section(kind string, data []byte, deflate bool) error
//	func (w *Writer) Coded(name string, c *Coded) error     // writes the tensor's section at once
//	func (w *Writer) Raw(name string, t *Raw) error
//	func (w *Writer) Finish(meta *Meta, tables []*huffman.Table) (size int64, err error) // index, tables, header, fsync, rename
//	func (w *Writer) Abort()                                // removes the temporary file; no-op after Finish
//
//	// package huffman
//	func Build(hist []uint64, levels, maxLen int) (*Table, error)    // package-merge, optimal
//	func (t *Table) Validate() error
//	func (t *Table) Codes() []uint16                                 // per symbol, bit-reversed: ready for an LSB-first stream
//	func (t *Table) Bits(hist []uint64) uint64                       // coded size of a histogram of pairs
//	func (t *Table) Lookup() []uint32                                // 1<<MaxLen entries, index = low bits peeked: a0 | a1<<8 | length<<16
//	// levels: rows × stride bytes, steps*64 columns used of each row.
//	func (t *Table) EncodeChunk(dst []uint32, levels []uint8, stride, steps, rows int) (words []uint32, mainWords int, tail [32]uint8)
//	func DecodeChunk(lookup []uint32, maxLen int, words []uint32, mainWords int, tail []uint8, steps, rows int, dst []uint8, stride int) error
