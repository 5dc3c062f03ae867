package format

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// loadIndex builds the tensors from TIDX: every part is placed, sized and aligned before it is viewed.
func (r *Reader) loadIndex() error {
	z, err := r.sectionReader(KindIndex)
	if err != nil {
		return err
	}
	if z == nil {
		return r.corrupt(KindIndex, -1, "the section is missing")
	}
	var todo []compact
	listed := make([]bool, len(r.sections))
	err = decodeIndex(z, func(e *indexEntry) error {
		t, expand, err := r.tensor(e)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", e.Name, err)
		}
		if _, twice := r.byName[t.Name]; twice {
			return fmt.Errorf("tensor %q is listed twice", t.Name)
		}
		if listed[e.Section] {
			return fmt.Errorf("tensor %q is in section %d, which another tensor has", t.Name, e.Section)
		}
		listed[e.Section] = true
		r.tensors = append(r.tensors, t)
		r.byName[t.Name] = t
		r.place[t] = e.Section
		if expand != nil {
			todo = append(todo, compact{t, expand})
		}
		return nil
	})
	if err == nil {
		err = z.end()
	}
	if err != nil {
		return r.corrupt(KindIndex, -1, "%v", err)
	}
	for i, s := range r.sections {
		if s.kind == KindTensor && !listed[i] {
			return r.corrupt(KindIndex, -1, "section %d holds a tensor at offset %d that is not listed", i, s.offset)
		}
	}
	return r.expand(todo)
}

// decodeIndex passes on the entries of {"tensors":[…]} one at a time, so that a small file cannot ask for many at once. The list
// of no tensors may be null.
func decodeIndex(r io.Reader, add func(*indexEntry) error) error {
	d := json.NewDecoder(r)
	if err := expectTokens(d, json.Delim('{'), "tensors"); err != nil {
		return err
	}
	if list, err := d.Token(); err != nil {
		return err
	} else if list == json.Delim('[') {
		if err := decodeEntries(d, add); err != nil {
			return err
		}
	} else if list != nil {
		return fmt.Errorf("%v at byte %d, expected a list of tensors", list, d.InputOffset())
	}
	if err := expectTokens(d, json.Delim('}')); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows at byte %d, expected the end", d.InputOffset())
	}
	return nil
}

func decodeEntries(d *json.Decoder, add func(*indexEntry) error) error {
	for d.More() {
		var e indexEntry
		if err := d.Decode(&e); err != nil {
			return err
		}
		if len(e.Name) > maxName || len(e.Parts) > maxParts {
			return fmt.Errorf("tensor %.40q with a name of %d bytes and %d parts, expected at most %d and %d",
				e.Name, len(e.Name), len(e.Parts), maxName, maxParts)
		}
		if err := add(&e); err != nil {
			return err
		}
	}
	return expectTokens(d, json.Delim(']'))
}

func expectTokens(d *json.Decoder, want ...json.Token) error {
	for _, w := range want {
		if got, err := d.Token(); err != nil {
			return err
		} else if got != w {
			return fmt.Errorf("%v at byte %d, expected %v", got, d.InputOffset(), w)
		}
	}
	return nil
}

// compact are the parts of a tensor that are to be expanded.
type compact struct {
	t     *Tensor
	parts []part
}

// expand expands the parts of all tensors on all cores.
func (r *Reader) expand(todo []compact) error {
	return parallel.Each(context.Background(), len(todo), func(i int, _ *struct{}) error { return r.expandParts(&todo[i]) })
}

func (r *Reader) expandParts(c *compact) error {
	i := r.place[c.t]
	s, name := &r.sections[i], KindTensor+" "+c.t.Name
	for _, p := range c.parts {
		at := c.t.Parts[p.name]
		offset := int64(s.offset) + at[0]
		if err := p.expand(r.data[offset:offset+at[1]], r.reserve); err != nil {
			if crc := r.check(i, name); crc != nil {
				return crc
			}
			return r.corrupt(name, offset, "%v", err)
		}
	}
	return nil
}

// reserve refuses to expand parts to much more than the file has.
func (r *Reader) reserve(bytes int64) error {
	if r.expandable.Add(-bytes) < 0 {
		return fmt.Errorf("row orders, lane tails and outliers would take more than %d bytes and %d times the file's, expected a "+
			"small part of it", expandSlack, expandShare)
	}
	return nil
}

