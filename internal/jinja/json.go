package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf16"
)

// FromJSON reads one JSON value. Objects keep the order of their keys, integers stay integers.
func FromJSON(data []byte) (Value, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readJSON(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

func readJSON(d *json.Decoder, depth int) (Value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("JSON nested more than %d deep", maxNesting)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if i, err := t.Int64(); err == nil && !strings.ContainsAny(t.String(), ".eE") {
			return i, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			l := &List{Items: []Value{}}
			for d.More() {
				v, err := readJSON(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			_, err := d.Token()
			return l, err
		}
		o := &Dict{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := readJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			o.Set(key.(string), v)
		}
		_, err := d.Token()
		return o, err
	case bool, string, nil:
		return t, nil
	}
	return nil, fmt.Errorf("unexpected JSON token %v", t)
}

// jsonWriter writes a value as Python's json.dumps does.
type jsonWriter struct {
	e            *interp
	b            strings.Builder
	ascii, sort  bool
	indent       string // of one level; with pretty
	pretty       bool
	comma, colon string
}

// tojsonFilter is the filter of transformers, which neither escapes HTML nor sorts keys.
func tojsonFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	w := &jsonWriter{e: e, comma: ", ", colon: ": "}
	w.ascii = given(b[0]) && truth(b[0])
	w.sort = given(b[3]) && truth(b[3])
	if given(b[1]) && b[1] != nil {
		w.pretty, w.comma = true, ","
		if s, ok := textOf(b[1]); ok {
			w.indent = s
		} else if n := max(0, e.integer("tojson", b[1], 0)); e.charge(n) {
			w.indent = strings.Repeat(" ", n)
		}
	}
	if given(b[2]) && b[2] != nil {
		items := e.iterate(b[2])
		if len(items) != 2 {
			return e.fail("tojson: separators must be two texts")
		}
		w.comma, w.colon = e.text("tojson", items[0], ","), e.text("tojson", items[1], ":")
	}
	if e.err == nil {
		w.write(v, 0)
	}
	return e.newText(w.b.String())
}

func (w *jsonWriter) write(v Value, depth int) {
	e := w.e
	if !e.enter() {
		return
	}
	defer e.leave()
	e.step(1)
	if e.overflows(w.b.Len()) {
		return
	}
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		fmt.Fprintf(&w.b, "%t", v)
	case int64:
		fmt.Fprintf(&w.b, "%d", v)
	case float64:
		w.b.WriteString(jsonFloat(v))
	case string:
		w.text(v)
	case markup:
		w.text(string(v))
	case *List:
		w.list("[", "]", len(v.Items), depth, func(i int) { w.write(v.Items[i], depth+1) })
	case *Dict:
		w.dict(v, depth)
	default:
		e.fail("tojson: a value of type %s is not supported", typeName(v))
	}
}

func (w *jsonWriter) dict(d *Dict, depth int) {
	keys, values := d.keys, d.values
	if w.sort {
		values = w.e.sorted(values, keys, false)
		keys = w.e.sorted(keys, keys, false)
	}
	w.list("{", "}", len(keys), depth, func(i int) {
		switch k := keys[i].(type) {
		case nil, bool, int64, float64:
			w.b.WriteByte('"')
			w.write(k, depth+1)
			w.b.WriteByte('"')
		default:
			if _, ok := textOf(k); !ok {
				w.e.fail("tojson: a key of type %s is not supported", typeName(k))
			}
			w.write(k, depth+1)
		}
		w.b.WriteString(w.colon)
		w.write(values[i], depth+1)
	})
}

func (w *jsonWriter) list(open, end string, n, depth int, item func(i int)) {
	w.b.WriteString(open)
	for i := 0; i < n && w.e.err == nil; i++ {
		if i > 0 {
			w.b.WriteString(w.comma)
		}
		w.newLine(depth + 1)
		item(i)
	}
	if n > 0 {
		w.newLine(depth)
	}
	w.b.WriteString(end)
}

func (w *jsonWriter) newLine(depth int) {
	if !w.pretty || w.e.overflows(w.b.Len()+len(w.indent)*depth) {
		return
	}
	w.b.WriteByte('\n')
	for range depth {
		w.b.WriteString(w.indent)
	}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatText(f)
}

func (w *jsonWriter) text(s string) {
	if w.e.overflows(w.b.Len() + len(s)) {
		return
	}
	short := map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '\b': `\b`}
	w.b.WriteByte('"')
	for _, r := range s {
		switch text, ok := short[r]; {
		case ok:
			w.b.WriteString(text)
		case r < ' ' || r >= 0x7F && w.ascii && r < 0x10000 && r != 0x7F:
			fmt.Fprintf(&w.b, `\u%04x`, r)
		case r >= 0x10000 && w.ascii:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&w.b, `\u%04x\u%04x`, high, low)
		default:
			w.b.WriteRune(r)
		}
	}
	w.b.WriteByte('"')
}
