package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"

	"github.com/edsrzf/mmap-go"
	"github.com/ellm-gpu/ellm-gpu/internal/fault"
	"golang.org/x/sys/unix"
)

// ErrNotGGUF is wrapped by Open's error for a file that is no GGUF file at all.
var ErrNotGGUF = errors.New("not a GGUF file")

const (
	magic            = "GGUF"
	defaultAlignment = 32
	maxDims          = 4
	maxTensors       = 1 << 17
	maxPairs         = 1 << 14
	maxName          = 1024 // bytes of a tensor name; ggml itself allows 63
	keyAlignment     = "general.alignment"
)

// Tensor describes one tensor of a file.
type Tensor struct {
	Name   string
	Dims   []uint64 // GGUF's order: Dims[0] is the length of a row
	Type   Type
	Offset int64 // in the file
	Size   int64 // in bytes
}

// Cols returns the length of a row.
func (t *Tensor) Cols() int { return int(t.Dims[0]) }

// Rows returns the number of rows: the product of the other dimensions.
func (t *Tensor) Rows() int {
	n := 1
	for _, d := range t.Dims[1:] {
		n *= int(d)
	}
	return n
}

// File is an open, memory-mapped GGUF file. Its methods are safe for concurrent use.
type File struct {
	Metadata
	Path    string
	Version uint32
	Tensors []Tensor

	f    *os.File
	data mmap.MMap
}

// Open maps the file at path, reads its header and checks that every tensor lies within the file.
func Open(path string) (*File, error) {
	st, err := os.Stat(path) // opening a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is a directory, device or pipe, %w", path, ErrNotGGUF)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	g := &File{Path: path, f: f}
	if err := g.Guard(g.load); err != nil {
		g.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return g, nil
}

// Guard calls f, which reads what Rows returned, and turns access to a file that shrank or whose disk failed into an error.
func (g *File) Guard(f func() error) error {
	err := fault.Guard(f)
	if err == nil {
		return nil
	}
	var e *fault.Error
	if errors.As(err, &e) {
		if at, ok := e.In(g.data); ok {
			return fmt.Errorf("offset %d cannot be read: the file changed or shrank while it was used, or its disk failed "+
				"(obtain it again)", at)
		}
	}
	return err
}

// Close unmaps the file. Slices returned by Rows must not be used afterwards.
func (g *File) Close() error {
	var err error
	if g.data != nil {
		err = g.data.Unmap()
	}
	return errors.Join(err, g.f.Close())
}

func (g *File) load() error {
	var head [len(magic)]byte
	var err error
	switch n, err := g.f.ReadAt(head[:], 0); {
	case err != nil && err != io.EOF:
		return err
	case n == 0:
		return fmt.Errorf("the file is empty, %w", ErrNotGGUF)
	case string(head[:n]) != magic:
		return fmt.Errorf("starts with %q, expected %q: %w", head[:n], magic, ErrNotGGUF)
	}
	if g.data, err = mmap.Map(g.f, mmap.RDONLY, 0); err != nil {
		return fmt.Errorf("cannot map the file: %w", err)
	}
	return g.parse(g.data)
}

// parse reads the header of the file whose bytes are b.
func (g *File) parse(b []byte) error {
	c := &cursor{b: b, pos: len(magic)}
	tensors, pairs, err := g.parseCounts(c)
	if err != nil {
		return err
	}
	for i := range pairs {
		if i == maxPairs {
			return c.errorf("more than %d metadata pairs", maxPairs)
		}
		if err := g.decodeOne(c); err != nil {
			return err
		}
	}
	align, err := g.IntOr(keyAlignment, defaultAlignment)
	if err != nil {
		return err
	}
	if align < 8 || align > 1<<20 || align&(align-1) != 0 {
		return fmt.Errorf("%s is %d, expected a power of two from 8 to %d", keyAlignment, align, 1<<20)
	}
	seen := map[string]bool{}
	for i := range tensors {
		if i == maxTensors {
			return c.errorf("more than %d tensors", maxTensors)
		}
		t, err := parseTensor(c)
		if err != nil {
			return err
		}
		if seen[t.Name] {
			return c.errorf("tensor %q occurs twice", t.Name)
		}
		seen[t.Name] = true
		g.Tensors = append(g.Tensors, t)
	}
	return g.place(int64(roundUp(c.pos, align)), int64(align), int64(len(b)))
}

func (g *File) parseCounts(c *cursor) (tensors, pairs uint64, err error) {
	if g.Version, err = c.u32("the version"); err != nil {
		return 0, 0, err
	}
	switch v := g.Version; {
	case bits.ReverseBytes32(v) < 1<<16 && v >= 1<<16:
		return 0, 0, errors.New("a big-endian GGUF file, which is not supported (obtain the little-endian one)")
	case v != 2 && v != 3:
		return 0, 0, fmt.Errorf("GGUF version %d is not supported, expected 2 or 3 (convert the model again with a current "+
			"converter)", v)
	}
	if tensors, err = c.u64("the number of tensors"); err != nil {
		return 0, 0, err
	}
	if pairs, err = c.u64("the number of metadata pairs"); err != nil {
		return 0, 0, err
	}
	return tensors, pairs, nil
}

// parseTensor reads one tensor record; Offset is relative to the data section until place corrects it.
func parseTensor(c *cursor) (t Tensor, err error) {
	if t.Name, err = c.str("a tensor name"); err != nil {
		return t, err
	}
	if t.Name == "" || len(t.Name) > maxName {
		return t, c.errorf("a tensor name has %d bytes, expected 1 … %d", len(t.Name), maxName)
	}
	what := fmt.Sprintf("tensor %q", t.Name)
	n, err := c.u32(what)
	if err != nil {
		return t, err
	}
	if n < 1 || n > maxDims {
		return t, c.errorf("%s has %d dimensions, expected 1 … %d", what, n, maxDims)
	}
	for range n {
		d, err := c.u64(what)
		if err != nil {
			return t, err
		}
		t.Dims = append(t.Dims, d)
	}
	kind, err := c.u32(what)
	if err != nil {
		return t, err
	}
	offset, err := c.u64(what)
	if err != nil {
		return t, err
	}
	t.Type, t.Offset = Type(kind), int64(offset)
	if offset > 1<<62 {
		return t, c.errorf("%s lies at offset %d, which is absurd", what, offset)
	}
	if t.Size, err = tensorSize(t.Type, t.Dims); err != nil {
		return t, c.errorf("%s: %v", what, err)
	}
	return t, nil
}

// tensorSize returns the stored bytes of a tensor, checking shape and overflow.
func tensorSize(kind Type, dims []uint64) (int64, error) {
	tr, err := kind.traits()
	if err != nil {
		return 0, err
	}
	n := uint64(1)
	for _, d := range dims {
		hi, lo := bits.Mul64(n, d)
		if d == 0 || hi != 0 {
			return 0, fmt.Errorf("dimensions %v are empty or overflow", dims)
		}
		n = lo
	}
	if dims[0]%uint64(tr.weights) != 0 {
		return 0, fmt.Errorf("rows of %d weights are not whole %s blocks of %d", dims[0], kind, tr.weights)
	}
	size, ok := kind.Bytes(n)
	if !ok {
		return 0, fmt.Errorf("dimensions %v overflow", dims)
	}
	return int64(size), nil
}

// place makes the tensors' offsets absolute and checks that they lie within the file and apart.
func (g *File) place(base, align, size int64) error {
	order := make([]*Tensor, len(g.Tensors))
	for i := range g.Tensors {
		t := &g.Tensors[i]
		if t.Offset%align != 0 {
			return fmt.Errorf("tensor %q at data offset %d is not aligned to %d bytes", t.Name, t.Offset, align)
		}
		if base > size || t.Offset > size-base || t.Size > size-base-t.Offset {
			return fmt.Errorf("tensor %q (%d bytes at data offset %d, data from %d) exceeds the file of %d bytes (truncated or damaged "+
				"file: obtain it again)", t.Name, t.Size, t.Offset, base, size)
		}
		t.Offset += base
		order[i] = t
	}
	slices.SortFunc(order, func(a, b *Tensor) int { return int(a.Offset - b.Offset) })
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; a.Offset+a.Size > b.Offset {
			return fmt.Errorf("tensors %q and %q overlap at offset %d", a.Name, b.Name, b.Offset)
		}
	}
	return nil
}

