package jinja

// control tells how a list of statements ended.
type control uint8

const (
	proceed control = iota
	breaking
	continuing
)

// scope holds the variables of a block. Assignments write to the innermost scope.
type scope struct {
	vars   map[string]Value
	parent *scope
}

func (s *scope) set(name string, v Value) {
	if s.vars == nil {
		s.vars = map[string]Value{}
	}
	s.vars[name] = v
}

func (s *scope) get(name string) (Value, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	return nil, false
}

func (e *interp) execAll(body []stmt, s *scope) control {
	if !e.enter() {
		return breaking
	}
	defer e.leave()
	for _, st := range body {
		e.at = st.at()
		e.step(1)
		if c := e.exec(st, s); c != proceed || e.err != nil {
			return c
		}
	}
	return proceed
}

func (e *interp) exec(st stmt, s *scope) control {
	switch st := st.(type) {
	case *textStmt:
		e.write(st.text)
	case *outputStmt:
		v := e.eval(st.value, s)
		if e.err == nil {
			e.write(e.str(v))
		}
	case *ifStmt:
		return e.execIf(st, s)
	case *forStmt:
		e.execFor(st, e.eval(st.iterable, s), s, 0)
	case *setStmt:
		e.assign(st.target, e.eval(st.value, s), s)
	case *setBlockStmt:
		e.assign(st.target, e.block(st.body, st.filter, s), s)
	case *withStmt:
		inner := &scope{parent: s}
		for i, to := range st.targets {
			e.assign(to, e.eval(st.values[i], s), inner)
		}
		return e.execAll(st.body, inner)
	case *macroStmt:
		s.set(st.name, e.macro(st.name, st.signature, s))
	case *callStmt:
		e.execCall(st, s)
	case *filterStmt:
		v := e.block(st.body, st.filter, s)
		if e.err == nil {
			e.write(e.str(v))
		}
	case *loopControl:
		return st.control
	}
	return proceed
}

func (e *interp) execIf(st *ifStmt, s *scope) control {
	for i, body := range st.bodies {
		if i < len(st.tests) {
			if v := e.eval(st.tests[i], s); e.err != nil || !truth(v) {
				continue
			}
		}
		if e.err != nil {
			break
		}
		return e.execAll(body, s)
	}
	return proceed
}

// block renders body in a scope of its own and passes the text through filter, if there is one.
func (e *interp) block(body []stmt, filter *filterExpr, s *scope) Value {
	text := e.capture(func() { e.execAll(body, &scope{parent: s}) })
	var v Value = text
	if filter != nil && e.err == nil {
		v = e.evalFilter(filter, &text, s)
	}
	return v
}

func (e *interp) assign(to target, v Value, s *scope) {
	if e.err != nil {
		return
	}
	switch {
	case to.items != nil:
		items := e.iterate(v)
		if len(items) != len(to.items) {
			e.fail("cannot unpack %d values into %d variables", len(items), len(to.items))
			return
		}
		for i := range to.items {
			e.assign(to.items[i], items[i], s)
		}
	case to.attribute != "":
		found, _ := e.lookup(to.name, s)
		ns, ok := found.(*namespace)
		if !ok {
			e.fail("cannot assign attribute %s: %s is not a namespace", to.attribute, to.name)
			return
		}
		if e.charge(4*valueBytes) && e.checkAttribute(to.attribute) {
			ns.attributes.Set(to.attribute, v)
		}
	default:
		s.set(to.name, v)
	}
}

func (e *interp) checkAttribute(name string) bool {
	if name != "" && name[0] == '_' {
		e.fail("attribute %s: names of attributes must not begin with an underscore", name)
	}
	return e.err == nil
}

// loopState is what the variable loop knows.
type loopState struct {
	items   []Value
	i       int // of the current item
	depth0  int
	changed Value // the arguments of the last call of loop.changed; nil before
	recurse func(e *interp, a *args) Value
}

// execFor runs a loop over the items of iterable.
func (e *interp) execFor(st *forStmt, iterable Value, s *scope, depth int) {
	if e.err != nil {
		return
	}
	loop := &loopState{items: e.iterate(iterable), depth0: depth}
	if st.filter != nil {
		loop.items = e.filtered(st, loop.items, s)
	}
	if st.recursive {
		loop.recurse = func(e *interp, a *args) Value {
			v := a.bind(e, "loop", 1, "iterable")
			return e.newText(e.capture(func() { e.execFor(st, v[0], s, depth+1) }))
		}
	}
	if len(loop.items) == 0 && e.err == nil {
		e.execAll(st.otherwise, &scope{parent: s})
		return
	}
	variable := loop.object()
	for loop.i = range loop.items {
		e.step(1)
		inner := &scope{parent: s}
		inner.set("loop", variable)
		e.at = st.at()
		e.assign(st.target, loop.items[loop.i], inner)
		if e.err != nil || e.execAll(st.body, inner) == breaking {
			return
		}
	}
}

