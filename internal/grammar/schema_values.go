package grammar

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// jsonRules returns the rules of JSON itself (RFC 8259). Blanks are at most one space, or a line end and an indentation.
func jsonRules() rules {
	return rules{
		"ws":     opt(alt{literal(" "), seq{literal("\n"), rep{class{{' ', ' '}, {'\t', '\t'}}, 0, 32}}}),
		"value":  alt{ref("object"), ref("array"), ref("string"), numberText(), literal("true"), literal("false"), literal("null")},
		"object": seq{literal("{"), ref("ws"), opt(list(ref("pair"), 1, -1)), literal("}")},
		"pair":   seq{ref("string"), literal(":"), ref("ws"), ref("value")},
		"array":  seq{literal("["), ref("ws"), opt(list(ref("value"), 1, -1)), literal("]")},
		"string": seq{literal(`"`), rep{character(), 0, -1}, literal(`"`)},
		"char":   character(),
	}
}

// list is min to max elements, separated by commas, with blanks where they may be. min is at least 1.
func list(e expr, min, max int) expr {
	more := seq{literal(","), ref("ws"), e, ref("ws")}
	if max > 0 {
		max--
	}
	return seq{e, ref("ws"), rep{more, min - 1, max}}
}

// rawRunes are the runes that stand for themselves in a JSON string.
func rawRunes() class { return class{{0x20, 0x21}, {0x23, 0x5B}, {0x5D, maxRune}} }

