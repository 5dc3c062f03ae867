package format

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// ErrNotEllm is wrapped by Open's error for a file that is no .ellm container at all.
var ErrNotEllm = errors.New("not an .ellm file (make one with: ellm-gpu compress MODEL -o OUT.ellm)")

// Reader is an open container. Its methods are safe for concurrent use.
type Reader struct {
	path     string
	f        *os.File
	data     mmap.MMap
	sections []section
	meta     Meta
	tables   []*huffman.Table
	tensors  []*Tensor
	byName   map[string]*Tensor
	place    map[*Tensor]int // section of a tensor

	mu       sync.Mutex
	verified map[int]bool // sections whose checksum was found right
}

// Open maps the container at path, expands the parts that are shorter in the file (CompactParts), and checks everything but the tensors' checksums
// (see Verify).
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{path: path, f: f, byName: map[string]*Tensor{}, place: map[*Tensor]int{}, verified: map[int]bool{}}
	if err := r.load(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Assemble returns a Reader of tensors in memory, which are taken to be right. It has no sections; name is what Path returns.
func Assemble(name string, meta *Meta, tables []*huffman.Table, tensors []*Tensor) *Reader {
	r := &Reader{path: name, meta: *meta, tables: tables, tensors: tensors, byName: map[string]*Tensor{}, verified: map[int]bool{0: true}}
	for _, t := range tensors {
		r.byName[t.Name] = t
	}
	return r
}

func (r *Reader) load() error {
	st, err := r.f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: is a directory or device, %w", r.path, ErrNotEllm)
	}
	if err := r.loadSections(st.Size()); err != nil {
		return err
	}
	if r.data, err = mmap.Map(r.f, mmap.RDONLY, 0); err != nil {
		return fmt.Errorf("%s: cannot map the file: %w", r.path, err)
	}
	if err := r.loadMeta(); err != nil {
		return err
	}
	return r.loadIndex()
}

func (r *Reader) corrupt(section string, offset int64, format string, args ...any) error {
	return &CorruptError{Path: r.path, Section: section, Offset: offset, Msg: fmt.Sprintf(format, args...)}
}

// loadSections reads header and section table with plain reads: no page is touched before the file's size is known to be right.
func (r *Reader) loadSections(size int64) error {
	h := make([]byte, headerSize)
	n, err := r.f.ReadAt(h, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: the file is empty, %w", r.path, ErrNotEllm)
	}
	if n < len(magic) || string(h[:len(magic)]) != magic {
		return fmt.Errorf("%s: %w", r.path, ErrNotEllm)
	}
	le := binary.LittleEndian
	if n < headerSize {
		return r.corrupt("header", 0, "the file has %d bytes, expected at least %d", n, headerSize)
	}
	if v := le.Uint32(h[8:]); v != Version {
		return fmt.Errorf("%s: container version %d, this program reads version %d (compress the model again from its source, or use a matching ellm-gpu)", r.path, v, Version)
	}
	if got, want := castagnoli(h[:60]), le.Uint32(h[60:]); got != want {
		return r.corrupt("header", 60, "checksum %08x, expected %08x", got, want)
	}
	count, table, total := int64(le.Uint32(h[12:])), le.Uint64(h[16:]), le.Uint64(h[24:])
	if total != uint64(size) {
		return r.corrupt("header", 24, "the file has %d bytes, expected %d", size, total)
	}
	if count < 1 || count > maxSections || table > uint64(size) || uint64(count*recordSize) > uint64(size)-table {
		return r.corrupt("header", 12, "%d sections listed at offset %d do not fit a file of %d bytes", count, table, size)
	}
	b := make([]byte, count*recordSize)
	if _, err := r.f.ReadAt(b, int64(table)); err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	if got, want := castagnoli(b), le.Uint32(h[32:]); got != want {
		return r.corrupt("section table", int64(table), "checksum %08x, expected %08x", got, want)
	}
	for i := range count {
		s := decodeSection(b[i*recordSize:])
		if s.offset > uint64(size) || s.length > uint64(size)-s.offset || s.offset%alignSection != 0 || s.flags&^flagDeflate != 0 || s.flags == 0 && s.size != s.length {
			return r.corrupt("section table", int64(table)+i*recordSize, "section %d (%q, %d bytes at %d, flags %#x) does not fit a file of %d bytes", i, s.kind, s.length, s.offset, s.flags, size)
		}
		r.sections = append(r.sections, s)
	}
	return nil
}

