package jinja

import (
	"math"
	"strconv"
	"strings"
)

// percent is the operator % of a text: format with the values of a tuple, of a dict by name, or one value.
func (e *interp) percent(format string, v Value) Value {
	var values []Value
	dict, _ := v.(*Dict)
	if l, ok := v.(*List); ok && l.tuple {
		values = l.Items
	} else {
		values = []Value{v}
	}
	used := 0
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		var s formatSpec
		i++
		if i < len(format) && format[i] == '(' && dict != nil {
			end := strings.IndexByte(format[i:], ')')
			if end < 0 {
				return e.fail("the name in a format has no end")
			}
			named, ok := dict.Get(format[i+1 : i+end])
			if !ok {
				return e.fail("the format names %q, which is not a key", format[i+1:i+end])
			}
			values, used = []Value{named}, 0
			i += end + 1
		}
		n := s.parsePercent(format[i:])
		if n == 0 {
			return e.fail("the format is incomplete, or has an unsupported conversion")
		}
		i += n - 1
		if s.verb == '%' {
			b.WriteByte('%')
			continue
		}
		if used == len(values) {
			return e.fail("not enough values for the format")
		}
		b.WriteString(e.formatted(&s, values[used]))
		used++
		if e.overflows(b.Len()) {
			return &undefined{}
		}
	}
	if used < len(values) && dict == nil {
		return e.fail("more values than the format has places")
	}
	return e.newText(b.String())
}

// formatSpec is one conversion of a format.
type formatSpec struct {
	left, right, plus, space, zero, alternate, center, grouped bool
	fill                                                       string // "": a space
	width, precision                                           int    // precision −1: none
	verb                                                       byte   // 0: by type
}

const maxWidth = 1 << 20

// parsePercent reads flags, width, precision and verb, and returns their length, 0 if they are wrong.
func (s *formatSpec) parsePercent(f string) int {
	i := 0
	for ; i < len(f); i++ {
		switch f[i] {
		case '-':
			s.left = true
			continue
		case '+':
			s.plus = true
			continue
		case ' ':
			s.space = true
			continue
		case '0':
			s.zero = true
			continue
		case '#':
			s.alternate = true
			continue
		}
		break
	}
	i += s.sizes(f[i:])
	if i >= len(f) || s.width > maxWidth || s.precision > maxWidth || strings.IndexByte("sradiufFeEgGxXoc%", f[i]) < 0 {
		return 0
	}
	s.verb = f[i]
	return i + 1
}

// sizes reads width and precision.
func (s *formatSpec) sizes(f string) int {
	n := digits(f, isDecimal)
	s.width, _ = strconv.Atoi(f[:n])
	s.precision = -1
	if n < len(f) && f[n] == ',' {
		s.grouped = true
		n++
	}
	if n < len(f) && f[n] == '.' {
		m := digits(f[n+1:], isDecimal)
		s.precision, _ = strconv.Atoi(f[n+1 : n+1+m])
		n += 1 + m
	}
	return n
}

// formatted converts one value.
func (e *interp) formatted(s *formatSpec, v Value) string {
	text, sign := "", ""
	switch s.verb {
	case 's', 'r', 'a', 'c':
		return e.padded(s, "", e.formattedText(s, v), false)
	case 'd', 'i', 'u', 'x', 'X', 'o', 'b', 'n':
		text = e.formattedInteger(s, v)
	default:
		_, f, _, isNumber := numberOf(v)
		if !isNumber {
			e.fail("format %c needs a number, got a value of type %s", s.verb, typeName(v))
		}
		text = floatFormat(s, f)
	}
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	} else if s.plus {
		sign = "+"
	} else if s.space {
		sign = " "
	}
	if s.grouped {
		text = grouped(text)
	}
	return e.padded(s, sign, text, true)
}

func (e *interp) formattedText(s *formatSpec, v Value) string {
	text := ""
	if s.verb == 's' || s.verb == 'c' {
		text = e.str(v)
	} else {
		var b strings.Builder
		e.repr(&b, v)
		text = b.String()
	}
	if s.precision >= 0 {
		text = text[:byteOffset(text, s.precision)]
	}
	return text
}