func (r *Reader) tensor(e *indexEntry) (*Tensor, []part, error) {
	if e.Section < 0 || e.Section >= len(r.sections) || r.sections[e.Section].kind != KindTensor ||
		r.sections[e.Section].flags != 0 {
		return nil, nil, fmt.Errorf("section %d is not a tensor section", e.Section)
	}
	s := &r.sections[e.Section]
	if s.length == 0 {
		return nil, nil, fmt.Errorf("section %d is empty", e.Section)
	}
	body := r.data[s.offset : s.offset+s.length]
	if err := checkParts(e, int64(len(body))); err != nil {
		return nil, nil, err
	}
	t := &Tensor{Name: e.Name, Rows: e.Rows, Cols: e.Cols, Bytes: int64(s.length), Parts: e.Parts}
	var expand []part
	var err error
	switch e.Kind {
	case kindRaw:
		t.Raw, err = rawFrom(e, body)
	case kindCoded:
		t.Coded, expand, err = codedFrom(e, body)
	default:
		err = fmt.Errorf("kind is %q, expected %s or %s", e.Kind, kindRaw, kindCoded)
	}
	return t, expand, err
}

// checkParts checks that parts lie within a section of n bytes, aligned and apart.
func checkParts(e *indexEntry, n int64) error {
	names := slices.Sorted(maps.Keys(e.Parts))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(e.Parts[a][0], e.Parts[b][0]) })
	end := int64(0)
	for _, name := range names {
		at, size := e.Parts[name][0], e.Parts[name][1]
		if at < 0 || size < 0 || at > n || size > n-at || at%alignPart != 0 {
			return fmt.Errorf("part %s (%d bytes at %d) does not fit a section of %d bytes", name, size, at, n)
		}
		if size > 0 && at < end {
			return fmt.Errorf("part %s (%d bytes at %d) overlaps the one before it, which ends at %d", name, size, at, end)
		}
		end = max(end, at+size)
	}
	return nil
}

// slice returns the bytes of a part, which checkParts has checked.
func slice(e *indexEntry, name string, body []byte) ([]byte, bool) {
	p, ok := e.Parts[name]
	if !ok {
		return nil, false
	}
	return body[p[0] : p[0]+p[1] : p[0]+p[1]], true
}

func rawFrom(e *indexEntry, body []byte) (*Raw, error) {
	size := e.DType.Size()
	if size == 0 || e.Rows < 1 || e.Cols < 1 || e.Rows > MaxRows || e.Cols > 1<<31 {
		return nil, fmt.Errorf("%d × %d of type %q", e.Rows, e.Cols, e.DType)
	}
	b, ok := slice(e, partData, body)
	if want := int64(e.Rows) * int64(e.Cols) * int64(size); !ok || int64(len(b)) != want {
		return nil, fmt.Errorf("part data has %d bytes, expected %d", len(b), want)
	}
	return &Raw{Rows: e.Rows, Cols: e.Cols, DType: e.DType, Data: b}, nil
}

// codedFrom views the parts of a coded tensor and returns those that are still to be expanded.
func codedFrom(e *indexEntry, body []byte) (*Coded, []part, error) {
	if e.Coding == nil || e.Scale == nil {
		return nil, nil, fmt.Errorf("coding or scale is missing")
	}
	c := &Coded{Rows: e.Rows, Cols: e.Cols, Coding: *e.Coding, Scale: *e.Scale}
	if err := c.checkGeometry(); err != nil {
		return nil, nil, err
	}
	var expand []part
	for _, p := range c.parts() {
		b, ok := slice(e, p.name, body)
		if !ok && p.optional {
			continue
		}
		if p.count >= 0 && int64(len(b)) != p.count*p.elemSize || int64(len(b))%p.elemSize != 0 {
			return nil, nil, fmt.Errorf("part %s has %d bytes, expected %d of %d bytes each", p.name, len(b), p.count, p.elemSize)
		}
		if p.expand != nil {
			expand = append(expand, p)
		} else {
			p.set(b)
		}
	}
	return c, expand, nil
}
