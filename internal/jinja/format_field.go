package jinja

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// field returns the text of one replacement field of str.format. next counts the fields without a name.
func (e *interp) field(field string, a *args, next *int) string {
	name, spec, _ := strings.Cut(field, ":")
	name, conversion, _ := strings.Cut(name, "!")
	if strings.Contains(spec, "{") {
		e.fail("format: a field within a field is not supported")
		return ""
	}
	first := name
	if i := strings.IndexAny(name, ".["); i >= 0 {
		first = name[:i]
	}
	rest := name[len(first):]
	var v Value = &undefined{}
	if first == "" {
		first = strconv.Itoa(*next)
		*next++
	}
	if n, err := strconv.Atoi(first); err == nil {
		if n < 0 || n >= len(a.positional) {
			e.fail("format: there is no argument %d", n)
			return ""
		}
		v = a.positional[n]
	} else {
		found := false
		for i, named := range a.names {
			if named == first {
				v, found = a.values[i], true
			}
		}
		if !found {
			e.fail("format: there is no argument named %s", first)
			return ""
		}
	}
	v = e.path(v, rest)
	s := formatSpec{precision: -1}
	if !s.parse(spec) {
		e.fail("format: specification %q is not supported", spec)
		return ""
	}
	switch conversion {
	case "r":
		var b strings.Builder
		e.repr(&b, v)
		v = b.String()
	case "s":
		v = e.str(v)
	}
	return e.formatted(s.forValue(v), v)
}

// path follows .name and [key] in the name of a field.
func (e *interp) path(v Value, rest string) Value {
	for rest != "" && e.err == nil {
		if rest[0] == '.' {
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			v = e.attribute(v, rest[1:end])
			rest = rest[end:]
			continue
		}
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 0 {
			e.fail("format: wrong name of a field")
			break
		}
		var key Value = rest[1:end]
		if n, err := strconv.ParseInt(rest[1:end], 10, 64); err == nil {
			key = n
		}
		v = e.item(v, key)
		rest = rest[end+1:]
	}
	return v
}

// parse reads [[fill]align][sign][#][0][width][,][.precision][type].
func (s *formatSpec) parse(spec string) bool {
	align := byte(0)
	if _, n := utf8.DecodeRuneInString(spec); n < len(spec) && strings.IndexByte("<>^", spec[n]) >= 0 {
		s.fill, align, spec = spec[:n], spec[n], spec[n+1:]
	} else if spec != "" && strings.IndexByte("<>^", spec[0]) >= 0 {
		align, spec = spec[0], spec[1:]
	}
	for spec != "" && strings.IndexByte("+- #0", spec[0]) >= 0 {
		switch spec[0] {
		case '+':
			s.plus = true
		case ' ':
			s.space = true
		case '#':
			return false
		case '0':
			s.zero = align == 0
		}
		spec = spec[1:]
	}
	spec = spec[s.sizes(spec):]
	s.left, s.right, s.center = align == '<', align == '>', align == '^'
	if align == '>' {
		s.zero = false
	}
	if align == 0 {
		s.fill = ""
	}
	if len(spec) == 1 && strings.IndexByte("sdfFeEgGxXobn%", spec[0]) >= 0 {
		s.verb, spec = spec[0], ""
	}
	return spec == "" && s.width <= maxWidth && s.precision <= maxWidth
}

// forValue chooses the conversion for a specification without one, and the side that is filled: numbers stand to the right.
func (s *formatSpec) forValue(v Value) *formatSpec {
	_, _, float, isNumber := numberOf(v)
	if _, isBool := v.(bool); isBool && s.verb == 0 {
		isNumber = s.width > 0
	}
	switch {
	case s.verb != 0:
	case isNumber && !float:
		s.verb = 'd'
	case isNumber && s.precision >= 0:
		s.verb = 'g'
	default:
		s.verb = 's'
		if float {
			return s
		}
	}
	if !isNumber && !s.center && !s.right {
		s.left = true
	}
	return s
}
