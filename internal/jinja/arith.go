package jinja

import (
	"math"
	"math/bits"
	"strings"
)

// negate is unary minus or plus.
func (e *interp) negate(op string, v Value) Value {
	i, f, float, ok := numberOf(v)
	switch {
	case e.err != nil:
		return &undefined{}
	case !ok:
		return e.badOperands(op, v, v)
	case op == "+" && float:
		return f
	case op == "+":
		return i
	case float:
		return -f
	case i == math.MinInt64:
		return e.fail("integer overflow")
	}
	return -i
}

func (e *interp) badOperands(op string, a, b Value) Value {
	for _, v := range []Value{a, b} {
		if u, ok := v.(*undefined); ok {
			return e.fail("%s", u.problem)
		}
	}
	return e.fail("operator %s does not take values of the types %s and %s", op, typeName(a), typeName(b))
}

// arithmetic is + − * / // % **, for numbers, texts and lists as in Python.
func (e *interp) arithmetic(op string, a, b Value) Value {
	if s, ok := textOf(a); ok && op == "%" {
		return e.percent(s, b)
	}
	i, f, float1, ok1 := numberOf(a)
	j, g, float2, ok2 := numberOf(b)
	switch {
	case ok1 && ok2 && (float1 || float2 || op == "/"):
		return e.floats(op, f, g)
	case ok1 && ok2:
		return e.ints(op, i, j)
	case op == "+":
		return e.join(a, b)
	case op == "*" && ok1 && !float1:
		return e.repeat(b, i)
	case op == "*" && ok2 && !float2:
		return e.repeat(a, j)
	}
	return e.badOperands(op, a, b)
}

func (e *interp) floats(op string, f, g float64) Value {
	if g == 0 && (op == "/" || op == "//" || op == "%") {
		return e.fail("division by zero")
	}
	switch op {
	case "+":
		return f + g
	case "-":
		return f - g
	case "*":
		return f * g
	case "/":
		return f / g
	case "//":
		return math.Floor(f / g)
	case "%":
		m := math.Mod(f, g)
		if m != 0 && (m < 0) != (g < 0) {
			m += g
		}
		return m
	}
	v := math.Pow(f, g)
	if !finite(v) && finite(f) && finite(g) {
		return e.fail("%s ** %s is not a finite real number", floatText(f), floatText(g))
	}
	return v
}

// ints computes with 64 bits; Python's integers have no bound, so an overflow is an error.
func (e *interp) ints(op string, i, j int64) Value {
	v, overflow := int64(0), false
	switch op {
	case "+":
		v = i + j
		overflow = (v > i) != (j > 0) && j != 0
	case "-":
		v = i - j
		overflow = (v < i) != (j > 0) && j != 0
	case "*":
		v, overflow = multiply(i, j)
	case "//", "%":
		if j == 0 {
			return e.fail("division by zero")
		}
		var m int64
		if v, m, overflow = divideDown(i, j); op == "%" {
			v = m
		}
	default:
		if j < 0 {
			return e.floats(op, float64(i), float64(j))
		}
		v, overflow = power(i, j)
	}
	if overflow {
		return e.fail("integer overflow")
	}
	return v
}

// finite reports whether f is neither infinite nor not a number.
func finite(f float64) bool { return f-f == 0 }

// divideDown divides as Python does: the quotient is rounded down, the remainder has the sign of j.
func divideDown(i, j int64) (q, m int64, overflow bool) {
	if i == math.MinInt64 && j == -1 {
		return 0, 0, true
	}
	q, m = i/j, i%j
	if m != 0 && (m < 0) != (j < 0) {
		q, m = q-1, m+j
	}
	return q, m, false
}

// power returns i to the power of j ≥ 0.
func power(i, j int64) (v int64, overflow bool) {
	switch {
	case j == 0 || i == 1:
		return 1, false
	case i == 0:
		return 0, false
	case i == -1:
		return 1 - 2*(j&1), false
	}
	for v = 1; j > 0 && !overflow; j-- { // at most 63 times
		v, overflow = multiply(v, i)
	}
	return v, overflow
}

func multiply(i, j int64) (product int64, overflow bool) {
	hi, lo := bits.Mul64(magnitude(i), magnitude(j))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, true
	}
	return i * j, false
}

func magnitude(i int64) uint64 {
	if i < 0 {
		return uint64(-i)
	}
	return uint64(i)
}

// join is + for texts and lists.
func (e *interp) join(a, b Value) Value {
	s, ok1 := textOf(a)
	t, ok2 := textOf(b)
	if ok1 && ok2 {
		_, safe1 := a.(markup)
		_, safe2 := b.(markup)
		if !e.charge(len(s) + len(t)) {
			return &undefined{}
		}
		if !safe1 && !safe2 {
			return s + t
		}
		if !safe1 {
			s = escapeHTML(s)
		}
		if !safe2 {
			t = escapeHTML(t)
		}
		return markup(s + t)
	}
	x, ok1 := a.(*List)
	y, ok2 := b.(*List)
	if !ok1 || !ok2 || x.tuple != y.tuple {
		return e.badOperands("+", a, b)
	}
	if !e.charge(valueBytes * (len(x.Items) + len(y.Items) + 2)) {
		return &undefined{}
	}
	items := append(append(make([]Value, 0, len(x.Items)+len(y.Items)), x.Items...), y.Items...)
	return &List{Items: items, tuple: x.tuple}
}

// repeat is * for texts and lists.
func (e *interp) repeat(v Value, n int64) Value {
	n = max(n, 0)
	size := int64(0)
	s, isText := textOf(v)
	l, isList := v.(*List)
	switch {
	case isText:
		size = int64(len(s))
	case isList:
		size = valueBytes * int64(len(l.Items)+2)
	default:
		return e.badOperands("*", v, v)
	}
	if size > 0 && n > math.MaxInt32/size || !e.charge(int(n*size)) {
		return e.fail("more than %d MiB of memory", e.limits.Memory>>20)
	}
	if isText {
		return strings.Repeat(s, int(n))
	}
	items := make([]Value, 0, int(n)*len(l.Items))
	for range n {
		items = append(items, l.Items...)
	}
	return &List{Items: items, tuple: l.tuple}
}

func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}
