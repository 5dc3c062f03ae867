package format

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// loadSections reads header and section table with plain reads: no page is touched before the file's size is known to be right.
func (r *Reader) loadSections(size int64) error {
	h := make([]byte, headerSize)
	n, err := r.f.ReadAt(h, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	if err := r.checkHeader(h[:n]); err != nil {
		return err
	}
	le := binary.LittleEndian
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
		if !s.fits(uint64(size)) {
			return r.corrupt("section table", int64(table)+i*recordSize,
				"section %d (%q, %d bytes at %d, flags %#x) does not fit a file of %d bytes",
				i, s.kind, s.length, s.offset, s.flags, size)
		}
		r.sections = append(r.sections, s)
	}
	r.table = section{kind: "section table", offset: table, length: uint64(count * recordSize)}
	if err := r.checkOverlap(); err != nil {
		return err
	}
	return r.checkKinds()
}

// checkHeader checks everything of the header that does not depend on the file's size.
func (r *Reader) checkHeader(h []byte) error {
	if len(h) == 0 {
		return fmt.Errorf("%s: the file is empty, %w", r.path, ErrNotEllm)
	}
	if len(h) < len(magic) || string(h[:len(magic)]) != magic {
		return fmt.Errorf("%s: %w", r.path, ErrNotEllm)
	}
	if len(h) < headerSize {
		return r.corrupt("header", 0, "the file has %d bytes, expected at least %d", len(h), headerSize)
	}
	le := binary.LittleEndian
	if v := le.Uint32(h[8:]); v != Version {
		return fmt.Errorf("%s: container version %d, this program reads version %d (compress the model again from its source, or "+
			"use a matching ellm-gpu)",
			r.path, v, Version)
	}
	if got, want := castagnoli(h[:60]), le.Uint32(h[60:]); got != want {
		return r.corrupt("header", 60, "checksum %08x, expected %08x", got, want)
	}
	if !zeros(h[36:60]) {
		return r.corrupt("header", 36, "bytes that must be zero are not")
	}
	return nil
}

// fits reports whether a record of the section table can be right in a file of size bytes.
func (s *section) fits(size uint64) bool {
	return s.offset <= size && s.length <= size-s.offset && s.offset >= headerSize && s.offset%alignSection == 0 &&
		s.flags&^flagDeflate == 0 && (s.flags != 0 || s.size == s.length) && s.reserved == 0
}

// byOffset returns the sections and the section table in the order of the file.
func (r *Reader) byOffset() []section {
	all := append(slices.Clone(r.sections), r.table)
	slices.SortStableFunc(all, func(a, b section) int { return cmp.Compare(a.offset, b.offset) })
	return all
}

func (r *Reader) checkOverlap() error {
	all := r.byOffset()
	for i := 1; i < len(all); i++ {
		if a, b := &all[i-1], &all[i]; a.offset+a.length > b.offset {
			return r.corrupt("section table", int64(b.offset), "sections %q and %q overlap", a.kind, b.kind)
		}
	}
	return nil
}

// checkKinds refuses a second section of a kind that a container has once.
func (r *Reader) checkKinds() error {
	seen := map[string]bool{}
	for _, s := range r.sections {
		if _, single := maxInflated[s.kind]; single && seen[s.kind] {
			return r.corrupt("section table", int64(s.offset), "a second section %s, expected one", s.kind)
		}
		seen[s.kind] = true
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

// maxInflated bounds the inflated bytes of the kinds of sections that a container has once. Real ones have less than a tenth of
// it.
var maxInflated = map[string]uint64{
	KindMeta:      8 << 20,  // a configuration and a chat template
	KindTokenizer: 24 << 20, // some hundred thousand tokens and merges
	KindGGUF:      16 << 20, // metadata without the vocabulary
	KindTables:    4 + maxTables*(2+(huffman.MaxLevels*huffman.MaxLevels+1)/2),
	KindIndex:     16 << 20, // some ten thousand tensors
}

// Section returns the checked and inflated contents of the section of a kind, or nil if there is none.
func (r *Reader) Section(kind string) (out []byte, err error) {
	err = r.Guard(func() error { out, err = r.section(kind); return err })
	return out, err
}

func (r *Reader) section(kind string) ([]byte, error) {
	z, err := r.sectionReader(kind)
	if z == nil || err != nil {
		return nil, err
	}
	s := z.section
	if s.flags&flagDeflate == 0 {
		return r.data[s.offset : s.offset+s.length], nil
	}
	// Grown as it is filled: what a section claims to inflate to costs nothing.
	out, err := io.ReadAll(z)
	if err == nil {
		err = z.end()
	}
	return out, err
}

// sectionReader reads a section's inflated contents and checks that there are as many bytes as the section table says.
type sectionReader struct {
	io.Reader
	r       *Reader
	section *section
	n       uint64
}

func (z *sectionReader) Read(b []byte) (int, error) {
	n, err := z.Reader.Read(b)
	z.n += uint64(n)
	if err != nil && err != io.EOF || z.n > z.section.size {
		return n, z.r.corrupt(z.section.kind, int64(z.section.offset), "inflates to %d bytes or more (%v), expected %d", z.n, err,
			z.section.size)
	}
	return n, err
}

// end checks that everything has been read.
func (z *sectionReader) end() error {
	if z.n != z.section.size {
		return z.r.corrupt(z.section.kind, int64(z.section.offset), "inflates to %d bytes, expected %d", z.n, z.section.size)
	}
	return nil
}

// sectionReader returns a reader of the section of a kind after checking its checksum and what it claims to inflate to, or nil if
// there is none.
func (r *Reader) sectionReader(kind string) (*sectionReader, error) {
	i := slices.IndexFunc(r.sections, func(s section) bool { return s.kind == kind })
	if i < 0 {
		return nil, nil
	}
	if err := r.check(i, kind); err != nil {
		return nil, err
	}
	s := &r.sections[i]
	b := r.data[s.offset : s.offset+s.length]
	most, known := maxInflated[kind]
	if !known {
		most = s.length
	}
	if most = min(most, inflateSlack+maxInflation*s.length); s.size > most {
		return nil, r.corrupt(kind, int64(s.offset), "has %d bytes, of which %d are stored; at most %d are accepted", s.size,
			s.length, most)
	}
	z := &sectionReader{Reader: bytes.NewReader(b), r: r, section: s}
	if s.flags&flagDeflate != 0 {
		z.Reader = flate.NewReader(z.Reader)
	}
	return z, nil
}

// VerifySections compares the checksums of all sections that hold no tensor, whether anything reads them or not, and checks that
// the bytes between sections are zero.
func (r *Reader) VerifySections() error {
	return r.Guard(func() error {
		for i, s := range r.sections {
			if s.kind != KindTensor {
				if err := r.check(i, s.kind); err != nil {
					return err
				}
			}
		}
		end := uint64(headerSize)
		for _, s := range r.byOffset() {
			if err := r.checkGap(end, s.offset); err != nil {
				return err
			}
			end = s.offset + s.length
		}
		return r.checkGap(end, uint64(len(r.data)))
	})
}

// checkGap checks bytes that belong to no section.
func (r *Reader) checkGap(from, to uint64) error {
	if to-from >= alignSection {
		return r.corrupt("section table", int64(from), "%d bytes belong to no section, expected less than %d", to-from, alignSection)
	}
	if !zeros(r.data[from:to]) {
		return r.corrupt("gap", int64(from), "bytes between sections are not zero")
	}
	return nil
}

func zeros(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }
