package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// Writer writes a GGUF version 3 file: the header on creation, then the tensors' data in order. The file appears under its
// name only when Close succeeds. Not safe for concurrent use.
type Writer struct {
	path    string
	f       *outfile.File
	w       *bufio.Writer
	tensors []Tensor
	current int   // index of the tensor being written
	left    int64 // bytes it still needs
	scratch []byte
}

// Create starts a file at path with these pairs and tensors; of the tensors Name, Dims and Type count. The pair
// general.alignment is written as the 32 bytes that are used. Call Abort, which does nothing after Close, in a defer.
func Create(path string, m *Metadata, tensors []Tensor) (*Writer, error) {
	return CreateOn(outfile.OS{}, path, m, tensors)
}

// CreateOn is Create for another disk.
func CreateOn(disk outfile.Disk, path string, m *Metadata, tensors []Tensor) (*Writer, error) {
	head, sized, err := encodeHeader(m, tensors)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := outfile.Create(disk, path)
	if err != nil {
		return nil, err
	}
	w := &Writer{path: path, f: f, w: bufio.NewWriterSize(f, 1<<20), tensors: sized, current: -1}
	if _, err = w.w.Write(head); err == nil {
		err = w.next()
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// encodeHeader returns everything before the first tensor's data, and the tensors with their sizes.
func encodeHeader(m *Metadata, tensors []Tensor) (head []byte, sized []Tensor, err error) {
	out := m.Filter(func(string) bool { return true })
	if _, ok := out.Get(keyAlignment); ok {
		out.Set(keyAlignment, uint32(defaultAlignment))
	}
	pairs, err := out.Encode()
	if err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	head = le.AppendUint32([]byte(magic), 3)
	head = le.AppendUint64(head, uint64(len(tensors)))
	head = le.AppendUint64(head, uint64(len(out.keys)))
	head = append(head, pairs...)
	seen, offset := map[string]bool{}, int64(0)
	for _, t := range tensors {
		if t.Name == "" || len(t.Name) > maxName || seen[t.Name] || len(t.Dims) < 1 || len(t.Dims) > maxDims {
			return nil, nil, fmt.Errorf("tensor %.80q with dimensions %v: name empty, too long or repeated, or not 1 … %d dimensions",
				t.Name, t.Dims, maxDims)
		}
		seen[t.Name] = true
		if t.Size, err = tensorSize(t.Type, t.Dims); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if t.Size > math.MaxInt64/2-offset {
			return nil, nil, fmt.Errorf("tensor %q: the file would exceed %d bytes", t.Name, int64(math.MaxInt64/2))
		}
		head = appendTensor(head, &t, offset)
		offset += t.Size + padding(t.Size)
		sized = append(sized, t)
	}
	return append(head, make([]byte, padding(int64(len(head))))...), sized, nil
}

func padding(n int64) int64 { return -n & (defaultAlignment - 1) }

// next pads the finished tensor and moves on to the following one.
func (w *Writer) next() error {
	if w.current >= 0 {
		if _, err := w.w.Write(make([]byte, padding(w.tensors[w.current].Size))); err != nil {
			return err
		}
	}
	if w.current++; w.current < len(w.tensors) {
		w.left = w.tensors[w.current].Size
	}
	return nil
}

// Write appends stored bytes to the current tensor; when it is complete, the next one becomes current.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.current >= len(w.tensors) {
		return 0, fmt.Errorf("%s: data after the last tensor", w.path)
	}
	t := &w.tensors[w.current]
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%s: %d bytes for tensor %q, which takes %d more", w.path, len(p), t.Name, w.left)
	}
	n, err := w.w.Write(p)
	w.left -= int64(n)
	if err == nil && w.left == 0 {
		err = w.next()
	}
	return n, err
}

// WriteFloats appends weights to the current tensor, rounded to its type: F32, F16 or BF16.
func (w *Writer) WriteFloats(x []float32) error {
	if w.current >= len(w.tensors) {
		return fmt.Errorf("%s: data after the last tensor", w.path)
	}
	b, le := w.scratch[:0], binary.LittleEndian
	switch t := &w.tensors[w.current]; t.Type {
	case F32:
		for _, v := range x {
			b = le.AppendUint32(b, math.Float32bits(v))
		}
	case F16:
		for _, v := range x {
			b = le.AppendUint16(b, FloatToF16(v))
		}
	case BF16:
		for _, v := range x {
			b = le.AppendUint16(b, FloatToBF16(v))
		}
	default:
		return fmt.Errorf("%s: tensor %q of type %s cannot be written from floats", w.path, t.Name, t.Type)
	}
	w.scratch = b
	_, err := w.Write(b)
	return err
}

// Close checks that every tensor is complete, and gives the file its name.
func (w *Writer) Close() error {
	defer w.Abort()
	if w.current < len(w.tensors) {
		return fmt.Errorf("%s: tensor %q lacks %d bytes", w.path, w.tensors[w.current].Name, w.left)
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	return w.f.Commit()
}

// Abort removes the unfinished file.
func (w *Writer) Abort() { w.f.Abort() }
