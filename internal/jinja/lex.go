package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind tells what a token is. Operators and delimiters have their own text as kind.
type tokenKind string

const (
	tokText     tokenKind = "text"
	tokOpenVar  tokenKind = "{{"
	tokCloseVar tokenKind = "}}"
	tokOpenTag  tokenKind = "{%"
	tokCloseTag tokenKind = "%}"
	tokName     tokenKind = "name"
	tokString   tokenKind = "string"
	tokInteger  tokenKind = "integer"
	tokFloat    tokenKind = "float"
	tokEOF      tokenKind = "end of template"
)

type token struct {
	kind tokenKind
	text string // of a name, a number, the value of a string, or text outside tags
	line int
}

// operators lists the longer ones first.
var operators = []string{
	"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~",
	"[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
}

// lexer cuts a source into tokens by the rules of Jinja2's lexer with trim_blocks and lstrip_blocks
// (jinja2/lexer.py): a tag takes the line end after it and the white space of its line before it.
type lexer struct {
	src          string
	pos          int
	line         int
	lineStarting bool // what was consumed last ends with a line end
	brackets     []byte
	out          []token
	err          error
}

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{src: strings.TrimSuffix(source, "\n"), line: 1, lineStarting: true}
	for l.err == nil && l.pos < len(l.src) {
		l.root()
	}
	l.emit(tokEOF, "")
	return l.out, l.err
}

func (l *lexer) fail(format string, args ...any) {
	if l.err == nil {
		l.err = errorAt(l.line, format, args...)
	}
}

func (l *lexer) emit(kind tokenKind, text string) {
	l.out = append(l.out, token{kind, text, l.line})
}

// advance consumes n bytes.
func (l *lexer) advance(n int) {
	consumed := l.src[l.pos : l.pos+n]
	l.line += strings.Count(consumed, "\n")
	l.pos += n
	l.lineStarting = strings.HasSuffix(consumed, "\n")
}

// text emits what lies before a tag. sign is the mark after the opening of the tag; a variable keeps the white space
// before it.
func (l *lexer) text(text, opening string, sign byte) {
	n := len(text)
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign != '+' && opening != "{{":
		start := strings.LastIndexByte(text, '\n') + 1
		if (start > 0 || l.lineStarting) && strings.TrimLeftFunc(text[start:], isSpace) == "" {
			text = text[:start]
		}
	}
	if text != "" {
		l.emit(tokText, text)
	}
	l.advance(n)
}

