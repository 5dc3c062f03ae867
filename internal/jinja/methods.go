package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// replace replaces old by new, at most count times if that is not negative.
func (e *interp) replace(s, old, new string, count int) string {
	n := strings.Count(s, old)
	if count >= 0 {
		n = min(n, count)
	}
	e.scan(len(s))
	if !e.charge(max(0, n*(len(new)-len(old)))) || !e.charge(len(s)) {
		return ""
	}
	return strings.Replace(s, old, new, n)
}

func replaceMethod(e *interp, self Value, a *args) Value {
	v := a.bind(e, "replace", 2, "old", "new", "count")
	s, _ := textOf(self)
	if _, ok := self.(markup); ok {
		return e.fail("replace of a text marked safe is not supported")
	}
	return e.replace(s, e.text("replace", v[0], ""), e.text("replace", v[1], ""), e.integer("replace", v[2], -1))
}

func joinMethod(e *interp, self Value, a *args) Value {
	v := a.bind(e, "join", 1, "iterable")
	sep, _ := textOf(self)
	items := e.iterate(v[0])
	for _, item := range items {
		if _, ok := textOf(item); !ok {
			return e.fail("join: expected texts, got a value of type %s", typeName(item))
		}
	}
	return e.joined(items, sep)
}

// joined puts sep between the texts of items.
func (e *interp) joined(items []Value, sep string) Value {
	var b strings.Builder
	for i, item := range items {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(e.str(item))
		if e.overflows(b.Len()) {
			return &undefined{}
		}
	}
	return e.newText(b.String())
}

func finding(name string, index func(s, sub string) int, must bool) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 1, "sub", "start", "end")
		whole, _ := textOf(self)
		s, ok := e.part(name, self, v[1], v[2])
		e.scan(len(s))
		i := index(s, e.text(name, v[0], ""))
		if !ok || i < 0 {
			if must {
				return e.fail("%s: the text does not occur", name)
			}
			return int64(-1)
		}
		start := 0
		if given(v[1]) && v[1] != nil {
			if start = e.integer(name, v[1], 0); start < 0 {
				start = max(0, start+runeCount(whole))
			}
		}
		return int64(start + runeCount(s[:i]))
	}
}

func countMethod(e *interp, self Value, a *args) Value {
	v := a.bind(e, "count", 1, "sub", "start", "end")
	s, ok := e.part("count", self, v[1], v[2])
	e.scan(len(s))
	if !ok {
		return int64(0)
	}
	return int64(strings.Count(s, e.text("count", v[0], "")))
}

// padding is center, ljust or rjust.
func padding(name string) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 1, "width", "fillchar")
		s, _ := textOf(self)
		return e.pad(name, s, e.integer(name, v[0], 0), e.text(name, v[1], " "))
	}
}

func (e *interp) pad(how, s string, width int, fill string) Value {
	if runeCount(fill) != 1 {
		return e.fail("%s: the text to fill with must be one character", how)
	}
	n := width - runeCount(s)
	if n <= 0 {
		return s
	}
	if !e.charge(n*len(fill) + len(s)) {
		return &undefined{}
	}
	left := 0
	switch how {
	case "center":
		left = n/2 + n&width&1
	case "rjust":
		left = n
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}

func zeroFill(e *interp, self Value, a *args) Value {
	v := a.bind(e, "zfill", 1, "width")
	s, _ := textOf(self)
	sign := ""
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = s[:1], s[1:]
	}
	padded, _ := e.pad("rjust", s, e.integer("zfill", v[0], 0)-len(sign), "0").(string)
	return sign + padded
}

func classOf(in func(rune) bool) method {
	return func(e *interp, self Value, a *args) Value {
		s, _ := textOf(self)
		e.scan(len(s))
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !in(r) }) < 0
	}
}

func casedAs(in, not func(rune) bool) method {
	return func(e *interp, self Value, a *args) Value {
		s, _ := textOf(self)
		e.scan(len(s))
		return isCased(s, in, not)
	}
}

func isCased(s string, in, not func(rune) bool) bool {
	return strings.IndexFunc(s, in) >= 0 && strings.IndexFunc(s, func(r rune) bool { return not(r) || unicode.IsTitle(r) }) < 0
}

// filterTitle is the filter title: words begin after white space, hyphens and opening brackets.
func filterTitle(s string) string {
	start := true
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		text := s[i : i+n]
		switch {
		case start:
			b.WriteString(upper(text))
		default:
			b.WriteString(lower(text))
		}
		start = isSpace(r) || strings.ContainsRune("-({[<", r)
		i += n
	}
	return b.String()
}

// dictMethods and listMethods are those that do not change the object.
var dictMethods = map[string]method{
	"keys": func(e *interp, self Value, a *args) Value {
		return &view{"dict_keys", self.(*Dict).keys}
	},
	"values": func(e *interp, self Value, a *args) Value {
		return &view{"dict_values", self.(*Dict).values}
	},
	"items": func(e *interp, self Value, a *args) Value {
		return &view{"dict_items", e.pairs(self.(*Dict))}
	},
	"get": func(e *interp, self Value, a *args) Value {
		v := a.bind(e, "get", 1, "key", "default")
		if found, ok := self.(*Dict).find(v[0]); ok {
			return found
		}
		if given(v[1]) {
			return v[1]
		}
		return nil
	},
	"copy": func(e *interp, self Value, a *args) Value {
		d := self.(*Dict)
		e.charge(4 * valueBytes * len(d.keys))
		return d.copy()
	},
}

var listMethods = map[string]method{
	"index": func(e *interp, self Value, a *args) Value {
		v := a.bind(e, "index", 1, "value")
		for i, item := range self.(*List).Items {
			if e.equal(item, v[0]) {
				return int64(i)
			}
		}
		return e.fail("index: the value does not occur")
	},
	"count": func(e *interp, self Value, a *args) Value {
		v := a.bind(e, "count", 1, "value")
		n := int64(0)
		for _, item := range self.(*List).Items {
			if e.equal(item, v[0]) {
				n++
			}
		}
		return n
	},
}

// pairs returns the items of a dict as tuples.
func (e *interp) pairs(d *Dict) []Value {
	if !e.charge(8 * valueBytes * len(d.keys)) {
		return nil
	}
	items := make([]Value, len(d.keys))
	for i, k := range d.keys {
		items[i] = &List{Items: []Value{k, d.values[i]}, tuple: true}
	}
	return items
}
