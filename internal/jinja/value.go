package jinja

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Value is a value of a template, after Python's types: nil (None), bool, int64, float64, string, *List, *Dict,
// or one of the types of this package that only templates make.
type Value = any

type (
	// List is a list or a tuple.
	List struct {
		Items []Value
		tuple bool
		group bool // a tuple of the filter groupby: its items are also the attributes grouper and list
	}
	// Dict keeps the order of insertion, as Python's does.
	Dict struct {
		keys   []Value
		values []Value
		index  map[any]int // of a key's hashKey
	}
	// undefined is the value of names and attributes that do not exist. Printing and testing it is allowed, anything
	// else is an error.
	undefined struct {
		problem string // what a use of it says
	}
	// markup is a string marked safe: what is joined to it is escaped.
	markup string
	// namespace is an object whose attributes can be set.
	namespace struct{ attributes *Dict }
	// iterator is a generator of Python: it is walked through once, and always true.
	iterator struct {
		items []Value
	}
	// view is what the methods keys, values and items of a dict return.
	view struct {
		kind  string // dict_keys, dict_values, dict_items
		items []Value
	}
	// integers is a range.
	integers struct{ start, stop, step int64 }
	// function is a macro, a method or a global function.
	function struct {
		name string
		call func(e *interp, a *args) Value
	}
	// object has attributes that are computed: the variable loop, cyclers, joiners.
	object struct {
		kind string
		get  func(name string) (Value, bool)
		call func(e *interp, a *args) Value // may be nil
	}
)

// NewList returns a list of items.
func NewList(items ...Value) *List { return &List{Items: items} }

// Set adds a key, or replaces its value. The key must be a string.
func (d *Dict) Set(key string, v Value) { d.set(key, v) }

// Get returns the value of a string key.
func (d *Dict) Get(key string) (Value, bool) {
	if i, ok := d.index[key]; ok {
		return d.values[i], true
	}
	return nil, false
}

// Len returns the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// set reports whether the key can be one.
func (d *Dict) set(key, v Value) bool {
	h, ok := hashKey(key)
	if !ok {
		return false
	}
	if i, ok := d.index[h]; ok {
		d.values[i] = v
		return true
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[h] = len(d.keys)
	d.keys = append(d.keys, key)
	d.values = append(d.values, v)
	return true
}

func (d *Dict) find(key Value) (Value, bool) {
	h, ok := hashKey(key)
	if !ok {
		return nil, false
	}
	i, ok := d.index[h]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

func (d *Dict) copy() *Dict {
	c := &Dict{}
	for i, k := range d.keys {
		c.set(k, d.values[i])
	}
	return c
}

// hashKey returns a comparable value that is equal for equal keys, as in Python: 1, 1.0 and True are one key.
func hashKey(key Value) (any, bool) {
	switch k := key.(type) {
	case nil:
		return struct{}{}, true
	case bool:
		if k {
			return int64(1), true
		}
		return int64(0), true
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<62 {
			return int64(k), true
		}
		return k, k == k
	case int64:
		return k, true
	case string:
		return k, true
	case markup:
		return string(k), true
	case *List:
		if !k.tuple {
			return nil, false
		}
		var b strings.Builder
		for _, item := range k.Items {
			h, ok := hashKey(item)
			if _, nested := item.(*List); !ok || nested {
				return nil, false
			}
			fmt.Fprintf(&b, "%T:%v\x00", h, h)
		}
		return [1]string{b.String()}, true
	}
	return nil, false
}

func textOf(v Value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	}
	return "", false
}

func isUndefined(v Value) bool {
	_, ok := v.(*undefined)
	return ok
}

func truth(v Value) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *List, *Dict, *view, *integers:
		n, _ := length(v)
		return n > 0
	}
	return true
}

