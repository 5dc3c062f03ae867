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

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// Writer writes a container that appears under its name in Finish, so that a failed or cancelled run leaves what was there before
// (package outfile). It is not safe for concurrent use.
type Writer struct {
	f        *outfile.File
	offset   int64
	sections []section
	index    index
	deflate  *flate.Writer // more than a megabyte: made once
}

// Create starts a container that will appear at path.
func Create(path string) (*Writer, error) { return CreateOn(outfile.OS{}, path) }

// CreateOn is Create for another disk.
func CreateOn(disk outfile.Disk, path string) (*Writer, error) {
	f, err := outfile.Create(disk, path)
	if err != nil {
		return nil, err
	}
	w := &Writer{f: f, offset: headerSize}
	if _, err := f.Write(make([]byte, headerSize)); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// Abort removes the temporary file. After Finish it does nothing.
func (w *Writer) Abort() { w.f.Abort() }

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
		b, err := w.deflated(data)
		if err != nil {
			return err
		}
		if len(b) < len(data) {
			data, s.flags = b, flagDeflate
		}
	}
	if err := w.pad(alignSection); err != nil {
		return err
	}
	s.offset, s.length, s.crc = uint64(w.offset), uint64(len(data)), castagnoli(data)
	w.sections = append(w.sections, s)
	w.offset += int64(len(data))
	if _, err := w.f.Write(data); err != nil {
		return err
	}
	return nil
}

// deflated returns data in the format of RFC 1951.
func (w *Writer) deflated(data []byte) ([]byte, error) {
	var b bytes.Buffer
	if w.deflate == nil {
		z, err := flate.NewWriter(&b, flate.BestCompression)
		if err != nil {
			return nil, err
		}
		w.deflate = z
	} else {
		w.deflate.Reset(&b)
	}
	if _, err := w.deflate.Write(data); err != nil {
		return nil, err
	}
	err := w.deflate.Close()
	return b.Bytes(), err
}

// tensor appends a TNSR section made of parts, each aligned, and returns their places.
func (w *Writer) tensor(e indexEntry, names []string, data [][]byte) error {
	if err := w.pad(alignSection); err != nil {
		return err
	}
	s := section{kind: KindTensor, offset: uint64(w.offset)}
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	out := io.MultiWriter(w.f, crc)
	n := int64(0)
	e.Parts = map[string][2]int64{}
	for i, b := range data {
		gap := alignUp(n, alignPart) - n
		if _, err := out.Write(make([]byte, gap)); err != nil {
			return err
		}
		n += gap
		e.Parts[names[i]] = [2]int64{n, int64(len(b))}
		if _, err := out.Write(b); err != nil {
			return err
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
		return w.f.Wrap(fmt.Errorf("tensor %s: %w", name, err))
	}
	if err := c.checkPackable(); err != nil {
		return w.f.Wrap(fmt.Errorf("tensor %s: %w", name, err))
	}
	var names []string
	var data [][]byte
	for _, p := range c.parts() {
		b := p.bytes()
		if len(b) == 0 && p.optional {
			continue
		}
		if p.count >= 0 && int64(len(b)) != p.count*p.elemSize {
			return w.f.Wrap(fmt.Errorf("tensor %s: part %s has %d bytes, expected %d", name, p.name, len(b), p.count*p.elemSize))
		}
		names, data = append(names, p.name), append(data, b)
	}
	coding, scale := c.Coding, c.Scale // copies: the index must not keep the weights in memory
	return w.tensor(indexEntry{Name: name, Rows: c.Rows, Cols: c.Cols, Kind: kindCoded, Coding: &coding, Scale: &scale}, names, data)
}

// Raw appends an uncoded tensor.
func (w *Writer) Raw(name string, t *Raw) error {
	if want := t.Rows * t.Cols * t.DType.Size(); want != len(t.Data) || want == 0 {
		return w.f.Wrap(fmt.Errorf("tensor %s: %d bytes for %d × %d %s, expected %d", name, len(t.Data), t.Rows, t.Cols, t.DType, want))
	}
	return w.tensor(indexEntry{Name: name, Rows: t.Rows, Cols: t.Cols, Kind: kindRaw, DType: t.DType}, []string{partData},
		[][]byte{t.Data})
}

// Size returns the bytes written so far.
func (w *Writer) Size() int64 { return w.offset }

// Finish writes tables, index, metadata and header, syncs, and renames the file into place. It returns the file's size.
func (w *Writer) Finish(meta *Meta, tables []*huffman.Table) (int64, error) {
	defer w.Abort()
	tbls, err := encodeTables(tables)
	if err != nil {
		return 0, err
	}
	tidx, err1 := json.Marshal(w.index)
	mj, err2 := json.Marshal(meta)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
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
		return 0, err
	}
	return w.offset, w.f.Commit()
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
	_, err := w.f.WriteAt(h, 0)
	return err
}
