package jinja

import "strconv"

// postfix parses attributes, subscripts and calls.
func (p *parser) postfix(e expr) expr {
	for p.err == nil {
		t := p.current()
		switch t.kind {
		case ".":
			p.next()
			e = p.attribute(e, p.next())
		case "[":
			p.next()
			e = &itemExpr{line(t.line), e, p.subscript()}
			p.expect("]")
		case "(":
			e = &callExpr{line(t.line), e, p.callArgs()}
		default:
			return e
		}
	}
	return e
}

func (p *parser) attribute(e expr, name token) expr {
	at := line(name.line)
	switch name.kind {
	case tokName:
		return &attrExpr{at, e, name.text}
	case tokInteger:
		if v, err := strconv.ParseInt(name.text, 10, 64); err == nil {
			return &itemExpr{at, e, &constExpr{at, v}}
		}
	}
	p.fail(name.line, "expected a name after the dot, got %s", name)
	return e
}

func (p *parser) subscript() expr {
	at := line(p.current().line)
	var parts [3]expr
	colons := 0
	for p.err == nil && p.current().kind != "]" {
		switch {
		case p.current().kind == "," || colons == 2 && p.current().kind == ":":
			p.fail(p.current().line, "a subscript has one index or one slice")
		case p.accept(":"):
			colons++
		case parts[colons] != nil:
			p.fail(p.current().line, "expected ], got %s", p.current())
		default:
			parts[colons] = p.expression()
		}
	}
	if colons > 0 {
		return &sliceExpr{at, parts[0], parts[1], parts[2]}
	}
	if parts[0] == nil {
		p.fail(int(at), "the subscript is empty")
	}
	return parts[0]
}

func (p *parser) callArgs() (a callArgs) {
	open := p.expect("(")
	for n := 0; p.err == nil && p.current().kind != ")"; n++ {
		if n > 0 {
			p.expect(",")
			if p.current().kind == ")" {
				break
			}
		}
		t := p.current()
		switch {
		case t.kind == "*" && a.splat == nil && a.dictSplat == nil:
			p.next()
			a.splat = p.expression()
		case t.kind == "**" && a.dictSplat == nil:
			p.next()
			a.dictSplat = p.expression()
		case t.kind == tokName && p.peek().kind == "=" && a.dictSplat == nil:
			p.next()
			p.next()
			a.names = append(a.names, t.text)
			a.values = append(a.values, p.expression())
		case a.splat == nil && a.dictSplat == nil && len(a.names) == 0:
			a.positional = append(a.positional, p.expression())
		default:
			p.fail(open.line, "a positional argument follows a named one")
		}
	}
	p.expect(")")
	return a
}

// filters parses filters, tests and calls after an operand.
func (p *parser) filters(e expr) expr {
	for p.err == nil {
		t := p.current()
		switch {
		case t.kind == "|":
			e = p.filter(e, false)
		case t.isName("is"):
			e = p.test(e)
		case t.kind == "(":
			e = &callExpr{line(t.line), e, p.callArgs()}
		default:
			return e
		}
	}
	return e
}

// filter parses a chain of filters; with inline, the first one has no bar before it.
func (p *parser) filter(e expr, inline bool) *filterExpr {
	var f *filterExpr
	for p.err == nil && (inline || p.current().kind == "|") {
		if !inline {
			p.next()
		}
		inline = false
		t := p.expect(tokName)
		name := t.text
		for p.accept(".") {
			name += "." + p.expect(tokName).text
		}
		f = &filterExpr{line: line(t.line), input: e, name: name}
		if p.current().kind == "(" {
			f.args = p.callArgs()
		}
		e = f
	}
	return f
}

func (p *parser) test(e expr) expr {
	at := line(p.next().line)
	negated := p.acceptName("not")
	name := p.expect(tokName).text
	t := &testExpr{line: at, input: e, name: name}
	switch c := p.current(); {
	case c.kind == "(":
		t.args = p.callArgs()
	case c.isName("else", "or", "and"):
	case c.isName("is"):
		p.fail(c.line, "tests cannot be chained with is")
	case c.kind == tokName, c.kind == tokString, c.kind == tokInteger, c.kind == tokFloat, c.kind == "[", c.kind == "{":
		t.args.positional = []expr{p.postfix(p.primary())}
	}
	if negated {
		return &unaryExpr{at, "not", t}
	}
	return t
}