// length returns what Python's len returns. Texts count characters.
func length(v Value) (int, bool) {
	switch v := v.(type) {
	case *undefined:
		return 0, true
	case string:
		return runeCount(v), true
	case markup:
		return runeCount(string(v)), true
	case *List:
		return len(v.Items), true
	case *Dict:
		return len(v.keys), true
	case *view:
		return len(v.items), true
	case *integers:
		return v.len(), true
	}
	return 0, false
}

func (r *integers) len() int {
	n := int64(0)
	if r.step > 0 && r.stop > r.start {
		n = (r.stop - r.start + r.step - 1) / r.step
	} else if r.step < 0 && r.stop < r.start {
		n = (r.start - r.stop - r.step - 1) / -r.step
	}
	return int(n)
}

// typeName returns Python's name of a value's type.
func typeName(v Value) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "Markup"
	case *List:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *Dict:
		return "dict"
	case *undefined:
		return "Undefined"
	case *namespace:
		return "Namespace"
	case *iterator:
		return "generator"
	case *view:
		return v.kind
	case *integers:
		return "range"
	case *object:
		return v.kind
	}
	return "function"
}

// number returns v as a number: an int64, or a float64 if float is set. Truth values are 0 and 1, as in Python.
func numberOf(v Value) (i int64, f float64, float, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, 1, false, true
		}
		return 0, 0, false, true
	case int64:
		return v, float64(v), false, true
	case float64:
		return 0, v, true, true
	}
	return 0, 0, false, false
}

// equal compares as Python's ==. The depth of what is compared is bounded by the depth of the interpreter.
func (e *interp) equal(a, b Value) bool {
	if !e.enter() {
		return false
	}
	defer e.leave()
	e.step(1)
	if _, _, _, ok := numberOf(a); ok {
		return equalNumbers(a, b)
	}
	if s, ok := textOf(a); ok {
		t, ok := textOf(b)
		e.scan(len(t))
		return ok && s == t
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case *undefined:
		return isUndefined(b)
	case *List:
		c, ok := b.(*List)
		return ok && a.tuple == c.tuple && slices.EqualFunc(a.Items, c.Items, e.equal)
	case *Dict:
		c, ok := b.(*Dict)
		return ok && e.equalDicts(a, c)
	case *integers:
		c, ok := b.(*integers)
		return ok && *a == *c
	}
	return a == b
}

// equalNumbers reports whether b is a number, too, and the same one; integers are compared exactly.
func equalNumbers(a, b Value) bool {
	i, f, float, _ := numberOf(a)
	j, g, float2, ok := numberOf(b)
	if float || float2 {
		return ok && f == g
	}
	return ok && i == j
}

func (e *interp) equalDicts(a, b *Dict) bool {
	if len(a.keys) != len(b.keys) {
		return false
	}
	for i, k := range a.keys {
		v, ok := b.find(k)
		if !ok || !e.equal(a.values[i], v) {
			return false
		}
	}
	return true
}

// compare returns −1, 0 or 1 as Python orders a and b; ok is false if it does not.
func (e *interp) compare(a, b Value) (order int, ok bool) {
	if !e.enter() {
		return 0, true
	}
	defer e.leave()
	e.step(1)
	if i, f, float, ok := numberOf(a); ok {
		j, g, float2, ok := numberOf(b)
		if !ok || f != f || g != g {
			return 0, false
		}
		if !float && !float2 {
			return sign(i < j, i > j), true
		}
		return sign(f < g, f > g), true
	}
	if s, ok := textOf(a); ok {
		t, ok := textOf(b)
		e.scan(min(len(s), len(t)))
		return strings.Compare(s, t), ok
	}
	x, okX := a.(*List)
	y, okY := b.(*List)
	if !okX || !okY || x.tuple != y.tuple {
		return 0, false
	}
	for i := range min(len(x.Items), len(y.Items)) {
		if e.equal(x.Items[i], y.Items[i]) {
			continue
		}
		return e.compare(x.Items[i], y.Items[i])
	}
	return sign(len(x.Items) < len(y.Items), len(x.Items) > len(y.Items)), true
}

func sign(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}
