package jinja

import "unicode"

// typeTests are the tests that look at one value only.
var typeTests = map[string]func(v Value) bool{
	"defined":   func(v Value) bool { return !isUndefined(v) },
	"undefined": isUndefined,
	"none":      func(v Value) bool { return v == nil },
	"boolean":   func(v Value) bool { _, ok := v.(bool); return ok },
	"true":      func(v Value) bool { return v == true },
	"false":     func(v Value) bool { return v == false },
	"integer":   func(v Value) bool { _, ok := v.(int64); return ok },
	"float":     func(v Value) bool { _, ok := v.(float64); return ok },
	"number":    func(v Value) bool { _, _, _, ok := numberOf(v); return ok },
	"string":    func(v Value) bool { _, ok := textOf(v); return ok },
	"mapping":   func(v Value) bool { _, ok := v.(*Dict); return ok },
	"escaped":   func(v Value) bool { _, ok := v.(markup); return ok },
	"iterable": func(v Value) bool {
		_, ok := length(v)
		_, generator := v.(*iterator)
		return ok || generator
	},
	"sequence": func(v Value) bool {
		_, ok := length(v)
		_, isView := v.(*view)
		return ok && !isView
	},
	"callable": func(v Value) bool {
		switch v := v.(type) {
		case *function, *undefined:
			return true
		case *object:
			return v.call != nil
		}
		return false
	},
}

// comparisons are the tests that compare with an argument.
var comparisons = map[string]string{
	"eq": "==", "equalto": "==", "==": "==", "ne": "!=", "!=": "!=", "lt": "<", "lessthan": "<", "<": "<", "le": "<=", "<=": "<=",
	"gt": ">", "greaterthan": ">", ">": ">", "ge": ">=", ">=": ">=", "in": "in",
}

// test applies a test of Jinja2.
func (e *interp) test(name string, v Value, a *args) Value {
	e.step(1)
	if e.err != nil {
		return false
	}
	if f, ok := typeTests[name]; ok {
		a.bind(e, name, 0)
		return f(v)
	}
	if op, ok := comparisons[name]; ok {
		b := a.bind(e, name, 1, "other")
		return e.err == nil && e.holds(op, v, b[0])
	}
	switch name {
	case "odd", "even", "divisibleby":
		return e.remainderTest(name, v, a)
	case "lower":
		return isCased(e.str(v), unicode.IsLower, unicode.IsUpper)
	case "upper":
		return isCased(e.str(v), unicode.IsUpper, unicode.IsLower)
	case "sameas":
		b := a.bind(e, name, 1, "other")
		return e.err == nil && typeName(v) == typeName(b[0]) && v == b[0]
	case "filter":
		return knownFilter(e.text(name, v, ""))
	case "test":
		return knownTest(e.text(name, v, ""))
	}
	return e.fail("test %s is not supported", name)
}

func knownTest(name string) bool {
	_, ofType := typeTests[name]
	_, comparison := comparisons[name]
	switch name {
	case "odd", "even", "divisibleby", "lower", "upper", "sameas", "filter", "test":
		return true
	}
	return ofType || comparison
}

func (e *interp) remainderTest(name string, v Value, a *args) Value {
	var divisor, want Value = int64(2), int64(0)
	if name == "divisibleby" {
		divisor = a.bind(e, name, 1, "num")[0]
	}
	if name == "odd" {
		want = int64(1)
	}
	if _, ok := textOf(v); ok {
		return e.badOperands("%", v, divisor)
	}
	m := e.arithmetic("%", v, divisor)
	return e.err == nil && e.equal(m, want)
}
