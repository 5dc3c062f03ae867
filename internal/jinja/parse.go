package jinja

import (
	"slices"
	"strings"
)

// maxNesting bounds how deeply statements and expressions may be nested in the source.
const maxNesting = 200

// parser makes statements of tokens; its rules are those of jinja2/parser.py. After the first error all tokens read as the end.
type parser struct {
	tokens []token
	pos    int
	depth  int
	err    error
	loads  []map[string]bool // of every macro that is being parsed: the names its body reads
	loops  int
}

func parse(source string) ([]stmt, error) {
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	body := p.statements()
	return body, p.err
}

func (p *parser) current() token {
	if p.err != nil {
		return token{kind: tokEOF}
	}
	return p.tokens[p.pos]
}

// peek returns the token after the current one.
func (p *parser) peek() token {
	if p.err != nil {
		return token{kind: tokEOF}
	}
	return p.tokens[min(p.pos+1, len(p.tokens)-1)]
}

func (p *parser) next() token {
	t := p.current()
	if p.err == nil && p.pos < len(p.tokens)-1 {
		p.pos++
	}
	return t
}

func (p *parser) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = errorAt(at, format, args...)
	}
}

// enter counts a level of nesting; the caller must call leave.
func (p *parser) enter() bool {
	p.depth++
	if p.depth > maxNesting {
		p.fail(p.current().line, "nested more than %d deep", maxNesting)
	}
	return p.err == nil
}

func (p *parser) leave() { p.depth-- }

func (t token) isName(names ...string) bool {
	return t.kind == tokName && slices.Contains(names, t.text)
}

func (t token) String() string {
	if t.kind == tokName || t.kind == tokInteger || t.kind == tokFloat {
		return t.text
	}
	return string(t.kind)
}

func (p *parser) accept(kind tokenKind) bool {
	if p.current().kind != kind {
		return false
	}
	p.next()
	return true
}

func (p *parser) acceptName(names ...string) bool {
	if !p.current().isName(names...) {
		return false
	}
	p.next()
	return true
}

func (p *parser) expect(kind tokenKind) token {
	t := p.current()
	if t.kind != kind {
		p.fail(t.line, "expected %s, got %s", kind, t)
	}
	return p.next()
}

// statements parses up to a tag with one of the names in ends, which becomes the current token; without ends, up to the end.
func (p *parser) statements(ends ...string) (body []stmt) {
	defer p.leave()
	if !p.enter() {
		return nil
	}
	first := p.current().line
	for p.err == nil {
		switch t := p.next(); t.kind {
		case tokText:
			body = append(body, &textStmt{line(t.line), t.text})
		case tokOpenVar:
			value := p.tuple(tupleOptions{conditional: true})
			p.expect(tokCloseVar)
			body = append(body, &outputStmt{line(t.line), value})
		case tokOpenTag:
			if p.current().isName(ends...) {
				return body
			}
			body = append(body, p.statement()...)
			p.expect(tokCloseTag)
		default:
			if len(ends) > 0 {
				p.fail(first, "expected %s before the end of the template", strings.Join(ends, " or "))
			}
			return body
		}
	}
	return nil
}

// block parses the end of an opening tag, a body, and the name of its end.
func (p *parser) block(ends ...string) []stmt {
	p.accept(":")
	p.expect(tokCloseTag)
	body := p.statements(ends...)
	return body
}

// wholeBlock is block for a body with one end, whose name is consumed.
func (p *parser) wholeBlock(end string) []stmt {
	body := p.block(end)
	p.next()
	return body
}

func (p *parser) statement() []stmt {
	t := p.current()
	if t.kind != tokName {
		p.fail(t.line, "expected the name of a tag, got %s", t)
		return nil
	}
	p.next()
	at := line(t.line)
	switch t.text {
	case "for":
		return []stmt{p.forLoop(at)}
	case "if":
		return []stmt{p.ifElse(at)}
	case "set":
		return []stmt{p.set(at)}
	case "with":
		return []stmt{p.with(at)}
	case "macro":
		return []stmt{p.macro(at)}
	case "call":
		return []stmt{p.call(at)}
	case "generation":
		return []stmt{&callStmt{at, &signature{body: p.wholeBlock("endgeneration")}, nil}}
	case "filter":
		f := p.filter(nil, true)
		return []stmt{&filterStmt{at, f, p.wholeBlock("endfilter")}}
	case "print":
		return p.print(at)
	case "break", "continue":
		if p.loops == 0 {
			p.fail(t.line, "%s outside a loop", t.text)
		}
		return []stmt{&loopControl{at, map[string]control{"break": breaking, "continue": continuing}[t.text]}}
	case "include", "import", "from", "extends", "block":
		p.fail(t.line, "tag %s is not supported: a chat template has no other templates", t.text)
	case "endfor", "endif", "endset", "endmacro", "endcall", "endwith", "endfilter", "endgeneration", "else", "elif", "endraw":
		p.fail(t.line, "unexpected tag %s", t.text)
	default:
		p.fail(t.line, "tag %q is not supported", t.text)
	}
	return nil
}

