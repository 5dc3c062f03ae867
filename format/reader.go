package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
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
	table    section // where the section table is
	meta     Meta
	tables   []*huffman.Table
	tensors  []*Tensor
	byName   map[string]*Tensor
	place    map[*Tensor]int // section of a tensor

	expandable atomic.Int64 // bytes that parts may still take when they are expanded

	mu       sync.Mutex
	verified map[int]bool     // sections whose checksum was found right
	sound    map[*Tensor]bool // tensors whose contents were too
}

// Open maps the container at path, expands the parts that are shorter in the file (CompactParts), and checks everything but the
// tensors' checksums (see Verify).
func Open(path string) (*Reader, error) {
	st, err := os.Stat(path) // opening a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is a directory, device or pipe, %w", path, ErrNotEllm)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{path: path, f: f, byName: map[string]*Tensor{}, place: map[*Tensor]int{}, verified: map[int]bool{},
		sound: map[*Tensor]bool{}}
	if err := r.Guard(r.load); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Assemble returns a Reader of tensors in memory, which are taken to be right. It has no sections; name is what Path returns.
func Assemble(name string, meta *Meta, tables []*huffman.Table, tensors []*Tensor) *Reader {
	r := &Reader{path: name, meta: *meta, tables: tables, tensors: tensors, byName: map[string]*Tensor{},
		sound: map[*Tensor]bool{}}
	for _, t := range tensors {
		r.byName[t.Name], r.sound[t] = t, true
	}
	return r
}

func (r *Reader) load() error {
	st, err := r.f.Stat()
	if err != nil {
		return err
	}
	r.expandable.Store(expandShare*st.Size() + expandSlack)
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

// Verify compares t's checksum and checks the indexes and scales inside it. Backends call it before they use t; a repetition
// costs nothing.
func (r *Reader) Verify(t *Tensor) error {
	r.mu.Lock()
	known := r.sound[t]
	r.mu.Unlock()
	if known {
		return nil
	}
	i, name := r.place[t], KindTensor+" "+t.Name
	return r.Guard(func() error {
		contents := t.checkContents(r.tables)
		if err := r.check(i, name); err != nil { // says more about damage than what follows from it
			return err
		}
		if contents != nil {
			return r.corrupt(name, int64(r.sections[i].offset), "%v", contents)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sound[t] = true
		return nil
	})
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

// Guard calls f, which reads tensors of r, and turns access to a file that shrank or whose disk failed into an error with
// the file's name. Every goroutine that touches tensors' slices needs one, or fault.Capture.
func (r *Reader) Guard(f func() error) error { return r.Fault(fault.Guard(f)) }

// Fault returns err, or if it wraps a fault on r's file an error with the file's name and the offset.
func (r *Reader) Fault(err error) error {
	if err == nil {
		return nil // before e, which is on the heap
	}
	var e *fault.Error
	if !errors.As(err, &e) {
		return err
	}
	if at, ok := e.In(r.data); ok {
		return fmt.Errorf("%s: offset %d cannot be read: the file changed or shrank while it was used, or its disk failed "+
			"(obtain it again)", r.path, at)
	}
	return err
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
