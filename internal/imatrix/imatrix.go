// Package imatrix reads and writes the importance matrices of llama.cpp's llama-imatrix: for every matrix of a model the mean
// square of each column's activations over some text, gathered by running the model. Files come as GGUF and, from older
// versions, in a binary form of their own; Read takes both, Write makes GGUF.
package imatrix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// Names inside GGUF files.
const (
	keyType      = "general.type"
	typeImatrix  = "imatrix"
	keyDatasets  = "imatrix.datasets"
	keyChunks    = "imatrix.chunk_count"
	keyChunkSize = "imatrix.chunk_size"
	sumSuffix    = ".in_sum2"
	countSuffix  = ".counts"
)

// Limits of the legacy form.
const (
	maxLegacy  = 1 << 30 // bytes
	maxEntries = 1 << 16
	maxName    = 1024
	maxCols    = 1 << 20
)

// Matrix is what is known about the inputs of one weight matrix.
type Matrix struct {
	MeanSq []float32 // per column: E[x²], finite and ≥ 0
	Count  float64   // tokens that were averaged; in files of the legacy form chunks of text
}

// File is the content of an importance matrix file.
type File struct {
	Matrices  map[string]*Matrix // by GGUF tensor name
	Datasets  []string           // names of the texts, for information
	Chunks    int                // chunks of text, 0 if unknown
	ChunkSize int                // tokens of a chunk, 0 if unknown
}

// Read reads the file at path.
func Read(path string) (*File, error) {
	f, err := infile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, fmt.Errorf("%s: too short for an importance matrix (expected the output of llama-imatrix)", path)
	}
	var out *File
	if gguf.IsGGUF(head) {
		out, err = readGGUF(path)
	} else {
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxLegacy)); err == nil {
			out, err = parseLegacy(append(head, b...))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimPrefix(path, "./"), err)
	}
	return out, nil
}

func readGGUF(path string) (*File, error) {
	g, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	out := &File{Matrices: map[string]*Matrix{}}
	if err := out.metadata(&g.Metadata); err != nil {
		return nil, err
	}
	counts := map[string]*gguf.Tensor{}
	for i := range g.Tensors {
		if name, ok := strings.CutSuffix(g.Tensors[i].Name, countSuffix); ok {
			counts[name] = &g.Tensors[i]
		}
	}
	for i := range g.Tensors {
		name, ok := strings.CutSuffix(g.Tensors[i].Name, sumSuffix)
		if !ok {
			continue
		}
		var m *Matrix
		err := g.Guard(func() (err error) { m, err = pair(g, &g.Tensors[i], counts[name]); return err })
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", g.Tensors[i].Name, err)
		}
		if m != nil {
			out.Matrices[name] = m
		}
	}
	if len(out.Matrices) == 0 {
		return nil, errors.New("has no tensors named *.in_sum2: not an importance matrix, or one without data")
	}
	return out, nil
}

func (f *File) metadata(m *gguf.Metadata) error {
	kind, err := m.String(keyType)
	if err != nil || kind != typeImatrix {
		return fmt.Errorf("is a GGUF file with %s %q, expected %q (make one with llama-imatrix)", keyType, kind, typeImatrix)
	}
	if f.Datasets, err = m.Strings(keyDatasets); err != nil && !errors.Is(err, gguf.ErrMissing) {
		return err
	}
	f.Datasets = slices.Clone(f.Datasets)
	if f.Chunks, err = m.IntOr(keyChunks, 0); err != nil {
		return err
	}
	f.ChunkSize, err = m.IntOr(keyChunkSize, 0)
	return err
}

// pair reads the sums of one matrix and divides them by their count. Matrices that no token reached give nil.
func pair(g *gguf.File, sums, counts *gguf.Tensor) (*Matrix, error) {
	if counts == nil {
		return nil, fmt.Errorf("there is no tensor of %s beside it", countSuffix)
	}
	if sums.Type != gguf.F32 || counts.Type != gguf.F32 {
		return nil, fmt.Errorf("types %s and %s, expected F32", sums.Type, counts.Type)
	}
	if sums.Rows() != 1 || counts.Rows() != 1 || counts.Cols() != 1 {
		return nil, fmt.Errorf("%d matrices of experts with %d counts, but only dense models are supported", sums.Rows(), counts.Rows())
	}
	if sums.Cols() > maxCols {
		return nil, fmt.Errorf("%d columns, expected at most %d", sums.Cols(), maxCols)
	}
	n, err := floats(g, counts)
	if err != nil {
		return nil, err
	}
	x, err := floats(g, sums)
	if err != nil {
		return nil, err
	}
	if n[0] == 0 {
		return nil, nil
	}
	return newMatrix(x, float64(n[0]))
}

func floats(g *gguf.File, t *gguf.Tensor) ([]float32, error) {
	b, err := g.Rows(t, 0, 1)
	if err != nil {
		return nil, err
	}
	out := make([]float32, t.Cols())
	return out, gguf.Dequantize(gguf.F32, b, out)
}

