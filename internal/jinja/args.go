package jinja

import (
	"slices"
	"strings"
)

// args are the arguments of a call.
type args struct {
	positional []Value
	names      []string
	values     []Value
}

// absent marks a parameter without argument.
type absent struct{}

func given(v Value) bool {
	_, no := v.(absent)
	return !no
}

func (e *interp) evalArgs(x *callArgs, s *scope) *args {
	a := &args{}
	for _, p := range x.positional {
		a.positional = append(a.positional, e.eval(p, s))
	}
	if x.splat != nil {
		if v := e.eval(x.splat, s); e.err == nil {
			items := e.iterate(v)
			e.charge(valueBytes * len(items))
			a.positional = append(a.positional, items...)
		}
	}
	for i, name := range x.names {
		if slices.Contains(a.names, name) {
			e.fail("argument %s is given twice", name)
		}
		a.names = append(a.names, name)
		a.values = append(a.values, e.eval(x.values[i], s))
	}
	if x.dictSplat != nil {
		d, ok := e.eval(x.dictSplat, s).(*Dict)
		if !ok {
			e.fail("what follows ** is not a dict")
			return a
		}
		e.charge(2 * valueBytes * d.Len())
		for i, key := range d.keys {
			name, ok := textOf(key)
			if !ok || slices.Contains(a.names, name) {
				e.fail("what follows ** has a key that is not a text, or an argument that is given twice")
				return a
			}
			a.names = append(a.names, name)
			a.values = append(a.values, d.values[i])
		}
	}
	return a
}

// bind returns the arguments by parameter, absent for those without. The first required ones must be given.
func (a *args) bind(e *interp, function string, required int, params ...string) []Value {
	out := make([]Value, len(params))
	for i := range out {
		out[i] = absent{}
	}
	if len(a.positional) > len(params) {
		e.fail("%s takes at most %d arguments, got %d", function, len(params), len(a.positional))
		return out
	}
	copy(out, a.positional)
	for i, name := range a.names {
		at := slices.Index(params, name)
		if at < 0 || given(out[at]) {
			e.fail("%s takes no argument named %s (its arguments: %s)", function, name, strings.Join(params, ", "))
			return out
		}
		out[at] = a.values[i]
	}
	for i := range required {
		if !given(out[i]) {
			e.fail("%s needs an argument %s", function, params[i])
		}
	}
	return out
}

// text returns a text argument; what is not given is def.
func (e *interp) text(function string, v Value, def string) string {
	if !given(v) {
		return def
	}
	s, ok := textOf(v)
	if !ok {
		e.fail("%s: expected a text, got a value of type %s", function, typeName(v))
	}
	return s
}

// integer returns an integer argument; what is not given is def.
func (e *interp) integer(function string, v Value, def int) int {
	if !given(v) {
		return def
	}
	i, _, float, ok := numberOf(v)
	if !ok || float {
		e.fail("%s: expected an integer, got a value of type %s", function, typeName(v))
		return def
	}
	const most = 1 << 40 // more than any length
	return int(max(-most, min(i, most)))
}

// call calls a function, a macro, or an object such as loop.
func (e *interp) call(f Value, a *args) Value {
	e.step(1)
	if !e.enter() {
		return &undefined{}
	}
	defer e.leave()
	switch f := f.(type) {
	case *function:
		return f.call(e, a)
	case *object:
		if f.call != nil {
			return f.call(e, a)
		}
	case *undefined:
		return e.fail("%s", f.problem)
	}
	return e.fail("a value of type %s cannot be called", typeName(f))
}