func (p *parser) print(at line) (out []stmt) {
	for p.err == nil && p.current().kind != tokCloseTag {
		if len(out) > 0 {
			p.expect(",")
		}
		out = append(out, &outputStmt{at, p.expression()})
	}
	return out
}

func (p *parser) forLoop(at line) stmt {
	f := &forStmt{line: at, target: p.assignTarget("in")}
	if !p.acceptName("in") {
		p.fail(int(at), "expected in after the variables of a loop, got %s", p.current())
	}
	f.iterable = p.tuple(tupleOptions{end: "recursive"})
	if p.acceptName("if") {
		f.filter = p.expression()
	}
	f.recursive = p.acceptName("recursive")
	p.loops++
	f.body = p.block("endfor", "else")
	p.loops--
	if p.next().isName("else") {
		f.otherwise = p.wholeBlock("endfor")
	}
	return f
}

func (p *parser) ifElse(at line) stmt {
	s := &ifStmt{line: at}
	for p.err == nil {
		s.tests = append(s.tests, p.tuple(tupleOptions{}))
		s.bodies = append(s.bodies, p.block("elif", "else", "endif"))
		t := p.next()
		if t.isName("elif") {
			continue
		}
		if t.isName("else") {
			s.bodies = append(s.bodies, p.wholeBlock("endif"))
		}
		break
	}
	return s
}

func (p *parser) set(at line) stmt {
	to := p.assignTarget("")
	if p.accept("=") {
		return &setStmt{at, to, p.tuple(tupleOptions{conditional: true})}
	}
	s := &setBlockStmt{line: at, target: to}
	if p.current().kind == "|" {
		s.filter = p.filter(nil, false)
	}
	s.body = p.wholeBlock("endset")
	return s
}

func (p *parser) with(at line) stmt {
	s := &withStmt{line: at}
	for p.err == nil && p.current().kind != tokCloseTag {
		if len(s.targets) > 0 {
			p.expect(",")
		}
		s.targets = append(s.targets, p.assignTarget(""))
		p.expect("=")
		s.values = append(s.values, p.expression())
	}
	s.body = p.wholeBlock("endwith")
	return s
}

func (p *parser) macro(at line) stmt {
	name := p.expect(tokName).text
	return &macroStmt{at, name, p.signature(true, "endmacro")}
}

func (p *parser) call(at line) stmt {
	sig := &signature{}
	if p.current().kind == "(" {
		sig = p.params()
	}
	e := p.expression()
	call, ok := e.(*callExpr)
	if !ok {
		p.fail(int(at), "expected a call after the tag call")
		return nil
	}
	p.bodyOf(sig, "endcall")
	return &callStmt{at, sig, call}
}

func (p *parser) signature(params bool, end string) *signature {
	sig := p.params()
	p.bodyOf(sig, end)
	return sig
}

// bodyOf parses the body of a macro and notes which of the implicit variables it reads.
func (p *parser) bodyOf(sig *signature, end string) {
	p.loads = append(p.loads, map[string]bool{})
	loops := p.loops
	p.loops = 0
	sig.body = p.wholeBlock(end)
	p.loops = loops
	top := len(p.loads) - 1
	read := p.loads[top]
	p.loads = p.loads[:top]
	sig.usesCaller, sig.usesVarargs, sig.usesKwargs = read["caller"], read["varargs"], read["kwargs"]
	for _, outer := range p.loads {
		for name := range read {
			outer[name] = true
		}
	}
}

func (p *parser) params() *signature {
	sig := &signature{}
	p.expect("(")
	for p.err == nil && p.current().kind != ")" {
		if len(sig.params) > 0 {
			p.expect(",")
		}
		t := p.expect(tokName)
		sig.params = append(sig.params, t.text)
		if p.accept("=") {
			sig.defaults = append(sig.defaults, p.expression())
		} else if len(sig.defaults) > 0 {
			p.fail(t.line, "parameter %s without default follows one with a default", t.text)
		}
	}
	p.expect(")")
	return sig
}

// assignTarget parses what an assignment writes to, up to the name end.
func (p *parser) assignTarget(end string) target {
	at := p.current().line
	e := p.tuple(tupleOptions{end: end, simple: true})
	to, ok := targetOf(e)
	if !ok {
		p.fail(at, "cannot assign to this expression")
	}
	return to
}

func targetOf(e expr) (target, bool) {
	switch e := e.(type) {
	case *nameExpr:
		return target{name: e.name}, true
	case *attrExpr:
		if n, ok := e.object.(*nameExpr); ok {
			return target{name: n.name, attribute: e.name}, true
		}
	case *listExpr:
		to := target{items: make([]target, len(e.items))}
		for i, item := range e.items {
			var ok bool
			if to.items[i], ok = targetOf(item); !ok {
				return to, false
			}
		}
		return to, e.tuple
	}
	return target{}, false
}