// newMatrix divides sums, which it takes over, by their count.
func newMatrix(sums []float32, count float64) (*Matrix, error) {
	if !(count > 0 && count <= math.MaxInt64) {
		return nil, fmt.Errorf("a count of %g, expected a positive number", count)
	}
	for i, x := range sums {
		v := float64(x) / count
		if !(v >= 0 && v <= math.MaxFloat32) {
			return nil, fmt.Errorf("column %d has a sum of squares of %g, expected a number from 0 (damaged file, or made with a "+
				"damaged model)", i, x)
		}
		sums[i] = float32(v)
	}
	return &Matrix{MeanSq: sums, Count: count}, nil
}

// legacy walks through a file of the binary form: i32 number of entries; for each i32 length of the name, the name, i32 chunks,
// i32 columns, columns × f32 mean squares times chunks; then, in newer files, i32 chunks, i32 length of a file name, the file
// name.
type legacy struct {
	b   []byte
	pos int
}

func (l *legacy) take(n int, what string) ([]byte, error) {
	if n < 0 || n > len(l.b)-l.pos {
		return nil, fmt.Errorf("at byte %d: %s takes %d bytes, %d are left (not an importance matrix, or cut short)", l.pos, what,
			n, len(l.b)-l.pos)
	}
	l.pos += n
	return l.b[l.pos-n : l.pos], nil
}

// count reads a number from lo to hi.
func (l *legacy) count(what string, lo, hi int) (int, error) {
	b, err := l.take(4, what)
	if err != nil {
		return 0, err
	}
	n := int(int32(binary.LittleEndian.Uint32(b)))
	if n < lo || n > hi {
		return 0, fmt.Errorf("at byte %d: %s is %d, expected %d to %d (not an importance matrix, or damaged)", l.pos-4, what, n, lo, hi)
	}
	return n, nil
}

func parseLegacy(b []byte) (*File, error) {
	l := &legacy{b: b}
	n, err := l.count("the number of entries", 1, maxEntries)
	if err != nil {
		return nil, err
	}
	out := &File{Matrices: map[string]*Matrix{}}
	for range n {
		name, m, err := l.entry()
		if err != nil {
			return nil, err
		}
		if out.Matrices[name] != nil {
			return nil, fmt.Errorf("at byte %d: entry %q occurs twice", l.pos, name)
		}
		out.Matrices[name] = m
	}
	if l.pos == len(b) {
		return out, nil
	}
	if out.Chunks, err = l.count("the number of chunks", 0, math.MaxInt32); err != nil || l.pos == len(b) {
		return out, err
	}
	size, err := l.count("the length of the text's name", 0, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	text, err := l.take(size, "the text's name")
	if err != nil {
		return nil, err
	}
	if size > 0 {
		out.Datasets = []string{string(text)}
	}
	if l.pos != len(b) {
		return nil, fmt.Errorf("%d bytes follow the end", len(b)-l.pos)
	}
	return out, nil
}

func (l *legacy) entry() (string, *Matrix, error) {
	size, err := l.count("the length of a name", 1, maxName)
	if err != nil {
		return "", nil, err
	}
	b, err := l.take(size, "a name")
	if err != nil {
		return "", nil, err
	}
	name := string(bytes.Clone(b))
	fail := func(err error) (string, *Matrix, error) { return "", nil, fmt.Errorf("entry %q: %w", name, err) }
	calls, err := l.count("the number of chunks", 0, math.MaxInt32)
	if err != nil {
		return fail(err)
	}
	cols, err := l.count("the number of columns", 1, maxCols)
	if err != nil {
		return fail(err)
	}
	if b, err = l.take(4*cols, "the sums"); err != nil {
		return fail(err)
	}
	x := make([]float32, cols)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	m, err := newMatrix(x, float64(max(calls, 1)))
	if err != nil {
		return fail(err)
	}
	return name, m, nil
}

// Write stores f at path as GGUF. The file appears only when it is complete.
func Write(path string, f *File) error { return WriteOn(outfile.OS{}, path, f) }

// WriteOn is Write for another disk.
func WriteOn(disk outfile.Disk, path string, f *File) error {
	names := make([]string, 0, len(f.Matrices))
	for n := range f.Matrices {
		names = append(names, n)
	}
	slices.Sort(names)
	var meta gguf.Metadata
	meta.Set(keyType, typeImatrix)
	if len(f.Datasets) > 0 {
		meta.Set(keyDatasets, f.Datasets)
	}
	meta.Set(keyChunks, uint32(f.Chunks))
	meta.Set(keyChunkSize, uint32(f.ChunkSize))
	var tensors []gguf.Tensor
	for _, n := range names {
		tensors = append(tensors,
			gguf.Tensor{Name: n + sumSuffix, Dims: []uint64{uint64(len(f.Matrices[n].MeanSq)), 1}, Type: gguf.F32},
			gguf.Tensor{Name: n + countSuffix, Dims: []uint64{1, 1}, Type: gguf.F32})
	}
	w, err := gguf.CreateOn(disk, path, &meta, tensors)
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, n := range names {
		m := f.Matrices[n]
		sums := make([]float32, len(m.MeanSq))
		for i, x := range m.MeanSq {
			sums[i] = float32(float64(x) * m.Count)
		}
		if err := w.WriteFloats(sums); err != nil {
			return err
		}
		if err := w.WriteFloats([]float32{float32(m.Count)}); err != nil {
			return err
		}
	}
	return w.Close()
}
