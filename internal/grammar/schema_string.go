package grammar

import (
	"fmt"
	"regexp/syntax"
	"unicode"
)

// maxPattern bounds the places of a pattern times the lengths that have to be told apart.
const maxPattern = 40_000

// formats that are written; others are taken as a remark, as JSON schema does by default.
var formats = map[string]string{
	"date": `^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$`, // days that every month has
	"time": `^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`,
	"date-time": `^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,` +
		`6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`,
	"duration": `^P([0-9]{1,4}D|[0-9]{1,4}W|[0-9]{1,4}Y|T[0-9]{1,4}[HMS]|[0-9]{1,4}DT[0-9]{1,4}[HMS])$`,
	"uuid":     `^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`,
	"email": `^[a-zA-Z0-9_+-]{1,30}(\.[a-zA-Z0-9_+-]{1,30})?@[a-zA-Z0-9]([a-zA-Z0-9-]{0,` +
		`30}[a-zA-Z0-9])?(\.[a-zA-Z]{2,20}){1,3}$`,
	"hostname": `^[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?(\.[a-zA-Z]{2,20}){0,3}$`,
	"ipv4":     `^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$`,
	"ipv6":     `^([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$`,
	"uri": `^https?://[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?(\.[a-zA-Z]{2,20}){0,3}(:[1-9][0-9]{0,` +
		`3})?(/[a-zA-Z0-9_.~-]{0,40}){0,8}$`,
}

// string returns the expression of a string's schema.
func (b *schemaBuilder) string(o *object, path string) (expr, error) {
	low, err := count(o, "minLength", 0, path)
	if err != nil {
		return nil, err
	}
	high, err := count(o, "maxLength", -1, path)
	if err != nil {
		return nil, err
	}
	if high >= 0 && high < low {
		return nil, at(path, "minLength is above maxLength")
	}
	pattern, where := "", path+"/pattern"
	if v, ok := o.values["pattern"]; ok {
		if pattern, ok = v.(string); !ok {
			return nil, at(where, "expected a string")
		}
	}
	if name, ok := o.values["format"].(string); ok && formats[name] != "" {
		if pattern != "" {
			return nil, at(path+"/format", "together with pattern is not supported")
		}
		pattern, where = formats[name], path+"/format"
	}
	if pattern != "" {
		e, err := b.pattern(pattern, low, high)
		if err != nil {
			return nil, at(where, "%w", err)
		}
		return seq{literal(`"`), e, literal(`"`)}, nil
	}
	if low == 0 && high < 0 {
		return ref("string"), nil
	}
	return seq{literal(`"`), rep{ref("char"), low, high}, literal(`"`)}, nil
}

// patternState is a place in a compiled regular expression after some characters.
type patternState struct {
	pc     uint32
	length int  // characters so far, counted no further than matters
	closed bool // $ was passed: no more characters
}

type patternBuilder struct {
	b         *schemaBuilder
	prog      *syntax.Prog
	low, high int // bounds of the length; high < 0: none
	cap       int // lengths from here on are alike
	names     map[patternState]ref
	prefix    string
}

// pattern returns the strings that contain a match of a regular expression (RE2's syntax) and have a length within the bounds.
// Every place and length becomes a rule, which only calls others at its end.
func (b *schemaBuilder) pattern(text string, low, high int) (expr, error) {
	if _, err := syntax.Parse(text, syntax.Perl); err != nil {
		return nil, err
	}
	re, err := syntax.Parse("(?s:.*)(?:"+text+")(?s:.*)", syntax.Perl)
	if err != nil {
		return nil, err
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, err
	}
	p := &patternBuilder{b: b, prog: prog, low: low, high: high, cap: max(1, low), names: map[patternState]ref{}}
	if high >= 0 {
		p.cap = high + 1
	}
	if len(prog.Inst)*p.cap > maxPattern {
		return nil, fmt.Errorf("the pattern is too large for these lengths: %d places times %d lengths, above %d", len(prog.Inst),
			p.cap, maxPattern)
	}
	b.made++
	p.prefix = fmt.Sprintf("pattern-%d", b.made)
	return p.state(patternState{pc: uint32(prog.Start)})
}

// state returns the rule of s, and makes it and those it leads to.
func (p *patternBuilder) state(s patternState) (expr, error) {
	start := p.name(s)
	for todo := []patternState{s}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		name := string(p.names[s])
		if _, done := p.b.rules[name]; done {
			continue
		}
		var out alt
		matched := false
		err := p.closure(s, func(in *syntax.Inst, s patternState) {
			if in.Op == syntax.InstMatch {
				matched = matched || s.length >= p.low
				return
			}
			next := patternState{pc: in.Out, length: min(s.length+1, p.cap)}
			if s.closed || p.high >= 0 && next.length > p.high {
				return
			}
			out = append(out, seq{written(runesOf(in)), p.name(next)})
			todo = append(todo, next)
		})
		if err != nil {
			return nil, err
		}
		if matched {
			out = append(out, seq{})
		}
		p.b.rules[name] = out
	}
	return start, nil
}

func (p *patternBuilder) name(s patternState) ref {
	if n, ok := p.names[s]; ok {
		return n
	}
	n := ref(fmt.Sprintf("%s-%d", p.prefix, len(p.names)))
	p.names[s] = n
	return n
}

// closure calls f for the instructions that s reaches without a character: those that take one, and matches.
func (p *patternBuilder) closure(s patternState, f func(*syntax.Inst, patternState)) error {
	seen := map[patternState]bool{}
	todo := []patternState{s}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[s] {
			continue
		}
		seen[s] = true
		in := &p.prog.Inst[s.pc]
		to := s
		to.pc = in.Out
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			other := s
			other.pc = in.Arg
			todo = append(todo, to, other)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, to)
		case syntax.InstEmptyWidth:
			switch syntax.EmptyOp(in.Arg) {
			case syntax.EmptyBeginText:
				if s.length == 0 {
					todo = append(todo, to)
				}
			case syntax.EmptyEndText:
				to.closed = true
				todo = append(todo, to)
			default:
				return fmt.Errorf("word boundaries and line anchors are not supported")
			}
		case syntax.InstFail:
		default:
			f(in, s)
		}
	}
	return nil
}

// runesOf returns the runes that an instruction takes.
func runesOf(in *syntax.Inst) class {
	switch in.Op {
	case syntax.InstRuneAny:
		return span(0, maxRune)
	case syntax.InstRuneAnyNotNL:
		return class{{'\n', '\n'}}.negated()
	}
	var out class
	if len(in.Rune) == 1 {
		r := in.Rune[0]
		out = append(out, runeSpan{r, r})
		if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				out = append(out, runeSpan{f, f})
			}
		}
		return out
	}
	for i := 0; i+1 < len(in.Rune); i += 2 {
		out = append(out, runeSpan{in.Rune[i], in.Rune[i+1]})
	}
	return out
}
