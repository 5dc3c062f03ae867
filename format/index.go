package format

import (
	"encoding/json"
	"fmt"
)

// loadIndex builds the tensors from TIDX: every part is placed, sized and aligned before it is viewed.
func (r *Reader) loadIndex() error {
	b, err := r.Section(KindIndex)
	if err != nil {
		return err
	}
	var idx index
	if err := json.Unmarshal(b, &idx); err != nil {
		return r.corrupt(KindIndex, -1, "%v", err)
	}
	for i := range idx.Tensors {
		e := &idx.Tensors[i]
		t, err := r.tensor(e)
		if err != nil {
			return r.corrupt(KindIndex, -1, "tensor %q: %v", e.Name, err)
		}
		if _, twice := r.byName[t.Name]; twice {
			return r.corrupt(KindIndex, -1, "tensor %q is listed twice", t.Name)
		}
		r.tensors = append(r.tensors, t)
		r.byName[t.Name] = t
		r.place[t] = e.Section
	}
	return nil
}

func (r *Reader) tensor(e *indexEntry) (*Tensor, error) {
	if e.Section < 0 || e.Section >= len(r.sections) || r.sections[e.Section].kind != KindTensor || r.sections[e.Section].flags != 0 {
		return nil, fmt.Errorf("section %d is no tensor section", e.Section)
	}
	s := &r.sections[e.Section]
	body := r.data[s.offset : s.offset+s.length]
	t := &Tensor{Name: e.Name, Rows: e.Rows, Cols: e.Cols, Bytes: int64(s.length)}
	var err error
	switch e.Kind {
	case kindRaw:
		t.Raw, err = rawFrom(e, body)
	case kindCoded:
		t.Coded, err = codedFrom(e, body)
	default:
		err = fmt.Errorf("kind is %q, expected %s or %s", e.Kind, kindRaw, kindCoded)
	}
	return t, err
}

// slice returns the bytes of a part.
func slice(e *indexEntry, name string, body []byte) ([]byte, bool, error) {
	p, ok := e.Parts[name]
	if !ok {
		return nil, false, nil
	}
	off, n := p[0], p[1]
	if off < 0 || n < 0 || off > int64(len(body)) || n > int64(len(body))-off || off%alignPart != 0 {
		return nil, true, fmt.Errorf("part %s (%d bytes at %d) does not fit a section of %d bytes", name, n, off, len(body))
	}
	return body[off : off+n : off+n], true, nil
}

func rawFrom(e *indexEntry, body []byte) (*Raw, error) {
	size := e.DType.Size()
	if size == 0 || e.Rows < 1 || e.Cols < 1 || e.Rows > MaxRows || e.Cols > 1<<31 {
		return nil, fmt.Errorf("%d × %d of type %q", e.Rows, e.Cols, e.DType)
	}
	b, ok, err := slice(e, partData, body)
	if err != nil {
		return nil, err
	}
	if want := int64(e.Rows) * int64(e.Cols) * int64(size); !ok || int64(len(b)) != want {
		return nil, fmt.Errorf("part data has %d bytes, expected %d", len(b), want)
	}
	return &Raw{Rows: e.Rows, Cols: e.Cols, DType: e.DType, Data: b}, nil
}

func codedFrom(e *indexEntry, body []byte) (*Coded, error) {
	if e.Coding == nil || e.Scale == nil {
		return nil, fmt.Errorf("coding or scale is missing")
	}
	c := &Coded{Rows: e.Rows, Cols: e.Cols, Coding: *e.Coding, Scale: *e.Scale}
	if err := c.checkGeometry(); err != nil {
		return nil, err
	}
	for _, p := range c.parts() {
		b, ok, err := slice(e, p.name, body)
		if err != nil {
			return nil, err
		}
		if !ok && p.optional {
			continue
		}
		if p.count >= 0 && int64(len(b)) != p.count*p.elemSize || int64(len(b))%p.elemSize != 0 {
			return nil, fmt.Errorf("part %s has %d bytes, expected %d of %d bytes each", p.name, len(b), p.count, p.elemSize)
		}
		p.set(b)
	}
	return c, nil
}
