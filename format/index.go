package format

import (
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
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
	var todo []compact
	for i := range idx.Tensors {
		e := &idx.Tensors[i]
		t, expand, err := r.tensor(e)
		if err != nil {
			return r.corrupt(KindIndex, -1, "tensor %q: %v", e.Name, err)
		}
		if _, twice := r.byName[t.Name]; twice {
			return r.corrupt(KindIndex, -1, "tensor %q is listed twice", t.Name)
		}
		r.tensors = append(r.tensors, t)
		r.byName[t.Name] = t
		r.place[t] = e.Section
		if expand != nil {
			todo = append(todo, compact{t, expand})
		}
	}
	return r.expand(todo)
}

// compact are the parts of a tensor that are to be expanded.
type compact struct {
	t     *Tensor
	parts []part
}

// expand expands the parts of all tensors on all cores.
func (r *Reader) expand(todo []compact) error {
	errs := make([]error, len(todo))
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(len(todo), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(todo); i = int(next.Add(1)) - 1 {
				errs[i] = r.expandParts(&todo[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) expandParts(c *compact) error {
	i := r.place[c.t]
	s, name := &r.sections[i], KindTensor+" "+c.t.Name
	for _, p := range c.parts {
		at := c.t.Parts[p.name]
		offset := int64(s.offset) + at[0]
		if err := p.expand(r.data[offset : offset+at[1]]); err != nil {
			if crc := r.check(i, name); crc != nil {
				return crc
			}
			return r.corrupt(name, offset, "%v", err)
		}
	}
	return nil
}

func (r *Reader) tensor(e *indexEntry) (*Tensor, []part, error) {
	if e.Section < 0 || e.Section >= len(r.sections) || r.sections[e.Section].kind != KindTensor || r.sections[e.Section].flags != 0 {
		return nil, nil, fmt.Errorf("section %d is no tensor section", e.Section)
	}
	s := &r.sections[e.Section]
	body := r.data[s.offset : s.offset+s.length]
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
		b, ok, err := slice(e, p.name, body)
		if err != nil {
			return nil, nil, err
		}
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
