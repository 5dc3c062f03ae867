package jinja

import (
	"math"
	"net/url"
	"strconv"
	"strings"
)

type filterFunc = func(e *interp, v Value, a *args) Value

// textFilters are filters that make a text of a text.
var textFilters = map[string]func(string) string{
	"upper": upper, "lower": lower, "capitalize": capitalize, "title": filterTitle,
}

// filters are those of Jinja2 that do not name other filters or tests.
var filters = map[string]filterFunc{
	"abs":       absFilter,
	"attr":      attrFilter,
	"batch":     batchFilter,
	"center":    centerFilter,
	"default":   defaultFilter,
	"d":         defaultFilter,
	"dictsort":  dictsortFilter,
	"escape":    escapeFilter,
	"e":         escapeFilter,
	"first":     endFilter("first", false),
	"last":      endFilter("last", true),
	"float":     floatFilter,
	"format":    formatFilter,
	"groupby":   groupbyFilter,
	"indent":    indentFilter,
	"int":       intFilter,
	"items":     itemsFilter,
	"join":      joinFilter,
	"length":    lengthFilter,
	"count":     lengthFilter,
	"list":      listFilter,
	"max":       extremeFilter("max", 1),
	"min":       extremeFilter("min", -1),
	"replace":   replaceFilter,
	"reverse":   reverseFilter,
	"round":     roundFilter,
	"safe":      safeFilter,
	"slice":     sliceFilter,
	"sort":      sortFilter,
	"string":    stringFilter,
	"sum":       sumFilter,
	"tojson":    tojsonFilter,
	"trim":      trimFilter,
	"truncate":  truncateFilter,
	"unique":    uniqueFilter,
	"urlencode": urlencodeFilter,
	"wordcount": wordcountFilter,
}

func (e *interp) filter(name string, v Value, a *args) Value {
	e.step(1)
	if f, ok := textFilters[name]; ok {
		a.bind(e, name, 0)
		s := e.str(v)
		if !e.charge(3 * len(s)) {
			return &undefined{}
		}
		return sameKind(v, f(s))
	}
	if f, ok := filters[name]; ok {
		return f(e, v, a)
	}
	switch name {
	case "map":
		return e.mapFilter(v, a)
	case "select", "reject":
		return e.selectFilter(name, v, a, false, name == "select")
	case "selectattr", "rejectattr":
		return e.selectFilter(name, v, a, true, name == "selectattr")
	}
	return e.fail("filter %s is not supported", name)
}

func knownFilter(name string) bool {
	_, known := filters[name]
	_, text := textFilters[name]
	return known || text || name == "map" || name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr"
}

func absFilter(e *interp, v Value, a *args) Value {
	i, f, float, ok := numberOf(v)
	switch {
	case !ok:
		return e.badOperands("abs", v, v)
	case float:
		return math.Abs(f)
	case i < 0:
		return e.negate("-", i)
	}
	return i
}

func attrFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "attr", 1, "name")
	if u, ok := v.(*undefined); ok {
		return e.fail("%s", u.problem)
	}
	if m, ok := e.member(v, e.text("attr", b[0], "")); ok {
		return m
	}
	return &undefined{"a value of type " + typeName(v) + " has no such attribute"}
}

func centerFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "center", 0, "width")
	return e.pad("center", e.str(v), e.integer("center", b[0], 80), " ")
}

func defaultFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "default", 0, "default_value", "boolean")
	if isUndefined(v) || given(b[1]) && truth(b[1]) && !truth(v) {
		if given(b[0]) {
			return b[0]
		}
		return ""
	}
	return v
}

func escapeFilter(e *interp, v Value, a *args) Value {
	if _, ok := v.(markup); ok {
		return v
	}
	s := e.str(v)
	if !e.charge(5 * len(s)) {
		return &undefined{}
	}
	return markup(escapeHTML(s))
}

func floatFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "float", 0, "default")
	if i, f, float, ok := numberOf(v); ok {
		if float {
			return f
		}
		return float64(i)
	}
	if s, ok := textOf(v); ok {
		if f, ok := parseFloat(s); ok {
			return f
		}
	}
	if given(b[0]) {
		return b[0]
	}
	return 0.0
}

// parseFloat reads a number as Python's float does.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xXpP") || strings.HasPrefix(s, "_") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return f, err == nil || math.IsInf(f, 0)
}

func intFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "int", 0, "default", "base")
	base := e.integer("int", b[1], 10)
	var def Value = int64(0)
	if given(b[0]) {
		def = b[0]
	}
	i, f, float, ok := numberOf(v)
	if ok && !float {
		return i
	}
	if s, isText := textOf(v); isText && (base == 0 || 2 <= base && base <= 36) {
		s = strings.ToLower(strings.TrimFunc(s, isSpace))
		for prefix, of := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
			if base == of {
				s = strings.TrimPrefix(s, prefix)
			}
		}
		if i, err := strconv.ParseInt(s, base, 64); err == nil && !strings.HasPrefix(s, "_") {
			return i
		}
		f, ok = parseFloat(s)
	}
	if !ok || f != f || math.Abs(f) >= 1<<63 {
		return def
	}
	return int64(f)
}

