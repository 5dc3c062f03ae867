package jinja

import "strings"

// eval returns the value of an expression; an undefined value after an error.
func (e *interp) eval(x expr, s *scope) Value {
	if !e.enter() {
		return &undefined{}
	}
	defer e.leave()
	e.step(1)
	e.at = x.at()
	switch x := x.(type) {
	case *constExpr:
		return x.value
	case *nameExpr:
		v, ok := e.lookup(x.name, s)
		if !ok {
			return &undefined{"'" + x.name + "' is undefined"}
		}
		return v
	case *attrExpr:
		object := e.eval(x.object, s)
		e.at = x.at()
		return e.attribute(object, x.name)
	case *itemExpr:
		return e.evalItem(x, s)
	case *listExpr:
		items := make([]Value, len(x.items))
		for i := range items {
			items[i] = e.eval(x.items[i], s)
		}
		l := e.newList(items)
		l.tuple = x.tuple
		return l
	case *dictExpr:
		return e.evalDict(x, s)
	case *callExpr:
		f := e.eval(x.function, s)
		a := e.evalArgs(&x.args, s)
		e.at = x.at()
		if e.err != nil {
			return &undefined{}
		}
		return e.call(f, a)
	case *filterExpr:
		return e.evalFilter(x, nil, s)
	case *testExpr:
		v, a := e.eval(x.input, s), e.evalArgs(&x.args, s)
		e.at = x.at()
		return e.test(x.name, v, a)
	case *condExpr:
		if truth(e.eval(x.test, s)) {
			return e.eval(x.yes, s)
		}
		if x.no == nil {
			return &undefined{"the conditional expression has no else"}
		}
		return e.eval(x.no, s)
	}
	return e.evalOperator(x, s)
}

func (e *interp) evalOperator(x expr, s *scope) Value {
	switch x := x.(type) {
	case *unaryExpr:
		v := e.eval(x.operand, s)
		e.at = x.at()
		if x.op == "not" {
			return !truth(v)
		}
		return e.negate(x.op, v)
	case *binaryExpr:
		left := e.eval(x.left, s)
		if x.op == "and" && !truth(left) || x.op == "or" && truth(left) {
			return left
		}
		right := e.eval(x.right, s)
		if x.op == "and" || x.op == "or" || e.err != nil {
			return right
		}
		e.at = x.at()
		return e.arithmetic(x.op, left, right)
	case *concatExpr:
		return e.concat(x, s)
	case *compareExpr:
		return e.evalCompare(x, s)
	}
	return e.fail("a slice stands alone")
}

// lookup finds a variable: in the scopes, among the values of the caller, among the global functions.
func (e *interp) lookup(name string, s *scope) (Value, bool) {
	if v, ok := s.get(name); ok {
		return v, true
	}
	if v, ok := e.vars[name]; ok {
		return v, true
	}
	if name == "self" {
		return e.fail("variable self is not supported"), true
	}
	if f, ok := globals[name]; ok {
		return &function{name, f}, true
	}
	return nil, false
}

func (e *interp) evalItem(x *itemExpr, s *scope) Value {
	object := e.eval(x.object, s)
	if slice, ok := x.index.(*sliceExpr); ok {
		var parts [3]Value
		for i, part := range []expr{slice.start, slice.stop, slice.step} {
			if part != nil {
				parts[i] = e.eval(part, s)
			}
		}
		e.at = x.at()
		return e.slice(object, parts)
	}
	index := e.eval(x.index, s)
	e.at = x.at()
	return e.item(object, index)
}

func (e *interp) evalDict(x *dictExpr, s *scope) Value {
	d := &Dict{}
	e.charge(4 * valueBytes * (1 + len(x.keys)))
	for i := range x.keys {
		key, v := e.eval(x.keys[i], s), e.eval(x.values[i], s)
		if e.err == nil && !d.set(key, v) {
			return e.fail("a value of type %s cannot be the key of a dict", typeName(key))
		}
	}
	return d
}

// concat is the operator ~.
func (e *interp) concat(x *concatExpr, s *scope) Value {
	var b strings.Builder
	for _, item := range x.items {
		v := e.eval(item, s)
		if e.err != nil {
			return &undefined{}
		}
		text := e.str(v)
		if e.overflows(b.Len() + len(text)) {
			return &undefined{}
		}
		b.WriteString(text)
	}
	return e.newText(b.String())
}

func (e *interp) evalCompare(x *compareExpr, s *scope) Value {
	left := e.eval(x.first, s)
	for i, op := range x.ops {
		right := e.eval(x.rest[i], s)
		e.at = x.at()
		if e.err != nil || !e.holds(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

// holds reports whether a comparison is true.
func (e *interp) holds(op string, a, b Value) bool {
	switch op {
	case "==":
		return e.equal(a, b)
	case "!=":
		return !e.equal(a, b)
	case "in":
		return e.contains(b, a)
	case "not in":
		return !e.contains(b, a)
	}
	for _, v := range []Value{a, b} {
		if u, ok := v.(*undefined); ok {
			e.fail("%s", u.problem)
			return false
		}
	}
	order, ok := e.compare(a, b)
	if !ok {
		if i, f, _, okA := numberOf(a); okA {
			if _, g, _, okB := numberOf(b); okB && (f != f || g != g) {
				return false // nothing is less or greater than NaN
			}
			_ = i
		}
		e.fail("%s and %s cannot be compared with %s", typeName(a), typeName(b), op)
		return false
	}
	switch op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// contains is Python's in.
func (e *interp) contains(container, v Value) bool {
	if s, ok := textOf(container); ok {
		sub, ok := textOf(v)
		if !ok {
			e.fail("in: a text cannot contain a value of type %s", typeName(v))
			return false
		}
		e.scan(len(s))
		return strings.Contains(s, sub)
	}
	if d, ok := container.(*Dict); ok {
		if _, ok := hashKey(v); !ok && !isUndefined(v) {
			e.fail("a value of type %s cannot be the key of a dict", typeName(v))
		}
		_, found := d.find(v)
		return found
	}
	if it, ok := container.(*iterator); ok {
		for len(it.items) > 0 && e.err == nil {
			item := it.items[0]
			it.items = it.items[1:]
			if e.equal(item, v) {
				return true
			}
		}
		return false
	}
	for _, item := range e.iterate(container) {
		if e.equal(item, v) {
			return true
		}
		if e.err != nil {
			return false
		}
	}
	return false
}

// evalFilter applies a filter. block is the text of a block filter, nil for a filter in an expression.
func (e *interp) evalFilter(x *filterExpr, block *string, s *scope) Value {
	var v Value
	switch input := x.input.(type) {
	case nil:
		if block == nil {
			return e.fail("filter %s has no input", x.name)
		}
		v = *block
	case *filterExpr:
		if !e.enter() {
			return &undefined{}
		}
		v = e.evalFilter(input, block, s)
		e.leave()
	default:
		v = e.eval(x.input, s)
	}
	a := e.evalArgs(&x.args, s)
	e.at = x.at()
	if e.err != nil {
		return &undefined{}
	}
	return e.filter(x.name, v, a)
}