// filtered returns the items for which the condition of the loop holds.
func (e *interp) filtered(st *forStmt, items []Value, s *scope) (kept []Value) {
	for _, item := range items {
		inner := &scope{parent: s}
		e.assign(st.target, item, inner)
		if truth(e.eval(st.filter, inner)) && e.charge(valueBytes) {
			kept = append(kept, item)
		}
		if e.err != nil {
			return nil
		}
	}
	return kept
}

// object returns the variable loop.
func (l *loopState) object() *object {
	return &object{kind: "LoopContext", call: l.recurse, get: func(name string) (Value, bool) {
		n, i := int64(len(l.items)), int64(l.i)
		switch name {
		case "index":
			return i + 1, true
		case "index0":
			return i, true
		case "revindex":
			return n - i, true
		case "revindex0":
			return n - i - 1, true
		case "first":
			return i == 0, true
		case "last":
			return i == n-1, true
		case "length":
			return n, true
		case "depth":
			return int64(l.depth0) + 1, true
		case "depth0":
			return int64(l.depth0), true
		case "previtem":
			return l.neighbor(-1), true
		case "nextitem":
			return l.neighbor(1), true
		case "cycle":
			return &function{"cycle", l.cycle}, true
		case "changed":
			return &function{"changed", l.hasChanged}, true
		}
		return nil, false
	}}
}

func (l *loopState) neighbor(by int) Value {
	if i := l.i + by; i >= 0 && i < len(l.items) {
		return l.items[i]
	}
	return &undefined{"there is no such item in the loop"}
}

func (l *loopState) cycle(e *interp, a *args) Value {
	if len(a.positional) == 0 {
		return e.fail("loop.cycle: no values given")
	}
	return a.positional[l.i%len(a.positional)]
}

func (l *loopState) hasChanged(e *interp, a *args) Value {
	now := &List{Items: a.positional, tuple: true}
	if l.changed != nil && e.equal(l.changed, now) {
		return false
	}
	l.changed = now
	return true
}

// execCall runs {% call %}, and {% generation %}, which renders its body as it is.
func (e *interp) execCall(st *callStmt, s *scope) {
	if st.call == nil {
		e.execAll(st.caller.body, &scope{parent: s})
		return
	}
	f := e.eval(st.call.function, s)
	a := e.evalArgs(&st.call.args, s)
	if e.err != nil {
		return
	}
	a.names = append(a.names, "caller")
	a.values = append(a.values, e.macro("caller", st.caller, s))
	if v := e.call(f, a); e.err == nil {
		e.write(e.str(v))
	}
}

// macro returns the function of a macro that is defined in scope s.
func (e *interp) macro(name string, sig *signature, s *scope) *function {
	return &function{name, func(e *interp, a *args) Value {
		inner := &scope{parent: s}
		e.bindParams(name, sig, a, inner)
		if e.err != nil {
			return &undefined{}
		}
		return e.capture(func() { e.execAll(sig.body, inner) })
	}}
}

// bindParams sets the parameters of a macro. Missing ones take their default, or are undefined.
func (e *interp) bindParams(name string, sig *signature, a *args, inner *scope) {
	rest := &Dict{}
	for i, n := range a.names {
		rest.Set(n, a.values[i])
	}
	for i, param := range sig.params {
		v, named := rest.Get(param)
		switch d := i - (len(sig.params) - len(sig.defaults)); {
		case i < len(a.positional):
			if named {
				e.fail("macro %s takes one value for %s", name, param)
			}
			v = a.positional[i]
		case named:
		case d >= 0:
			v = e.eval(sig.defaults[d], inner)
		default:
			v = &undefined{"parameter " + param + " was not provided"}
		}
		inner.set(param, v)
	}
	extra := e.bindCaller(sig, rest, inner)
	if sig.usesKwargs {
		inner.set("kwargs", extra)
	} else if len(extra.keys) > 0 {
		e.fail("macro %s takes no argument named %v", name, extra.keys[0])
	}
	if sig.usesVarargs {
		inner.set("varargs", &List{Items: a.positional[min(len(sig.params), len(a.positional)):], tuple: true})
	} else if len(a.positional) > len(sig.params) {
		e.fail("macro %s takes %d arguments, got %d", name, len(sig.params), len(a.positional))
	}
}

// bindCaller sets the caller of a macro that uses one, and returns which of the named arguments are neither it nor parameters.
func (e *interp) bindCaller(sig *signature, named *Dict, inner *scope) (extra *Dict) {
	extra = &Dict{}
	for i, key := range named.keys {
		if _, param := inner.vars[key.(string)]; param {
			continue
		}
		if key == "caller" && sig.usesCaller {
			inner.set("caller", named.values[i])
			continue
		}
		extra.set(key, named.values[i])
	}
	if _, ok := inner.vars["caller"]; !ok && sig.usesCaller {
		inner.set("caller", &undefined{"no caller is defined"})
	}
	return extra
}
