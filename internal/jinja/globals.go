package jinja

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// globals are the functions of Jinja2 and transformers. lipsum, which makes texts of any length, is not among them.
var globals = map[string]func(e *interp, a *args) Value{
	"range":           rangeOf,
	"dict":            dictOf,
	"namespace":       newNamespace,
	"cycler":          newCycler,
	"joiner":          newJoiner,
	"raise_exception": raise,
	"strftime_now": func(e *interp, a *args) Value {
		v := a.bind(e, "strftime_now", 1, "format")
		format := e.text("strftime_now", v[0], "")
		if !e.charge(32 * len(format)) { // a conversion takes at most 24 bytes for two, and some time
			return &undefined{}
		}
		text, err := strftime(e.now, format)
		if err != nil {
			return e.fail("%v", err)
		}
		return e.newText(text)
	},
	"lipsum": func(e *interp, a *args) Value { return e.fail("function lipsum is not supported") },
}

func rangeOf(e *interp, a *args) Value {
	v := a.bind(e, "range", 1, "start", "stop", "step")
	r := &integers{start: 0, stop: int64(e.integer("range", v[0], 0)), step: 1}
	if given(v[1]) {
		r.start, r.stop = r.stop, int64(e.integer("range", v[1], 0))
	}
	if r.step = int64(e.integer("range", v[2], 1)); r.step == 0 {
		return e.fail("range: the step is 0")
	}
	if r.len() > maxRange {
		return e.fail("range of %d numbers, at most %d are allowed", r.len(), maxRange)
	}
	return r
}

func dictOf(e *interp, a *args) Value {
	d := &Dict{}
	if len(a.positional) > 1 {
		return e.fail("dict takes at most 1 argument, got %d", len(a.positional))
	}
	for _, v := range a.positional {
		if src, ok := v.(*Dict); ok {
			e.charge(4 * valueBytes * src.Len())
			d = src.copy()
			continue
		}
		for _, pair := range e.iterate(v) {
			kv := e.iterate(pair)
			if e.charge(4*valueBytes) && (len(kv) != 2 || !d.set(kv[0], kv[1])) {
				return e.fail("dict: expected pairs of key and value")
			}
		}
	}
	for i, name := range a.names {
		d.Set(name, a.values[i])
	}
	return d
}

func newNamespace(e *interp, a *args) Value {
	d, ok := dictOf(e, a).(*Dict)
	if !ok {
		return &undefined{}
	}
	for _, key := range d.keys {
		if name, ok := textOf(key); ok && !e.checkAttribute(name) {
			return &undefined{}
		}
	}
	return &namespace{d}
}

func newCycler(e *interp, a *args) Value {
	items, at := a.positional, 0
	if len(items) == 0 {
		return e.fail("cycler: no values given")
	}
	return &object{kind: "Cycler", get: func(name string) (Value, bool) {
		switch name {
		case "current":
			return items[at], true
		case "reset":
			return &function{name, func(*interp, *args) Value { at = 0; return nil }}, true
		case "next":
			return &function{name, func(*interp, *args) Value {
				v := items[at]
				at = (at + 1) % len(items)
				return v
			}}, true
		}
		return nil, false
	}}
}

func newJoiner(e *interp, a *args) Value {
	v := a.bind(e, "joiner", 0, "sep")
	sep, used := e.text("joiner", v[0], ", "), false
	none := func(string) (Value, bool) { return nil, false }
	return &object{kind: "Joiner", get: none, call: func(*interp, *args) Value {
		if !used {
			used = true
			return ""
		}
		return sep
	}}
}

func raise(e *interp, a *args) Value {
	v := a.bind(e, "raise_exception", 1, "message")
	if text := e.str(v[0]); e.err == nil {
		e.err = &Error{Line: e.at, Text: cleanText(text), Raised: true}
	}
	return &undefined{}
}

// strftime formats a time as C's function of this name does in the C locale.
func strftime(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		unpadded := strings.HasPrefix(format[i:], "-")
		if unpadded {
			i++
		}
		text, ok := "", false
		if i < len(format) {
			text, ok = timeField(t, format[i], unpadded)
		}
		if !ok {
			return "", fmt.Errorf("strftime_now: format %q is not supported", format)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// timeLayouts are the layouts of package time for the directives of strftime.
var timeLayouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'j': "002", 'm': "01",
	'M': "04", 'p': "PM", 'S': "05", 'y': "06", 'Y': "2006", 'h': "Jan",
	'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
	'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
}

// timeField returns what a directive of strftime stands for; unpadded ones, written with a minus sign, have no leading zeros.
func timeField(t time.Time, directive byte, unpadded bool) (text string, ok bool) {
	if unpadded {
		text = strings.TrimLeft(t.Format(timeLayouts[directive]), "0 ")
		return cmp.Or(text, "0"), strings.IndexByte("deHIjmMSy", directive) >= 0
	}
	switch directive {
	case 'Z', 'z': // the time has no zone, as that of transformers
		return "", true
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	}
	layout, ok := timeLayouts[directive]
	return t.Format(layout), ok
}
