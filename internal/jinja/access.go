package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// attribute is x.name: a method or attribute of Python's object, else its item of that name (Jinja2's sandbox, getattr).
func (e *interp) attribute(object Value, name string) Value {
	if e.err != nil {
		return &undefined{}
	}
	if u, ok := object.(*undefined); ok {
		return e.fail("%s", u.problem)
	}
	if v, ok := e.member(object, name); ok {
		return v
	}
	if d, ok := object.(*Dict); ok {
		if v, ok := d.Get(name); ok {
			return v
		}
	}
	return &undefined{fmt.Sprintf("a value of type %s has no attribute '%s'", typeName(object), name)}
}

// member returns what Python's getattr finds. Methods that change an object are refused when they are called, as in
// Jinja2's sandbox.
func (e *interp) member(self Value, name string) (Value, bool) {
	switch o := self.(type) {
	case string, markup:
		if f, ok := stringMethods[name]; ok {
			return bound(name, o, f), true
		}
		if name == "format" { // not in the table, which it would refer to
			return bound(name, o, formatMethod), true
		}
		return refused(self, name, unsupportedStringMethods)
	case *Dict:
		if f, ok := dictMethods[name]; ok {
			return bound(name, o, f), true
		}
		return refused(self, name, []string{"clear", "pop", "popitem", "setdefault", "update", "fromkeys"})
	case *List:
		if f, ok := listMethods[name]; ok {
			return bound(name, o, f), true
		}
		if i := slices.Index([]string{"grouper", "list"}, name); o.group && i >= 0 {
			return o.Items[i], true
		}
		if !o.tuple {
			return refused(self, name, []string{"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "copy"})
		}
	case *namespace:
		return o.attributes.Get(name)
	case *object:
		return o.get(name)
	case int64, bool:
		return refused(self, name, []string{"real", "imag", "numerator", "denominator", "bit_length", "bit_count", "conjugate",
			"to_bytes", "as_integer_ratio"})
	case float64:
		return refused(self, name, []string{"real", "imag", "is_integer", "hex", "conjugate", "as_integer_ratio"})
	case *function:
		return refused(self, name, []string{"name", "arguments", "catch_kwargs", "catch_varargs", "caller"})
	}
	return nil, false
}

type method = func(e *interp, self Value, a *args) Value

func bound(name string, self Value, m method) *function {
	return &function{name, func(e *interp, a *args) Value { return m(e, self, a) }}
}

// refused returns a function that fails, for a method that Python has and templates cannot use.
func refused(object Value, name string, methods []string) (Value, bool) {
	if !slices.Contains(methods, name) {
		return nil, false
	}
	return &function{name, func(e *interp, a *args) Value {
		return e.fail("method %s of %s is not supported in templates", name, typeName(object))
	}}, true
}

// item is x[index]: an item, else the attribute of that name (Jinja2's sandbox, getitem).
func (e *interp) item(object, index Value) Value {
	if e.err != nil {
		return &undefined{}
	}
	if u, ok := object.(*undefined); ok {
		return e.fail("%s", u.problem)
	}
	if v, ok := e.subscript(object, index); ok {
		return v
	}
	if name, ok := textOf(index); ok {
		if _, isNamespace := object.(*namespace); !isNamespace {
			if v, ok := e.member(object, name); ok {
				return v
			}
		}
		return &undefined{fmt.Sprintf("a value of type %s has no attribute '%s'", typeName(object), name)}
	}
	return &undefined{fmt.Sprintf("a value of type %s has no such element", typeName(object))}
}

func (e *interp) subscript(object, index Value) (Value, bool) {
	if d, ok := object.(*Dict); ok {
		return d.find(index)
	}
	i, _, float, ok := numberOf(index)
	if !ok || float {
		return nil, false
	}
	n, ok := length(object)
	if !ok {
		return nil, false
	}
	if i < 0 {
		i += int64(n)
	}
	if i < 0 || i >= int64(n) {
		return nil, false
	}
	switch o := object.(type) {
	case *List:
		return o.Items[i], true
	case *integers:
		return o.start + i*o.step, true
	}
	if s, ok := textOf(object); ok {
		e.scan(len(s))
		at := byteOffset(s, int(i))
		_, size := utf8.DecodeRuneInString(s[at:])
		return s[at : at+size], true
	}
	return nil, false
}

// byteOffset returns where character n of s begins; len(s) if it has fewer.
func byteOffset(s string, n int) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

// slice is x[start:stop:step].
func (e *interp) slice(object Value, parts [3]Value) Value {
	if e.err != nil {
		return &undefined{}
	}
	if u, ok := object.(*undefined); ok {
		return e.fail("%s", u.problem)
	}
	n, ok := length(object)
	_, isDict := object.(*Dict)
	_, isView := object.(*view)
	if !ok || isDict || isView {
		return &undefined{fmt.Sprintf("a value of type %s cannot be sliced", typeName(object))}
	}
	start, stop, step, ok := e.bounds(parts, n)
	if !ok {
		return &undefined{}
	}
	switch object := object.(type) {
	case *integers:
		return &integers{object.start + int64(start)*object.step, object.start + int64(stop)*object.step, object.step * int64(step)}
	case *List:
		return &List{Items: e.pick(object.Items, start, stop, step), tuple: object.tuple}
	}
	if s, ok := textOf(object); ok {
		return e.pickText(s, start, stop, step)
	}
	return &List{Items: e.pick(e.iterate(object), start, stop, step)}
}

// pickText returns characters start, start+step … of s, before stop.
func (e *interp) pickText(s string, start, stop, step int) Value {
	e.scan(len(s))
	if step == 1 {
		from := byteOffset(s, start)
		return e.newText(s[from : from+byteOffset(s[from:], stop-start)])
	}
	if !e.charge(5 * len(s)) {
		return &undefined{}
	}
	runes := []rune(s)
	var b strings.Builder
	for i := start; before(i, stop, step); i += step {
		b.WriteRune(runes[i])
	}
	return e.newText(b.String())
}

// pick is pickText for the items of a list.
func (e *interp) pick(items []Value, start, stop, step int) (out []Value) {
	if step == 1 {
		return items[start:max(start, stop):max(start, stop)]
	}
	e.charge(valueBytes * (len(items)/max(step, -step) + 1))
	for i := start; e.err == nil && before(i, stop, step); i += step {
		out = append(out, items[i])
	}
	return out
}

// before reports whether i is not at stop yet, in the direction of step.
func before(i, stop, step int) bool { return step > 0 && i < stop || step < 0 && i > stop }

// bounds resolves the parts of a slice of n items as Python does (slice.indices).
func (e *interp) bounds(parts [3]Value, n int) (start, stop, step int, ok bool) {
	step = 1
	if parts[2] != nil {
		step = e.integer("slice", parts[2], 1)
	}
	if step == 0 {
		e.fail("the step of a slice is 0")
	}
	low, high := 0, n
	start, stop = 0, n
	if step < 0 {
		low, high = -1, n-1
		start, stop = n-1, -1
	}
	for i, to := range []*int{&start, &stop} {
		if parts[i] == nil {
			continue
		}
		v := e.integer("slice", parts[i], 0)
		if v < 0 {
			v += n
		}
		*to = max(low, min(high, v))
	}
	if step == 1 {
		stop = max(start, stop)
	}
	return start, stop, step, e.err == nil
}
