package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str returns what Python's str returns.
func (e *interp) str(v Value) string {
	if s, ok := textOf(v); ok {
		return s
	}
	if isUndefined(v) {
		return ""
	}
	var b strings.Builder
	e.repr(&b, v)
	e.charge(b.Len())
	return b.String()
}

// repr writes what Python's repr returns.
func (e *interp) repr(b *strings.Builder, v Value) {
	if !e.enter() {
		return
	}
	defer e.leave()
	e.step(1)
	if e.overflows(b.Len()) {
		return
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatText(v))
	case string:
		writeQuoted(b, v)
	case markup:
		b.WriteString("Markup(")
		writeQuoted(b, string(v))
		b.WriteString(")")
	case *List:
		e.reprList(b, v)
	case *Dict:
		e.reprDict(b, v)
	case *undefined:
		b.WriteString("Undefined")
	case *view:
		b.WriteString(v.kind + "(")
		e.reprList(b, &List{Items: v.items})
		b.WriteString(")")
	case *integers:
		fmt.Fprintf(b, "range(%d, %d", v.start, v.stop)
		if v.step != 1 {
			fmt.Fprintf(b, ", %d", v.step)
		}
		b.WriteString(")")
	case *namespace:
		b.WriteString("<Namespace ")
		e.reprDict(b, v.attributes)
		b.WriteString(">")
	default: // Python prints an address
		e.fail("printing a value of type %s is not supported", typeName(v))
	}
}

func (e *interp) reprList(b *strings.Builder, l *List) {
	open, end := "[", "]"
	if l.tuple {
		open, end = "(", ")"
		if len(l.Items) == 1 {
			end = ",)"
		}
	}
	b.WriteString(open)
	for i, item := range l.Items {
		if i > 0 {
			b.WriteString(", ")
		}
		e.repr(b, item)
		if e.err != nil {
			return
		}
	}
	b.WriteString(end)
}

func (e *interp) reprDict(b *strings.Builder, d *Dict) {
	b.WriteByte('{')
	for i, key := range d.keys {
		if i > 0 {
			b.WriteString(", ")
		}
		e.repr(b, key)
		b.WriteString(": ")
		e.repr(b, d.values[i])
		if e.err != nil {
			return
		}
	}
	b.WriteByte('}')
}

// floatText returns the shortest text that reads as f, in Python's form.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// writeQuoted writes a Python string literal.
func writeQuoted(b *strings.Builder, s string) {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7F:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x7F || isPrintable(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteRune(quote)
}

// isPrintable is Python's str.isprintable for one character.
func isPrintable(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r)
}

func runeCount(s string) int { return utf8.RuneCountInString(s) }
