package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxSource  = 1 << 20 // bytes of a grammar or a schema
	maxNesting = 200     // brackets within brackets
)

// ParseGBNF reads a grammar in llama.cpp's notation: rules "name ::= …" of literals, classes, groups, alternatives and
// repetitions. The text starts with rule root. Errors name line and column.
func ParseGBNF(text string) (*Grammar, error) {
	if len(text) > maxSource {
		return nil, fmt.Errorf("grammar: %d bytes; at most %d are accepted", len(text), maxSource)
	}
	p := &gbnf{text: text, rules: rules{}}
	for p.space(true); p.at < len(p.text); p.space(true) {
		if err := p.rule(); err != nil {
			return nil, fmt.Errorf("grammar: %w", err)
		}
	}
	g, err := compile(p.rules)
	if err != nil {
		return nil, fmt.Errorf("grammar: %w", err)
	}
	return g, nil
}

type gbnf struct {
	text  string
	at    int
	depth int
	rules rules
}

func (p *gbnf) errorf(format string, args ...any) error {
	before := p.text[:min(p.at, len(p.text))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: "+format, append([]any{line, column}, args...)...)
}

// space skips blanks and comments, and line ends if lines is set.
func (p *gbnf) space(lines bool) {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r'):
			p.at++
		case c == '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *gbnf) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func isNameByte(c byte) bool {
	return c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func (p *gbnf) name() string {
	start := p.at
	for isNameByte(p.peek()) {
		p.at++
	}
	return p.text[start:p.at]
}

func (p *gbnf) rule() error {
	name := p.name()
	if name == "" {
		return p.errorf("expected a rule's name, found %q", p.rest())
	}
	p.space(false)
	if !strings.HasPrefix(p.text[p.at:], "::=") {
		return p.errorf(`expected "::=" after rule name %q`, name)
	}
	if _, twice := p.rules[name]; twice {
		return p.errorf("rule %q is defined twice", name)
	}
	p.at += 3
	p.space(true)
	e, err := p.alternatives(false)
	if err != nil {
		return err
	}
	if c := p.peek(); c != 0 && c != '\n' && c != '\r' {
		return p.errorf("expected the end of rule %q, found %q", name, p.rest())
	}
	p.rules[name] = e
	return nil
}

// rest returns the next few characters, for messages.
func (p *gbnf) rest() string {
	r := []rune(p.text[p.at:min(p.at+40, len(p.text))])
	return string(r[:min(10, len(r))])
}

func (p *gbnf) alternatives(grouped bool) (expr, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, p.errorf("groups are nested more than %d deep", maxNesting)
	}
	defer func() { p.depth-- }()
	var out alt
	for {
		s, err := p.sequence(grouped)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
		if p.peek() != '|' {
			break
		}
		p.at++
		p.space(true)
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

// sequence reads elements until an alternative, a group or a rule ends. In groups, lines may end anywhere.
func (p *gbnf) sequence(grouped bool) (expr, error) {
	var out seq
	for {
		e, err := p.element()
		if err != nil {
			return nil, err
		}
		if e == nil {
			return out, nil
		}
		p.space(grouped)
		if e, err = p.repetition(e); err != nil {
			return nil, err
		}
		out = append(out, e)
		p.space(grouped)
	}
}

// element reads a literal, class, group or rule name; nil if there is none here.
func (p *gbnf) element() (expr, error) {
	switch c := p.peek(); {
	case c == '"':
		return p.literal()
	case c == '[':
		return p.class()
	case c == '.':
		p.at++
		return span(0, maxRune), nil
	case c == '(':
		p.at++
		p.space(true)
		e, err := p.alternatives(true)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.errorf("expected )")
		}
		p.at++
		return e, nil
	case isNameByte(c):
		return ref(p.name()), nil
	}
	return nil, nil
}

func (p *gbnf) literal() (expr, error) {
	var b strings.Builder
	p.at++
	for {
		if c := p.peek(); c == '"' {
			p.at++
			return literal(b.String()), nil
		}
		r, err := p.rune('"')
		if err != nil {
			return nil, err
		}
		b.WriteRune(r)
	}
}

func (p *gbnf) class() (expr, error) {
	p.at++
	negate := p.peek() == '^'
	if negate {
		p.at++
	}
	var out class
	for p.peek() != ']' {
		lo, err := p.rune(']')
		if err != nil {
			return nil, err
		}
		hi := lo
		if p.peek() == '-' && p.at+1 < len(p.text) && p.text[p.at+1] != ']' {
			p.at++
			if hi, err = p.rune(']'); err != nil {
				return nil, err
			}
		}
		if hi < lo {
			return nil, p.errorf("range %q-%q is empty", lo, hi)
		}
		out = append(out, runeSpan{lo, hi})
	}
	p.at++
	if negate {
		return out.negated(), nil
	}
	return out, nil
}

var escapes = map[byte]rune{'n': '\n', 'r': '\r', 't': '\t', '\\': '\\', '"': '"', '[': '[', ']': ']', '-': '-', '^': '^',
	'/': '/'}

// rune reads one character, escaped or not, of what ends with end.
func (p *gbnf) rune(end byte) (rune, error) {
	if p.at >= len(p.text) || p.peek() == '\n' {
		return 0, p.errorf("expected %q before the line ends", end)
	}
	if p.peek() != '\\' {
		r, n := utf8.DecodeRuneInString(p.text[p.at:])
		if r == utf8.RuneError && n == 1 {
			return 0, p.errorf("not UTF-8")
		}
		p.at += n
		return r, nil
	}
	if p.at+1 >= len(p.text) {
		return 0, p.errorf("expected a character after \\")
	}
	c := p.text[p.at+1]
	if r, ok := escapes[c]; ok {
		p.at += 2
		return r, nil
	}
	digits, ok := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if !ok {
		return 0, p.errorf("unknown escape \\%c", c)
	}
	if p.at+2+digits > len(p.text) {
		return 0, p.errorf("\\%c needs %d hexadecimal digits", c, digits)
	}
	v, err := strconv.ParseUint(p.text[p.at+2:p.at+2+digits], 16, 32)
	if err != nil || v > maxRune || 0xD800 <= v && v <= 0xDFFF {
		return 0, p.errorf("\\%c needs %d hexadecimal digits of a character", c, digits)
	}
	p.at += 2 + digits
	return rune(v), nil
}

// repetition applies *, +, ? or {m,n} after e.
func (p *gbnf) repetition(e expr) (expr, error) {
	switch p.peek() {
	case '*':
		e = rep{e, 0, -1}
	case '+':
		e = rep{e, 1, -1}
	case '?':
		e = opt(e)
	case '{':
		return p.counted(e)
	default:
		return e, nil
	}
	p.at++
	return e, nil
}

func (p *gbnf) counted(e expr) (expr, error) {
	end := strings.IndexByte(p.text[p.at:], '}')
	if end < 0 {
		return nil, p.errorf("expected }")
	}
	lo, hi, two := strings.Cut(p.text[p.at+1:p.at+end], ",")
	lo, hi = strings.TrimSpace(lo), strings.TrimSpace(hi)
	low, err := strconv.Atoi(lo)
	if lo == "" && two {
		low, err = 0, nil
	}
	high := low
	if two {
		high = -1
		if hi != "" && err == nil {
			high, err = strconv.Atoi(hi)
		}
	}
	if err != nil || low < 0 || high >= 0 && high < low || low > maxRepeat || high > maxRepeat {
		return nil, p.errorf("expected {m}, {m,} or {m,n} with m ≤ n ≤ %d", maxRepeat)
	}
	p.at += end + 1
	return rep{e, low, high}, nil
}
