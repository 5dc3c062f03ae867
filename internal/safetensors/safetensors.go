// Package safetensors reads weights in the safetensors format: one file, or several with an index.
//
// A file is a u64 header length, a JSON header {"name": {"dtype", "shape", "data_offsets"}}, and the tensors' bytes, little
// endian and row-major, without gaps. Files are read with positioned reads, not mapped: a file that shrinks meanwhile is an
// error, not a fault.
package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
)

const (
	maxHeader = 100 << 20 // the reference implementation's limit
	maxIndex  = 64 << 20
	maxDims   = 8

	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
)

// DType is an element type with the format's name.
type DType string

const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// Size returns the bytes per element, or 0 for a type this package does not know.
func (d DType) Size() int {
	switch d {
	case "F64", "I64", "U64":
		return 8
	case F32, "I32", "U32":
		return 4
	case F16, BF16, "I16", "U16":
		return 2
	case "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2":
		return 1
	}
	return 0
}

// Tensor describes one tensor. ReadAt reads its bytes.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // outermost first; empty for a scalar
	Size  int64 // in bytes

	from  io.ReaderAt
	path  string // of what it is read from, for errors
	start int64
}

// Model holds the open files of one model. Its methods are safe for concurrent use.
type Model struct {
	Tensors []Tensor // in order of file and offset
	files   []*os.File
}