// formatFilter is the operator % with the arguments of the filter.
func formatFilter(e *interp, v Value, a *args) Value {
	if len(a.names) > 0 {
		d := &Dict{}
		for i, name := range a.names {
			d.Set(name, a.values[i])
		}
		return e.percent(e.str(v), d)
	}
	return e.percent(e.str(v), &List{Items: a.positional, tuple: true})
}

func indentFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "indent", 0, "width", "first", "blank")
	prefix := ""
	if s, ok := textOf(b[0]); ok {
		prefix = s
	} else {
		n := max(0, e.integer("indent", b[0], 4))
		if !e.charge(n) {
			return &undefined{}
		}
		prefix = strings.Repeat(" ", n)
	}
	first, blank := given(b[1]) && truth(b[1]), given(b[2]) && truth(b[2])
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(e.str(v), "\r\n", "\n"), "\r", "\n")+"\n", "\n")
	lines = lines[:len(lines)-1]
	if !e.charge(len(lines) * (2*valueBytes + len(prefix))) {
		return &undefined{}
	}
	for i, line := range lines {
		if (i > 0 || first) && (line != "" || blank || i == 0 && first) {
			lines[i] = prefix + line
		}
	}
	return e.newText(strings.Join(lines, "\n"))
}

func replaceFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "replace", 2, "old", "new", "count")
	count := -1
	if given(b[2]) && b[2] != nil {
		count = e.integer("replace", b[2], -1)
	}
	if e.err != nil {
		return &undefined{}
	}
	return e.replace(e.str(v), e.str(b[0]), e.str(b[1]), count)
}

func roundFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "round", 0, "precision", "method")
	precision := e.integer("round", b[0], 0)
	i, f, float, ok := numberOf(v)
	if !ok {
		return e.badOperands("round", v, v)
	}
	if !float {
		f = float64(i)
	}
	scale := math.Pow10(precision)
	switch e.text("round", b[1], "common") {
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	case "common":
		if !float && precision >= 0 {
			return i
		}
		if precision < 0 {
			return math.RoundToEven(f*scale) / scale
		}
		rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', min(precision, 400), 64), 64)
		if err != nil {
			return f
		}
		return rounded
	}
	return e.fail("round: the method must be common, ceil or floor")
}

func safeFilter(e *interp, v Value, a *args) Value { return markup(e.str(v)) }

func stringFilter(e *interp, v Value, a *args) Value {
	if _, ok := textOf(v); ok {
		return v
	}
	return e.str(v)
}

func trimFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "trim", 0, "chars")
	return sameKind(v, e.strip(e.str(v), b[0], true, true))
}

func truncateFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "truncate", 0, "length", "killwords", "end", "leeway")
	s, end := e.str(v), e.text("truncate", b[2], "...")
	n := e.integer("truncate", b[0], 255)
	if n < runeCount(end) {
		return e.fail("truncate: the length is below that of the end")
	}
	e.scan(len(s))
	if runeCount(s) <= n+e.integer("truncate", b[3], 5) {
		return v
	}
	cut := s[:byteOffset(s, n-runeCount(end))]
	if !given(b[1]) || !truth(b[1]) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return e.newText(cut + end)
}

func urlencodeFilter(e *interp, v Value, a *args) Value {
	quote := func(v Value, slash string) string {
		s := e.str(v)
		if !e.charge(3 * len(s)) {
			return ""
		}
		return strings.NewReplacer("+", slash, "%2F", "/", "%7E", "~").Replace(url.QueryEscape(s))
	}
	d, ok := v.(*Dict)
	if !ok {
		if _, isText := textOf(v); !isText {
			if _, isList := v.(*List); isList {
				return e.fail("urlencode of a list is not supported")
			}
		}
		return quote(v, "%20")
	}
	var parts []string
	for i, k := range d.keys {
		encoded := func(v Value) string { return strings.ReplaceAll(quote(v, "+"), "/", "%2F") }
		parts = append(parts, encoded(k)+"="+encoded(d.values[i]))
	}
	return strings.Join(parts, "&")
}

func wordcountFilter(e *interp, v Value, a *args) Value {
	s := e.str(v)
	e.scan(len(s))
	n, inside := int64(0), false
	for _, r := range s {
		is := nameLength("_"+string(r)) > 1
		if is && !inside {
			n++
		}
		inside = is
	}
	return n
}