// character is one character of a JSON string, escaped or not.
func character() expr {
	hex := class{{'0', '9'}, {'a', 'f'}, {'A', 'F'}}
	d := class{{'d', 'd'}, {'D', 'D'}}
	notD := class{{'0', '9'}, {'a', 'c'}, {'e', 'f'}, {'A', 'C'}, {'E', 'F'}}
	high := seq{d, class{{'8', '9'}, {'a', 'b'}, {'A', 'B'}}, hex, hex}
	low := seq{d, class{{'c', 'f'}, {'C', 'F'}}, hex, hex}
	return alt{rawRunes(), seq{literal(`\`), alt{
		class{{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}},
		seq{literal("u"), alt{seq{notD, hex, hex, hex}, seq{d, span('0', '7'), hex, hex}, seq{high, literal(`\u`), low}}},
	}}}
}

// written returns how runes of c are written in a JSON string.
func written(c class) expr {
	var raw class
	var out alt
	for _, s := range c.sorted() {
		for _, r := range rawRunes() {
			if lo, hi := max(s.lo, r.lo), min(s.hi, r.hi); lo <= hi {
				raw = append(raw, runeSpan{lo, hi})
			}
		}
		for r := s.lo; r <= min(s.hi, '\\'); r++ {
			if r < 0x20 || r == '"' || r == '\\' {
				text := quoted(string(r))
				out = append(out, literal(text[1:len(text)-1]))
			}
		}
	}
	return append(out, raw)
}

func (b *schemaBuilder) array(o *object, path string) (expr, error) {
	low, err := count(o, "minItems", 0, path)
	if err != nil {
		return nil, err
	}
	high, err := count(o, "maxItems", -1, path)
	if err != nil {
		return nil, err
	}
	if high >= 0 && high < low {
		return nil, at(path, "minItems is above maxItems")
	}
	first, err := b.prefixItems(o, path)
	if err != nil {
		return nil, err
	}
	if high >= 0 && len(first) > high {
		first = first[:high]
	}
	item, err := b.items(o, len(first) > 0, path)
	if err != nil {
		return nil, err
	}
	if item == nil && low > len(first) {
		return nil, at(path, "minItems is above the number of items that are described")
	}
	return arrayText(first, item, low, high), nil
}

// prefixItems returns the expressions of the first items, which are all written.
func (b *schemaBuilder) prefixItems(o *object, path string) ([]expr, error) {
	v, ok := o.values["prefixItems"]
	if !ok {
		return nil, nil
	}
	schemas, ok := v.([]any)
	if !ok {
		return nil, at(path+"/prefixItems", "expected an array of schemas")
	}
	var out []expr
	for i, s := range schemas {
		e, err := b.schema(s, fmt.Sprintf("%s/prefixItems/%d", path, i))
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// items returns the expression of the items after the first ones; nil if there are none.
func (b *schemaBuilder) items(o *object, prefixed bool, path string) (expr, error) {
	v, ok := o.values["items"]
	if !ok && prefixed || v == false {
		return nil, nil
	}
	if !ok {
		return ref("value"), nil
	}
	e, err := b.schema(v, path+"/items")
	if err != nil {
		return nil, err
	}
	return b.rule("item", e), nil
}

func arrayText(first []expr, item expr, low, high int) expr {
	body := seq{}
	for i, e := range first {
		if i > 0 {
			body = append(body, literal(","), ref("ws"))
		}
		body = append(body, e, ref("ws"))
	}
	rest := -1 // items after the first ones, at most
	if high >= 0 {
		rest = high - len(first)
	}
	switch need := max(low-len(first), 0); {
	case item == nil || rest == 0:
	case len(first) > 0:
		body = append(body, rep{seq{literal(","), ref("ws"), item, ref("ws")}, need, rest})
	case need == 0:
		body = append(body, opt(list(item, 1, rest)))
	default:
		body = append(body, list(item, need, rest))
	}
	return seq{literal("["), ref("ws"), body, literal("]")}
}

// property is a property of an object's schema.
type property struct {
	name     string
	pair     expr
	required bool
}

func (b *schemaBuilder) object(o *object, path string) (expr, error) {
	for _, k := range []string{"minProperties", "maxProperties"} {
		if o.has(k) && (o.has("properties") || o.values["additionalProperties"] == false) {
			return nil, at(path+"/"+k, "together with properties is not supported")
		}
	}
	props, err := b.properties(o, path)
	if err != nil {
		return nil, err
	}
	extra, err := b.extraPair(o, props, path)
	if err != nil {
		return nil, err
	}
	low, err := count(o, "minProperties", 0, path)
	if err != nil {
		return nil, err
	}
	high, err := count(o, "maxProperties", -1, path)
	if err != nil {
		return nil, err
	}
	if high >= 0 && high < low {
		return nil, at(path, "minProperties is above maxProperties")
	}
	if low > 1 {
		return nil, at(path+"/minProperties", "above 1 is not supported: names could repeat")
	}
	return seq{literal("{"), ref("ws"), b.members(props, extra, low, high), literal("}")}, nil
}

// properties returns the named properties in their order, required ones that have no schema last.
func (b *schemaBuilder) properties(o *object, path string) ([]property, error) {
	required, err := requiredNames(o, path)
	if err != nil {
		return nil, err
	}
	schemas := newObject()
	if v, ok := o.values["properties"]; ok {
		if schemas, ok = v.(*object); !ok {
			return nil, at(path+"/properties", "expected an object of schemas")
		}
	}
	var out []property
	add := func(name string, s any) error {
		if s == false && !slices.Contains(required, name) {
			return nil
		}
		e, err := b.schema(s, path+"/properties/"+name)
		if err != nil {
			return err
		}
		pair := b.rule("pair", seq{literal(quoted(name)), literal(":"), ref("ws"), e, ref("ws")})
		out = append(out, property{name, pair, slices.Contains(required, name)})
		return nil
	}
	for _, name := range schemas.keys {
		if err := add(name, schemas.values[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range required {
		if !schemas.has(name) {
			s, ok := o.values["additionalProperties"]
			if !ok {
				s = true
			}
			if s == false {
				return nil, at(path+"/required", "%q is required, and additionalProperties forbids it", name)
			}
			if err := add(name, s); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func requiredNames(o *object, path string) ([]string, error) {
	v, ok := o.values["required"]
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, at(path+"/required", "expected an array of names")
	}
	var out []string
	for _, n := range list {
		name, ok := n.(string)
		if !ok {
			return nil, at(path+"/required", "expected an array of names")
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// extraPair returns the expression of pairs beyond the named properties; nil if none are written.
func (b *schemaBuilder) extraPair(o *object, props []property, path string) (expr, error) {
	v, ok := o.values["additionalProperties"]
	named := o.has("properties") || len(props) > 0
	if v == false || !ok && named {
		return nil, nil
	}
	if !ok {
		v = true
	}
	e, err := b.schema(v, path+"/additionalProperties")
	if err != nil {
		return nil, err
	}
	key := expr(ref("string"))
	if named {
		var names []string
		for _, p := range props {
			names = append(names, p.name)
		}
		if all, ok := o.values["properties"].(*object); ok {
			names = append(names, all.keys...)
		}
		key = seq{literal(`"`), otherThan(names), literal(`"`)}
	}
	return b.rule("extra", seq{key, literal(":"), ref("ws"), e, ref("ws")}), nil
}

// otherThan returns the strings, written without escapes, that are none of the names.
func otherThan(names []string) expr {
	var next []rune
	isName := false
	below := map[rune][]string{}
	for _, n := range names {
		if n == "" {
			isName = true
			continue
		}
		r, size := utf8.DecodeRuneInString(n)
		if _, known := below[r]; !known {
			next = append(next, r)
		}
		below[r] = append(below[r], n[size:])
	}
	taken := class{}
	out := alt{}
	for _, r := range next {
		taken = append(taken, runeSpan{r, r})
		if c := intersect(rawRunes(), span(r, r)); len(c) > 0 {
			out = append(out, seq{c, otherThan(below[r])})
		}
	}
	out = append(out, seq{intersect(rawRunes(), taken.negated()), rep{rawRunes(), 0, -1}})
	if !isName {
		out = append(out, seq{})
	}
	return out
}

func intersect(a, b class) class {
	var out class
	for _, s := range a {
		for _, t := range b {
			if lo, hi := max(s.lo, t.lo), min(s.hi, t.hi); lo <= hi {
				out = append(out, runeSpan{lo, hi})
			}
		}
	}
	return out
}

// members returns what stands between an object's braces. Optional properties may be left out; each suffix of the list is a rule,
// so that the size stays linear.
func (b *schemaBuilder) members(props []property, extra expr, low, high int) expr {
	comma := seq{literal(","), ref("ws")}
	first, more := expr(seq{}), expr(seq{}) // what may follow when nothing, or something, was written
	if extra != nil {
		more = rep{seq{comma, extra}, 0, -1}
		switch {
		case high == 0:
			first = seq{}
		case high > 0:
			first = rep{seq{extra, rep{seq{comma, extra}, 0, high - 1}}, low, 1}
		default:
			first = rep{seq{extra, more}, low, 1}
		}
		more, first = b.rule("more", more), b.rule("first", first)
	}
	for _, p := range slices.Backward(props) {
		here, after := expr(seq{p.pair, more}), expr(seq{comma, p.pair, more})
		if !p.required {
			here, after = alt{here, first}, alt{after, more}
		}
		first, more = b.rule("first", here), b.rule("more", after)
	}
	return first
}

func isInteger(n json.Number) bool {
	r, err := rational(n, "")
	return err == nil && r.IsInt()
}