// nextOpening returns the position of the next tag, variable or comment, −1 if there is none.
func nextOpening(s string) int {
	for i := 0; i+1 < len(s); i++ {
		j := strings.IndexByte(s[i:], '{')
		if j < 0 || i+j+1 >= len(s) {
			return -1
		}
		i += j
		if c := s[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
	return -1
}

func signOf(s string) byte {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		return s[0]
	}
	return 0
}

// root consumes the text before the next tag, and the tag.
func (l *lexer) root() {
	rest := l.src[l.pos:]
	at := nextOpening(rest)
	if at < 0 {
		l.emit(tokText, rest)
		l.advance(len(rest))
		return
	}
	opening := rest[at : at+2]
	sign := signOf(rest[at+2:])
	size := 2
	if sign != 0 {
		size++
	}
	l.text(rest[:at], opening, sign)
	if opening == "{%" {
		if n := rawOpening(rest[at+size:]); n > 0 {
			l.advance(size + n)
			l.raw()
			return
		}
	}
	switch opening {
	case "{#":
		l.advance(size)
		l.comment()
	case "{%":
		l.emit(tokOpenTag, "")
		l.advance(size)
		l.code(tokCloseTag)
	default:
		l.emit(tokOpenVar, "")
		l.advance(size)
		l.code(tokCloseVar)
	}
}

// rawOpening returns the length of the rest of a raw tag, 0 if it is another tag.
func rawOpening(s string) int {
	rest := strings.TrimLeftFunc(s, isSpace)
	if !strings.HasPrefix(rest, "raw") {
		return 0
	}
	rest = strings.TrimLeftFunc(rest[len("raw"):], isSpace)
	if after, ok := strings.CutPrefix(rest, "-%}"); ok {
		return len(s) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if after, ok := strings.CutPrefix(rest, "%}"); ok {
		return len(s) - len(after)
	}
	return 0
}

// closing returns the length of the end of a tag at the beginning of s, with the white space it takes, or 0.
func closing(s, end string) int {
	if strings.HasPrefix(s, "-"+end) {
		after := s[1+len(end):]
		return len(s) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if end == "}}" {
		if strings.HasPrefix(s, end) {
			return len(end)
		}
		return 0
	}
	if strings.HasPrefix(s, "+"+end) {
		return 1 + len(end)
	}
	if strings.HasPrefix(s, end) {
		if strings.HasPrefix(s[len(end):], "\n") {
			return len(end) + 1
		}
		return len(end)
	}
	return 0
}

func (l *lexer) comment() {
	rest := l.src[l.pos:]
	at := strings.Index(rest, "#}")
	if rest == "" {
		return
	}
	if at < 0 {
		l.fail("the comment has no end, expected #}")
		return
	}
	if at > 0 && (rest[at-1] == '-' || rest[at-1] == '+') {
		at--
	}
	l.advance(at + closing(rest[at:], "#}"))
}

// raw emits the text up to endraw.
func (l *lexer) raw() {
	rest := l.src[l.pos:]
	for at := 0; ; at += 2 {
		i := strings.Index(rest[at:], "{%")
		if i < 0 {
			l.fail("raw has no end, expected {%% endraw %%}")
			return
		}
		at += i
		tag := rest[at+2:]
		sign := signOf(tag)
		if sign != 0 {
			tag = tag[1:]
		}
		tag = strings.TrimLeftFunc(tag, isSpace)
		if !strings.HasPrefix(tag, "endraw") {
			continue
		}
		tag = strings.TrimLeftFunc(tag[len("endraw"):], isSpace)
		if n := closing(tag, "%}"); n > 0 {
			end := len(rest) - len(tag) + n
			l.text(rest[:at], "{%", sign)
			l.advance(end - at)
			return
		}
	}
}

// code emits the tokens inside a tag or variable up to its end.
func (l *lexer) code(end tokenKind) {
	l.brackets = l.brackets[:0]
	for l.err == nil {
		rest := l.src[l.pos:]
		if trimmed := strings.TrimLeftFunc(rest, isSpace); len(trimmed) < len(rest) {
			l.advance(len(rest) - len(trimmed))
			continue
		}
		if rest == "" {
			l.fail("the tag has no end, expected %s", end)
			return
		}
		if len(l.brackets) == 0 {
			if n := closing(rest, string(end)); n > 0 {
				l.emit(end, "")
				l.advance(n)
				return
			}
		}
		l.codeToken(rest)
	}
}

func (l *lexer) codeToken(rest string) {
	if kind, n := number(rest); n > 0 {
		l.emit(kind, strings.ReplaceAll(rest[:n], "_", ""))
		l.advance(n)
		return
	}
	if n := nameLength(rest); n > 0 {
		l.emit(tokName, rest[:n])
		l.advance(n)
		return
	}
	if rest[0] == '\'' || rest[0] == '"' {
		l.str(rest)
		return
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.balance(op[0])
			l.emit(tokenKind(op), op)
			l.advance(len(op))
			return
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	l.fail("unexpected character %q", r)
}

// balance keeps account of brackets: inside them the ends of tags are operators.
func (l *lexer) balance(op byte) {
	switch op {
	case '(':
		l.brackets = append(l.brackets, ')')
	case '[':
		l.brackets = append(l.brackets, ']')
	case '{':
		l.brackets = append(l.brackets, '}')
	case ')', ']', '}':
		n := len(l.brackets)
		if n == 0 || l.brackets[n-1] != op {
			l.fail("unexpected %q", op)
			return
		}
		l.brackets = l.brackets[:n-1]
	}
}

func (l *lexer) str(rest string) {
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			value, err := unescape(rest[1:i])
			if err != "" {
				l.fail("string %s", err)
			}
			l.emit(tokString, value)
			l.advance(i + 1)
			return
		}
	}
	l.fail("the string has no end, expected %c", rest[0])
}

func nameLength(s string) int {
	for i, r := range s {
		starts := r == '_' || unicode.IsLetter(r) || unicode.Is(unicode.Nl, r)
		if !starts && (i == 0 || !unicode.In(r, unicode.Nd, unicode.Mn, unicode.Mc, unicode.Pc)) {
			return i
		}
	}
	return len(s)
}

// isSpace is white space as Python has it.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || 0x1C <= r && r <= 0x1F
}
