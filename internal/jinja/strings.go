package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// stringMethods are the methods of str that templates can use.
var stringMethods = map[string]method{
	"upper":        mapped(upper),
	"lower":        mapped(lower),
	"casefold":     mapped(lower),
	"capitalize":   mapped(capitalize),
	"title":        mapped(pythonTitle),
	"swapcase":     mapped(swapCase),
	"strip":        stripping("strip", true, true),
	"lstrip":       stripping("lstrip", true, false),
	"rstrip":       stripping("rstrip", false, true),
	"startswith":   affix("startswith", strings.HasPrefix),
	"endswith":     affix("endswith", strings.HasSuffix),
	"removeprefix": removing("removeprefix", strings.TrimPrefix),
	"removesuffix": removing("removesuffix", strings.TrimSuffix),
	"split":        splitting("split", false),
	"rsplit":       splitting("rsplit", true),
	"splitlines":   splitLines,
	"partition":    partition("partition", strings.Index),
	"rpartition":   partition("rpartition", strings.LastIndex),
	"replace":      replaceMethod,
	"join":         joinMethod,
	"find":         finding("find", strings.Index, false),
	"rfind":        finding("rfind", strings.LastIndex, false),
	"index":        finding("index", strings.Index, true),
	"rindex":       finding("rindex", strings.LastIndex, true),
	"count":        countMethod,
	"center":       padding("center"),
	"ljust":        padding("ljust"),
	"rjust":        padding("rjust"),
	"zfill":        zeroFill,
	"isdigit":      classOf(unicode.IsDigit),
	"isdecimal":    classOf(unicode.IsDigit),
	"isnumeric":    classOf(unicode.IsNumber),
	"isalpha":      classOf(unicode.IsLetter),
	"isalnum":      classOf(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
	"isspace":      classOf(isSpace),
	"isupper":      casedAs(unicode.IsUpper, unicode.IsLower),
	"islower":      casedAs(unicode.IsLower, unicode.IsUpper),
	"isascii": func(e *interp, self Value, a *args) Value {
		s, _ := textOf(self)
		return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
	},
}

var unsupportedStringMethods = []string{
	"encode", "expandtabs", "format_map", "isidentifier", "isprintable", "istitle", "maketrans", "translate",
}

// mapped is a method that makes a text of a text.
func mapped(f func(string) string) method {
	return func(e *interp, self Value, a *args) Value {
		a.bind(e, "the method", 0)
		s, _ := textOf(self)
		if !e.charge(3 * len(s)) { // changing case takes at most three times the space
			return &undefined{}
		}
		return sameKind(self, f(s))
	}
}

// sameKind returns s as markup where self is.
func sameKind(self Value, s string) Value {
	if _, ok := self.(markup); ok {
		return markup(s)
	}
	return s
}

// upper and lower change one character into several where Unicode says so, as Python does.
func upper(s string) string { return cases.Upper(language.Und).String(s) }

func lower(s string) string { return cases.Lower(language.Und).String(s) }

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return cases.Title(language.Und).String(s[:n]) + lower(s[n:])
}

func pythonTitle(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		was := inside
		inside = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

// strip removes characters from the ends of s: white space, or those of chars.
func (e *interp) strip(s string, chars Value, left, right bool) string {
	in, perCharacter := isSpace, 4
	if given(chars) && chars != nil {
		set := e.text("strip", chars, "")
		in = func(r rune) bool { return strings.ContainsRune(set, r) }
		perCharacter = 4 + len(set)
	}
	start := s
	if left {
		s = strings.TrimLeftFunc(s, in)
	}
	if right {
		s = strings.TrimRightFunc(s, in)
	}
	e.scan(perCharacter * (1 + len(start) - len(s)))
	return s
}

func stripping(name string, left, right bool) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 0, "chars")
		s, _ := textOf(self)
		return sameKind(self, e.strip(s, v[0], left, right))
	}
}

// affix is startswith or endswith: of a text, or of any text of a tuple.
func affix(name string, has func(s, affix string) bool) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 1, "affix", "start", "end")
		s, ok := e.part(name, self, v[1], v[2])
		affixes := []Value{v[0]}
		if l, isList := v[0].(*List); isList && l.tuple {
			affixes = l.Items
		}
		for _, x := range affixes {
			t := e.text(name, x, "")
			e.scan(len(t) + 64)
			if ok && has(s, t) {
				return true
			}
		}
		return false
	}
}