// check compares a section's checksum, once. Sections are checked in parallel; doing one twice at the same time is harmless.
func (r *Reader) check(i int, name string) error {
	if r.isVerified(i) {
		return nil
	}
	s := &r.sections[i]
	if got := castagnoli(r.data[s.offset : s.offset+s.length]); got != s.crc {
		return r.corrupt(name, int64(s.offset), "checksum %08x, expected %08x", got, s.crc)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verified[i] = true
	return nil
}

// Section returns the checked and inflated contents of the first section of a kind, or nil if there is none.
func (r *Reader) Section(kind string) ([]byte, error) {
	for i := range r.sections {
		s := &r.sections[i]
		if s.kind != kind {
			continue
		}
		if err := r.check(i, kind); err != nil {
			return nil, err
		}
		b := r.data[s.offset : s.offset+s.length]
		if s.flags&flagDeflate == 0 {
			return b, nil
		}
		if s.size > maxMetaBytes {
			return nil, r.corrupt(kind, int64(s.offset), "claims to inflate to %d bytes, at most %d are accepted", s.size, maxMetaBytes)
		}
		var out bytes.Buffer
		if n, err := io.Copy(&out, io.LimitReader(flate.NewReader(bytes.NewReader(b)), int64(s.size)+1)); err != nil || uint64(n) != s.size {
			return nil, r.corrupt(kind, int64(s.offset), "inflates to %d bytes (%v), expected %d", n, err, s.size)
		}
		return out.Bytes(), nil
	}
	return nil, nil
}

func (r *Reader) loadMeta() error {
	b, err := r.Section(KindMeta)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.meta); err != nil {
		return r.corrupt(KindMeta, -1, "%v", err)
	}
	if b, err = r.Section(KindTables); err != nil {
		return err
	}
	if r.tables, err = decodeTables(b); err != nil {
		return r.corrupt(KindTables, -1, "%v", err)
	}
	return nil
}

func decodeTables(b []byte) ([]*huffman.Table, error) {
	if len(b) < 4 {
		return nil, errors.New("section is missing or shorter than its count")
	}
	n := binary.LittleEndian.Uint32(b)
	if n > maxTables {
		return nil, fmt.Errorf("%d tables, at most %d are allowed", n, maxTables)
	}
	b = b[4:]
	var tables []*huffman.Table
	for i := range n {
		if len(b) < 2 {
			return nil, fmt.Errorf("table %d of %d is cut off", i, n)
		}
		t := &huffman.Table{Levels: int(b[0]), MaxLen: int(b[1])}
		b = b[2:]
		if t.Levels > huffman.MaxLevels || len(b) < (t.Levels*t.Levels+1)/2 {
			return nil, fmt.Errorf("table %d with %d levels is cut off or too large", i, t.Levels)
		}
		t.Lens = make([]uint8, t.Levels*t.Levels)
		for s := range t.Lens {
			t.Lens[s] = b[s/2] >> (4 * (s % 2)) & 15
		}
		b = b[(t.Levels*t.Levels+1)/2:]
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("table %d: %w", i, err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// Path returns the file's name as given to Open.
func (r *Reader) Path() string { return r.path }

// FileSize returns the container's size in bytes.
func (r *Reader) FileSize() int64 { return int64(len(r.data)) }

// Meta returns the model's metadata.
func (r *Reader) Meta() *Meta { return &r.meta }

// Tables returns the code tables that Coded.ChunkTable refers to.
func (r *Reader) Tables() []*huffman.Table { return r.tables }

// Tensors returns all tensors in file order.
func (r *Reader) Tensors() []*Tensor { return r.tensors }

// Tensor finds a tensor by its GGUF name.
func (r *Reader) Tensor(name string) (*Tensor, bool) {
	t, ok := r.byName[name]
	return t, ok
}

// Verify compares t's checksum and then checks the indexes inside it. Backends call it before they use t; a repetition costs nothing.
func (r *Reader) Verify(t *Tensor) error {
	i := r.place[t]
	if r.isVerified(i) {
		return nil
	}
	name := KindTensor + " " + t.Name
	if t.Coded != nil {
		if err := t.Coded.checkContents(r.tables); err != nil {
			if crc := r.check(i, name); crc != nil {
				return crc
			}
			return r.corrupt(name, int64(r.sections[i].offset), "%v", err)
		}
	}
	return r.check(i, name)
}

func (r *Reader) isVerified(i int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verified[i]
}

// Release tells the system that t's pages are not needed for now; they are read from the file again when touched.
func (r *Reader) Release(t *Tensor) {
	if r.data == nil { // assembled
		return
	}
	s := &r.sections[r.place[t]]
	page := uint64(os.Getpagesize())
	start, end := (s.offset+page-1)/page*page, (s.offset+s.length)/page*page
	if start < end {
		// Failing only costs memory.
		_ = unix.Madvise(r.data[start:end], unix.MADV_DONTNEED)
	}
}

// Close unmaps the file. Slices of tensors must not be used afterwards.
func (r *Reader) Close() error {
	var err error
	if r.data != nil {
		err = r.data.Unmap()
	}
	if r.f != nil {
		err = errors.Join(err, r.f.Close())
	}
	return err
}