// Rows returns the stored bytes of rows [r0, r1) of t, a tensor of g, as a view of the mapping.
func (g *File) Rows(t *Tensor, r0, r1 int) ([]byte, error) {
	rows := t.Rows()
	if r0 < 0 || r1 < r0 || r1 > rows {
		return nil, fmt.Errorf("%s: tensor %q has %d rows, [%d, %d) was asked for", g.Path, t.Name, rows, r0, r1)
	}
	row := t.Size / int64(rows)
	return g.data[t.Offset+int64(r0)*row : t.Offset+int64(r1)*row], nil
}

// Release tells the system that the pages of b, a result of Rows, are not needed soon, so that streaming through a
// large file does not keep it all resident. The bytes stay readable.
func (g *File) Release(b []byte) {
	if len(b) == 0 {
		return
	}
	page := os.Getpagesize()
	start := cap(g.data) - cap(b) // both end with the mapping
	lo, hi := roundUp(start, page), (start+len(b))/page*page
	if lo < hi {
		_ = unix.Madvise(g.data[lo:hi], unix.MADV_DONTNEED) // advice only: failing costs memory, not correctness
	}
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// IsGGUF reports whether a file begins like a GGUF file.
func IsGGUF(head []byte) bool {
	return len(head) >= len(magic) && string(head[:len(magic)]) == magic
}

// appendTensor encodes a tensor record whose data lies at offset of the data section.
func appendTensor(b []byte, t *Tensor, offset int64) []byte {
	le := binary.LittleEndian
	b = appendString(b, t.Name)
	b = le.AppendUint32(b, uint32(len(t.Dims)))
	for _, d := range t.Dims {
		b = le.AppendUint64(b, d)
	}
	b = le.AppendUint32(b, uint32(t.Type))
	return le.AppendUint64(b, uint64(offset))
}