// part returns characters start to end of a text. ok is false where start lies after the text.
func (e *interp) part(name string, self, start, end Value) (s string, ok bool) {
	s, _ = textOf(self)
	if start == nil {
		start = absent{}
	}
	if end == nil {
		end = absent{}
	}
	if !given(start) && !given(end) {
		return s, true
	}
	n := runeCount(s)
	e.scan(3 * len(s))
	limit := func(v Value, def int) int {
		i := e.integer(name, v, def)
		if i < 0 {
			i = max(i+n, 0)
		}
		return i
	}
	from, to := limit(start, 0), min(limit(end, n), n)
	if from > to {
		return "", false
	}
	return s[byteOffset(s, from):byteOffset(s, to)], true
}

func removing(name string, trim func(s, affix string) string) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 1, "affix")
		s, _ := textOf(self)
		return sameKind(self, trim(s, e.text(name, v[0], "")))
	}
}

func splitting(name string, fromRight bool) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 0, "sep", "maxsplit")
		s, _ := textOf(self)
		most := e.integer(name, v[1], -1)
		if !e.charge(2 * valueBytes * (1 + len(s)/4)) {
			return &undefined{}
		}
		var parts []string
		if !given(v[0]) || v[0] == nil {
			parts = splitSpace(s, most, fromRight)
		} else {
			sep := e.text(name, v[0], " ")
			if sep == "" {
				return e.fail("%s: the separator is empty", name)
			}
			parts = splitAt(s, sep, most, fromRight)
		}
		return e.texts(parts)
	}
}

// texts returns a list of texts that share the memory of another.
func (e *interp) texts(parts []string) Value {
	if !e.charge(2 * valueBytes * len(parts)) {
		return &undefined{}
	}
	items := make([]Value, len(parts))
	for i, p := range parts {
		items[i] = p
	}
	return &List{Items: items}
}

func splitAt(s, sep string, most int, fromRight bool) []string {
	if most < 0 {
		return strings.Split(s, sep)
	}
	if !fromRight {
		return strings.SplitN(s, sep, most+1)
	}
	var parts []string
	for ; most > 0; most-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		parts = append(parts, s[i+len(sep):])
		s = s[:i]
	}
	return reversed(append(parts, s))
}

func reversed[T any](items []T) []T {
	for i, j := 0, len(items)-1; i < j; i, j = i+1, j-1 {
		items[i], items[j] = items[j], items[i]
	}
	return items
}

// splitSpace splits at runs of white space, at most most times; the rest keeps its inner white space.
func splitSpace(s string, most int, fromRight bool) (parts []string) {
	if !fromRight {
		for s = strings.TrimLeftFunc(s, isSpace); s != ""; s = strings.TrimLeftFunc(s, isSpace) {
			i := strings.IndexFunc(s, isSpace)
			if most >= 0 && len(parts) == most {
				return append(parts, s)
			}
			if i < 0 {
				return append(parts, s)
			}
			parts = append(parts, s[:i])
			s = s[i:]
		}
		return parts
	}
	for s = strings.TrimRightFunc(s, isSpace); s != ""; s = strings.TrimRightFunc(s, isSpace) {
		i := strings.LastIndexFunc(s, isSpace)
		if most >= 0 && len(parts) == most {
			parts = append(parts, s)
			break
		}
		if i < 0 {
			parts = append(parts, s)
			break
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		parts = append(parts, s[i+n:])
		s = s[:i]
	}
	return reversed(parts)
}

func splitLines(e *interp, self Value, a *args) Value {
	v := a.bind(e, "splitlines", 0, "keepends")
	s, _ := textOf(self)
	if !e.charge(2 * valueBytes * (1 + len(s)/4)) {
		return &undefined{}
	}
	keep := given(v[0]) && truth(v[0])
	var parts []string
	for s != "" {
		i := strings.IndexFunc(s, func(r rune) bool {
			return '\n' <= r && r <= '\r' || 0x1C <= r && r <= 0x1E || r == 0x85 || r == 0x2028 || r == 0x2029
		})
		if i < 0 {
			parts = append(parts, s)
			break
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		end := i
		if keep {
			end += n
		}
		parts = append(parts, s[:end])
		s = s[i+n:]
	}
	return e.texts(parts)
}

func partition(name string, index func(s, sep string) int) method {
	return func(e *interp, self Value, a *args) Value {
		v := a.bind(e, name, 1, "sep")
		s, _ := textOf(self)
		sep := e.text(name, v[0], "")
		if sep == "" {
			return e.fail("%s: the separator is empty", name)
		}
		e.scan(len(s))
		parts := []string{s, "", ""}
		if i := index(s, sep); i >= 0 {
			parts = []string{s[:i], sep, s[i+len(sep):]}
		} else if name == "rpartition" {
			parts = []string{"", "", s}
		}
		l, _ := e.texts(parts).(*List)
		if l == nil {
			return &undefined{}
		}
		l.tuple = true
		return l
	}
}