// Open opens a single file.
func Open(path string) (*Model, error) {
	m := &Model{}
	if err := m.add(path); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// OpenDir opens the files of a model directory: model.safetensors, or without it those that model.safetensors.index.json lists.
// (Directories that were stored again as one file often keep the index of the files before.)
func OpenDir(dir string) (*Model, error) {
	single, index := filepath.Join(dir, singleName), filepath.Join(dir, indexName)
	if _, err := os.Stat(single); err == nil {
		return Open(single)
	}
	if _, err := os.Stat(index); errors.Is(err, os.ErrNotExist) {
		return Open(single)
	}
	f, err := infile.Open(index)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	f.Close()
	if err == nil && len(b) > maxIndex {
		err = fmt.Errorf("larger than %d bytes", maxIndex)
	}
	m := &Model{}
	if err == nil {
		err = m.addIndexed(dir, b)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("%s: %w", index, err)
	}
	return m, nil
}

// addIndexed opens all files of an index, whose text is b, and checks that its tensors are where it says.
func (m *Model) addIndexed(dir string, b []byte) error {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := infile.DecodeJSON(b, &index); err != nil {
		return err
	}
	var names []string
	for tensor, name := range index.WeightMap {
		if !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
			return fmt.Errorf("tensor %q is said to be in %q, expected a file name without a directory", tensor, name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := m.add(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	found := make(map[string]string, len(m.Tensors))
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if first := found[t.Name]; first != "" {
			return fmt.Errorf("tensor %q is both in %s and in %s", t.Name, first, filepath.Base(t.path))
		}
		found[t.Name] = filepath.Base(t.path)
	}
	for tensor, name := range index.WeightMap {
		if found[tensor] != name {
			return fmt.Errorf("tensor %q is not in %s as the index says (is the download incomplete?)", tensor, name)
		}
	}
	return nil
}

// Close closes the files.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// add opens one file and appends its tensors.
func (m *Model) add(path string) error {
	f, err := infile.Open(path)
	if err != nil {
		return err
	}
	m.files = append(m.files, f)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: is a directory or device, not a safetensors file", path)
	}
	tensors, err := read(path, f, st.Size())
	m.Tensors = append(m.Tensors, tensors...)
	return err
}

// Read reads what a file of size bytes holds, such as a bytes.Reader's; path is its name in errors. Closing the model does not
// close r.
func Read(path string, r io.ReaderAt, size int64) (*Model, error) {
	tensors, err := read(path, r, size)
	if err != nil {
		return nil, err
	}
	return &Model{Tensors: tensors}, nil
}

func read(path string, r io.ReaderAt, size int64) ([]Tensor, error) {
	tensors, err := parse(r, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range tensors {
		tensors[i].from, tensors[i].path = r, path
	}
	return tensors, nil
}

// parse reads and checks the header of a file of size bytes.
func parse(r io.ReaderAt, size int64) ([]Tensor, error) {
	var head [8]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("a file of %d bytes is not a safetensors file (truncated?)", size)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if string(head[:]) == "version " {
		return nil, errors.New("is a Git LFS pointer: the file itself was not downloaded (git lfs pull)")
	}
	if n > maxHeader || n > uint64(size-8) {
		return nil, fmt.Errorf("header of %d bytes in a file of %d: not a safetensors file, or truncated", n, size)
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, 8); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var records map[string]json.RawMessage
	if err := infile.DecodeJSON(b, &records); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	delete(records, "__metadata__")
	tensors := make([]Tensor, 0, len(records))
	for name, record := range records {
		t, err := parseTensor(name, record)
		if err != nil {
			return nil, fmt.Errorf("tensor %.80q: %w", name, err)
		}
		tensors = append(tensors, t)
	}
	slices.SortFunc(tensors, func(a, b Tensor) int {
		if a.start != b.start {
			return int(a.start - b.start)
		}
		return int(a.Size - b.Size)
	})
	return tensors, checkPlaces(tensors, 8+int64(n), size)
}

// parseTensor checks shape and type against the length; start is relative to the data until checkPlaces.
func parseTensor(name string, record []byte) (Tensor, error) {
	var rec struct {
		DType   DType    `json:"dtype"`
		Shape   []uint64 `json:"shape"`
		Offsets []uint64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(record, &rec); err != nil {
		return Tensor{}, err
	}
	elem := rec.DType.Size()
	if elem == 0 {
		return Tensor{}, fmt.Errorf("unknown element type %.20q", rec.DType)
	}
	if len(rec.Offsets) != 2 || rec.Offsets[1] < rec.Offsets[0] || rec.Offsets[1] > 1<<62 {
		return Tensor{}, fmt.Errorf("data_offsets %v, expected [begin, end]", rec.Offsets)
	}
	if len(rec.Shape) > maxDims {
		return Tensor{}, fmt.Errorf("%d dimensions, expected at most %d", len(rec.Shape), maxDims)
	}
	t := Tensor{Name: name, DType: rec.DType, start: int64(rec.Offsets[0]), Size: int64(rec.Offsets[1] - rec.Offsets[0])}
	want := uint64(elem)
	for _, d := range rec.Shape {
		hi, lo := bits.Mul64(want, d)
		if hi != 0 || d > 1<<40 {
			return Tensor{}, fmt.Errorf("shape %v overflows", rec.Shape)
		}
		want = lo
		t.Shape = append(t.Shape, int(d))
	}
	if want != uint64(t.Size) {
		return Tensor{}, fmt.Errorf("shape %v of %s takes %d bytes, but data_offsets %v hold %d", rec.Shape, rec.DType, want,
			rec.Offsets, t.Size)
	}
	return t, nil
}

// checkPlaces makes the sorted tensors' starts absolute and checks that they fill the file from base on, without gap or overlap.
func checkPlaces(tensors []Tensor, base, size int64) error {
	at := base
	for i := range tensors {
		t := &tensors[i]
		if t.Size > size-base || t.start > size-base-t.Size {
			return fmt.Errorf("tensor %.80q (%d bytes at data offset %d) exceeds the file of %d bytes (truncated? obtain it again)",
				t.Name, t.Size, t.start, size)
		}
		if t.start += base; t.start != at {
			return fmt.Errorf("tensor %.80q begins at offset %d, expected %d: tensors overlap or leave a gap", t.Name, t.start, at)
		}
		at += t.Size
	}
	if at != size {
		return fmt.Errorf("the tensors end at offset %d of a file of %d bytes", at, size)
	}
	return nil
}

// ReadAt fills p with the tensor's bytes from offset off on.
func (t *Tensor) ReadAt(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > t.Size || off > t.Size-int64(len(p)) {
		return fmt.Errorf("tensor %q has %d bytes, %d at %d were asked for", t.Name, t.Size, len(p), off)
	}
	if _, err := t.from.ReadAt(p, t.start+off); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", t.path, t.Name, err)
	}
	return nil
}
