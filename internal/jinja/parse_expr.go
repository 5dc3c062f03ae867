package jinja

import (
	"strconv"
	"strings"
)

// tupleOptions says how tuple parses its items.
type tupleOptions struct {
	conditional bool   // items may be conditional expressions
	parentheses bool   // the tuple is in parentheses and may be empty
	simple      bool   // items are names, attributes and literals
	end         string // a name that ends the tuple; may be empty
}

// tuple parses expressions with commas between them, or one expression.
func (p *parser) tuple(o tupleOptions) expr {
	at := p.current().line
	var items []expr
	isTuple := false
	for p.err == nil {
		if len(items) > 0 {
			p.expect(",")
		}
		t := p.current()
		if t.kind == tokCloseVar || t.kind == tokCloseTag || t.kind == ")" || o.end != "" && t.isName(o.end) {
			break
		}
		switch {
		case o.simple:
			items = append(items, p.simpleTarget())
		case o.conditional || o.parentheses:
			items = append(items, p.expression())
		default:
			items = append(items, p.or())
		}
		if p.current().kind != "," {
			break
		}
		isTuple = true
	}
	if !isTuple && len(items) == 1 {
		return items[0]
	}
	if len(items) == 0 && !o.parentheses {
		p.fail(at, "expected an expression, got %s", p.current())
	}
	return &listExpr{line(at), items, true}
}

// simpleTarget parses an item of an assignment's left side.
func (p *parser) simpleTarget() expr {
	e := p.primary()
	if _, ok := e.(*nameExpr); ok && p.current().kind == "." {
		t := p.next()
		return &attrExpr{line(t.line), e, p.expect(tokName).text}
	}
	return e
}

// expression parses an expression, conditional ones included.
func (p *parser) expression() expr {
	defer p.leave()
	if !p.enter() {
		return nil
	}
	at := line(p.current().line)
	e := p.or()
	for p.acceptName("if") {
		c := &condExpr{line: at, yes: e, test: p.or()}
		if p.acceptName("else") {
			c.no = p.expression()
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	e := p.and()
	for p.current().isName("or") {
		at := line(p.next().line)
		e = &binaryExpr{at, "or", e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for p.current().isName("and") {
		at := line(p.next().line)
		e = &binaryExpr{at, "and", e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	if !p.current().isName("not") {
		return p.compare()
	}
	defer p.leave()
	if !p.enter() {
		return nil
	}
	at := line(p.next().line)
	return &unaryExpr{at, "not", p.not()}
}

func (p *parser) compare() expr {
	at := line(p.current().line)
	e := p.sum()
	c := &compareExpr{line: at, first: e}
	for p.err == nil {
		t := p.current()
		op := ""
		switch {
		case t.kind == "==", t.kind == "!=", t.kind == "<", t.kind == "<=", t.kind == ">", t.kind == ">=":
			op = string(t.kind)
		case t.isName("in"):
			op = "in"
		case t.isName("not") && p.peek().isName("in"):
			p.next()
			op = "not in"
		}
		if op == "" {
			break
		}
		p.next()
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.sum())
	}
	if len(c.ops) == 0 {
		return e
	}
	return c
}

// binary parses operands with operators of one precedence between them, left to right.
func (p *parser) binary(operand func() expr, ops ...tokenKind) expr {
	e := operand()
	for p.err == nil {
		t := p.current()
		found := false
		for _, op := range ops {
			found = found || t.kind == op
		}
		if !found {
			break
		}
		p.next()
		e = &binaryExpr{line(t.line), string(t.kind), e, operand()}
	}
	return e
}

func (p *parser) sum() expr { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() expr {
	at := line(p.current().line)
	e := p.product()
	if p.current().kind != "~" {
		return e
	}
	c := &concatExpr{at, []expr{e}}
	for p.accept("~") {
		c.items = append(c.items, p.product())
	}
	return c
}

func (p *parser) product() expr { return p.binary(p.power, "*", "/", "//", "%") }

func (p *parser) power() expr {
	return p.binary(func() expr { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) expr {
	defer p.leave()
	if !p.enter() {
		return nil
	}
	var e expr
	if t := p.current(); t.kind == "-" || t.kind == "+" {
		p.next()
		e = &unaryExpr{line(t.line), string(t.kind), p.unary(false)}
	} else {
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filters(e)
	}
	return e
}

func (p *parser) primary() expr {
	t := p.next()
	at := line(t.line)
	switch t.kind {
	case tokName:
		switch t.text {
		case "true", "True":
			return &constExpr{at, true}
		case "false", "False":
			return &constExpr{at, false}
		case "none", "None":
			return &constExpr{at, nil}
		}
		if n := len(p.loads); n > 0 {
			p.loads[n-1][t.text] = true
		}
		return &nameExpr{at, t.text}
	case tokString:
		parts := []string{t.text}
		for p.current().kind == tokString {
			parts = append(parts, p.next().text)
		}
		return &constExpr{at, strings.Join(parts, "")}
	case tokInteger:
		v, err := strconv.ParseInt(t.text, 0, 64)
		if err != nil {
			if v, err = strconv.ParseInt(t.text, 10, 64); err != nil {
				p.fail(t.line, "integer %s is too large", t.text)
			}
		}
		return &constExpr{at, v}
	case tokFloat:
		v, _ := strconv.ParseFloat(t.text, 64) // beyond the range: infinity, as in Python
		return &constExpr{at, v}
	case "(":
		e := p.tuple(tupleOptions{conditional: true, parentheses: true})
		p.expect(")")
		return e
	case "[":
		return &listExpr{at, p.list(), false}
	case "{":
		return p.dict(at)
	}
	p.fail(t.line, "unexpected %s", t)
	return nil
}

func (p *parser) list() (items []expr) {
	for p.err == nil && p.current().kind != "]" {
		if len(items) > 0 {
			p.expect(",")
			if p.current().kind == "]" {
				break
			}
		}
		items = append(items, p.expression())
	}
	p.expect("]")
	return items
}

func (p *parser) dict(at line) expr {
	d := &dictExpr{line: at}
	for p.err == nil && p.current().kind != "}" {
		if len(d.keys) > 0 {
			p.expect(",")
			if p.current().kind == "}" {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.expect(":")
		d.values = append(d.values, p.expression())
	}
	p.expect("}")
	return d
}