// formattedInteger formats whole numbers; those verbs that Python lets do so cut floating-point numbers.
func (e *interp) formattedInteger(s *formatSpec, v Value) string {
	base := map[byte]int{'d': 10, 'i': 10, 'u': 10, 'n': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[s.verb]
	i, f, float, isNumber := numberOf(v)
	if float && s.verb != 'x' && s.verb != 'X' && s.verb != 'o' && math.Abs(f) < 1<<62 {
		i = int64(f)
	} else if !isNumber || float {
		e.fail("format %c needs an integer, got a value of type %s", s.verb, typeName(v))
	}
	text := strconv.FormatInt(i, base)
	if s.verb == 'X' {
		text = strings.ToUpper(text)
	}
	return text
}

// floatFormat is Python's: exponents have two digits or more, as in Go.
func floatFormat(s *formatSpec, f float64) string {
	precision := s.precision
	if precision < 0 {
		precision = 6
	}
	verb := s.verb | 0x20
	suffix := ""
	if s.verb == '%' {
		f, verb, suffix = f*100, 'f', "%"
	}
	text := ""
	if verb == 'g' {
		text = generalFormat(f, max(precision, 1))
	} else {
		text = strconv.FormatFloat(f, verb, precision, 64)
	}
	switch {
	case math.IsInf(f, 0):
		text = strings.ToLower(strings.TrimPrefix(text, "+"))
	case math.IsNaN(f):
		text = "nan"
	}
	if s.verb == 'E' || s.verb == 'G' || s.verb == 'F' {
		text = strings.ToUpper(text)
	}
	return text + suffix
}

// generalFormat is C's %g: it drops trailing zeros, and uses an exponent outside 1e-4 … 10^precision.
func generalFormat(f float64, precision int) string {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	text := strconv.FormatFloat(f, 'e', precision-1, 64)
	mantissa, exponent, _ := strings.Cut(text, "e")
	x, _ := strconv.Atoi(exponent)
	if x < -4 || x >= precision {
		if strings.Contains(mantissa, ".") {
			mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
		}
		return mantissa + "e" + exponent
	}
	text = strconv.FormatFloat(f, 'f', precision-1-x, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

func grouped(s string) string {
	whole, rest := s, ""
	if i := strings.IndexAny(s, ".e%"); i >= 0 {
		whole, rest = s[:i], s[i:]
	}
	var b strings.Builder
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String() + rest
}

// padded brings sign and text to the width.
func (e *interp) padded(s *formatSpec, sign, text string, number bool) string {
	n := s.width - runeCount(text) - len(sign)
	if n <= 0 || !e.charge(n) {
		return sign + text
	}
	fill := s.fill
	if fill == "" {
		fill = " "
	}
	switch {
	case s.center:
		return strings.Repeat(fill, n/2) + sign + text + strings.Repeat(fill, n-n/2)
	case s.left:
		return sign + text + strings.Repeat(fill, n)
	case s.zero && number:
		return sign + strings.Repeat("0", n) + text
	}
	return strings.Repeat(fill, n) + sign + text
}

// formatMethod is str.format: {}, {0}, {name} with attributes and subscripts, conversions and format specifications.
func formatMethod(e *interp, self Value, a *args) Value {
	f, _ := textOf(self)
	if _, ok := self.(markup); ok {
		return e.fail("format of a text marked safe is not supported")
	}
	var b strings.Builder
	next := 0
	for i := 0; i < len(f); i++ {
		c := f[i]
		if (c == '{' || c == '}') && i+1 < len(f) && f[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		if c != '{' {
			if c == '}' {
				return e.fail("format: single } in the text")
			}
			b.WriteByte(c)
			continue
		}
		end := strings.IndexByte(f[i:], '}')
		if end < 0 {
			return e.fail("format: expected }")
		}
		b.WriteString(e.field(f[i+1:i+end], a, &next))
		i += end
		if e.overflows(b.Len()) {
			return &undefined{}
		}
	}
	return e.newText(b.String())
}
