package format

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Writer writes a container to a temporary file beside its destination and renames it in Finish,
// so that a failed or cancelled run leaves what was there before. It is not safe for concurrent use.
type Writer struct {
	path     string
	f        *os.File
	offset   int64
	sections []section
	index    index
	done     bool
}

// Create starts a container that will appear at path.
func Create(path string) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part*")
	if err != nil {
		return nil, fmt.Errorf("cannot write beside %s: %w", path, err)
	}
	w := &Writer{path: path, f: f, offset: headerSize}
	if _, err := f.Write(make([]byte, headerSize)); err != nil {
		w.Abort()
		return nil, w.wrap(err)
	}
	return w, nil
}

func (w *Writer) wrap(err error) error { return fmt.Errorf("writing %s: %w", w.path, err) }

// Abort removes the temporary file. After Finish it does nothing.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.f.Close()
	os.Remove(w.f.Name())
}

func (w *Writer) pad(align int64) error {
	n := alignUp(w.offset, align) - w.offset
	if n == 0 {
		return nil
	}
	w.offset += n
	_, err := w.f.Write(make([]byte, n))
	return err
}

// Section appends a section of bytes, deflated if asked and if that makes it smaller.
func (w *Writer) Section(kind string, data []byte, deflate bool) error {
	s := section{kind: kind, size: uint64(len(data))}
	if deflate {
		var b bytes.Buffer
		z, err := flate.NewWriter(&b, flate.BestCompression)
		if err != nil {
			return w.wrap(err)
		}
		z.Write(data)
		z.Close()
		if b.Len() < len(data) {
			data, s.flags = b.Bytes(), flagDeflate
		}
	}
	if err := w.pad(alignSection); err != nil {
		return w.wrap(err)
	}
	s.offset, s.length, s.crc = uint64(w.offset), uint64(len(data)), castagnoli(data)
	w.sections = append(w.sections, s)
	w.offset += int64(len(data))
	if _, err := w.f.Write(data); err != nil {
		return w.wrap(err)
	}
	return nil
}

// tensor appends a TNSR section made of parts, each aligned, and returns their places.
func (w *Writer) tensor(e indexEntry, names []string, data [][]byte) error {
	if err := w.pad(alignSection); err != nil {
		return w.wrap(err)
	}
	s := section{kind: KindTensor, offset: uint64(w.offset)}
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	out := io.MultiWriter(w.f, crc)
	n := int64(0)
	e.Parts = map[string][2]int64{}
	for i, b := range data {
		gap := alignUp(n, alignPart) - n
		if _, err := out.Write(make([]byte, gap)); err != nil {
			return w.wrap(err)
		}
		n += gap
		e.Parts[names[i]] = [2]int64{n, int64(len(b))}
		if _, err := out.Write(b); err != nil {
			return w.wrap(err)
		}
		n += int64(len(b))
	}
	s.length, s.size, s.crc = uint64(n), uint64(n), crc.Sum32()
	e.Section = len(w.sections)
	w.sections = append(w.sections, s)
	w.index.Tensors = append(w.index.Tensors, e)
	w.offset += n
	return nil
}

// Coded appends a coded matrix.
func (w *Writer) Coded(name string, c *Coded) error {
	if err := c.checkGeometry(); err != nil {
		return w.wrap(fmt.Errorf("tensor %s: %w", name, err))
	}
	if err := c.checkPackable(); err != nil {
		return w.wrap(fmt.Errorf("tensor %s: %w", name, err))
	}
	var names []string
	var data [][]byte
	for _, p := range c.parts() {
		b := p.bytes()
		if len(b) == 0 && p.optional {
			continue
		}
		if p.count >= 0 && int64(len(b)) != p.count*p.elemSize {
			return w.wrap(fmt.Errorf("tensor %s: part %s has %d bytes, expected %d", name, p.name, len(b), p.count*p.elemSize))
		}
		names, data = append(names, p.name), append(data, b)
	}
	coding, scale := c.Coding, c.Scale // copies: the index must not keep the weights in memory
	return w.tensor(indexEntry{Name: name, Rows: c.Rows, Cols: c.Cols, Kind: kindCoded, Coding: &coding, Scale: &scale}, names, data)
}

// Raw appends an uncoded tensor.
func (w *Writer) Raw(name string, t *Raw) error {
	if want := t.Rows * t.Cols * t.DType.Size(); want != len(t.Data) || want == 0 {
		return w.wrap(fmt.Errorf("tensor %s: %d bytes for %d × %d %s, expected %d", name, len(t.Data), t.Rows, t.Cols, t.DType, want))
	}
	return w.tensor(indexEntry{Name: name, Rows: t.Rows, Cols: t.Cols, Kind: kindRaw, DType: t.DType}, []string{partData}, [][]byte{t.Data})
}

// Size returns the bytes written so far.
func (w *Writer) Size() int64 { return w.offset }

// Finish writes tables, index, metadata and header, syncs, and renames the file into place. It returns the file's size.
func (w *Writer) Finish(meta *Meta, tables []*huffman.Table) (int64, error) {
	defer w.Abort()
	tbls, err := encodeTables(tables)
	if err != nil {
		return 0, w.wrap(err)
	}
	tidx, err1 := json.Marshal(w.index)
	mj, err2 := json.Marshal(meta)
	if err := errors.Join(err1, err2); err != nil {
		return 0, w.wrap(err)
	}
	if err := w.Section(KindTables, tbls, false); err != nil {
		return 0, err
	}
	if err := w.Section(KindIndex, tidx, true); err != nil {
		return 0, err
	}
	if err := w.Section(KindMeta, mj, true); err != nil {
		return 0, err
	}
	if err := w.finishHeader(); err != nil {
		return 0, w.wrap(err)
	}
	w.done = true
	if err := w.f.Close(); err != nil {
		os.Remove(w.f.Name())
		return 0, w.wrap(err)
	}
	if err := os.Rename(w.f.Name(), w.path); err != nil {
		os.Remove(w.f.Name())
		return 0, w.wrap(err)
	}
	return w.offset, nil
}

func (w *Writer) finishHeader() error {
	if err := w.pad(alignSection); err != nil {
		return err
	}
	table := make([]byte, recordSize*len(w.sections))
	for i := range w.sections {
		w.sections[i].encode(table[recordSize*i:])
	}
	if _, err := w.f.Write(table); err != nil {
		return err
	}
	h := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(h, magic)
	le.PutUint32(h[8:], Version)
	le.PutUint32(h[12:], uint32(len(w.sections)))
	le.PutUint64(h[16:], uint64(w.offset))
	w.offset += int64(len(table))
	le.PutUint64(h[24:], uint64(w.offset))
	le.PutUint32(h[32:], castagnoli(table))
	le.PutUint32(h[60:], castagnoli(h[:60]))
	if _, err := w.f.WriteAt(h, 0); err != nil {
		return err
	}
	if err := w.f.Chmod(0o644); err != nil {
		return err
	}
	return w.f.Sync()
}

func encodeTables(tables []*huffman.Table) ([]byte, error) {
	if len(tables) > maxTables {
		return nil, fmt.Errorf("%d code tables, at most %d fit", len(tables), maxTables)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(tables)))
	for i, t := range tables {
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("code table %d: %w", i, err)
		}
		b = append(b, uint8(t.Levels), uint8(t.MaxLen))
		nibbles := make([]byte, (len(t.Lens)+1)/2)
		for s, n := range t.Lens {
			nibbles[s/2] |= n << (4 * (s % 2))
		}
		b = append(b, nibbles...)
	}
	return b, nil
}
