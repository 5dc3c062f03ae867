package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FromSchema makes the grammar of JSON texts that a JSON schema (draft 2020-12) accepts. Every text of the grammar is valid; not
// every valid text is in it: properties come in the schema's order, and ones that the schema does not name only where it asks for
// them. Supported are types, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, enum, const,
// $ref within the document, anyOf, oneOf of branches that cannot overlap, allOf, lengths, pattern, format, ranges of numbers and
// multipleOf. What is not supported is an error that names the path within the schema.
func FromSchema(schema []byte) (*Grammar, error) {
	if len(schema) > maxSource {
		return nil, fmt.Errorf("schema: %d bytes; at most %d are accepted", len(schema), maxSource)
	}
	root, err := parseOrdered(schema)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	b := &schemaBuilder{root: root, rules: jsonRules(), refs: map[string]string{}}
	e, err := b.schema(root, "#")
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	b.rules["root"] = e
	g, err := compile(b.rules)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", describe(err, b.refs))
	}
	return g, nil
}

// describe replaces a rule's name in a message by the path it was made of.
func describe(err error, refs map[string]string) error {
	text := err.Error()
	for path, name := range refs {
		text = strings.ReplaceAll(text, strconv.Quote(name), path)
	}
	return errors.New(text)
}

// JSONObject returns the grammar of any JSON object.
func JSONObject() (*Grammar, error) {
	r := jsonRules()
	r["root"] = ref("object")
	return compile(r)
}

// schemaBuilder turns schemas into rules.
type schemaBuilder struct {
	root  any
	rules rules
	refs  map[string]string // rule of a referenced path
	depth int
	made  int
}

// keywords that say nothing about which values are valid, or only to tools.
var annotations = []string{"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description",
	"default", "examples",
	"example", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "strict", "nullable"}

// keywordTypes tells which type a keyword speaks about; without a type, the schema is taken to mean that one.
var keywordTypes = map[string]string{
	"properties": "object", "required": "object", "additionalProperties": "object", "minProperties": "object",
	"maxProperties": "object",
	"items":         "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
	"minLength": "string", "maxLength": "string", "pattern": "string", "format": "string",
	"minimum": "number", "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number", "multipleOf": "number",
}

var combiners = []string{"$ref", "allOf", "anyOf", "oneOf", "enum", "const", "type"}

func at(path string, format string, args ...any) error {
	return fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...))
}

// rule adds a rule of the given expression and returns a reference to it.
func (b *schemaBuilder) rule(kind string, e expr) ref {
	b.made++
	name := fmt.Sprintf("%s-%d", kind, b.made)
	b.rules[name] = e
	return ref(name)
}

// schema returns the expression of a schema's values.
func (b *schemaBuilder) schema(v any, path string) (expr, error) {
	if b.depth++; b.depth > maxNesting {
		return nil, at(path, "schemas are nested more than %d deep", maxNesting)
	}
	defer func() { b.depth-- }()
	switch v := v.(type) {
	case bool:
		if !v {
			return nil, at(path, "false allows no value")
		}
		return ref("value"), nil
	case *object:
		if err := checkKeywords(v, path); err != nil {
			return nil, err
		}
		return b.combined(v, path)
	}
	return nil, at(path, "expected a schema (an object or a boolean)")
}

func checkKeywords(o *object, path string) error {
	for _, k := range o.keys {
		_, known := keywordTypes[k]
		switch {
		case known || slices.Contains(combiners, k) || slices.Contains(annotations, k):
		case k == "uniqueItems" && o.values[k] == false:
		default:
			return at(path, "keyword %q is not supported", k)
		}
	}
	return nil
}

// combined handles the keywords that combine schemas, then the rest.
func (b *schemaBuilder) combined(o *object, path string) (expr, error) {
	if target, ok := o.values["$ref"]; ok {
		return b.reference(o, target, path)
	}
	if parts, ok := o.values["allOf"]; ok {
		merged, err := b.all(o, parts, path)
		if err != nil {
			return nil, err
		}
		return b.schema(merged, path)
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		if parts, ok := o.values[key]; ok {
			return b.any(o, key, parts, path)
		}
	}
	if v, ok := o.values["const"]; ok {
		return constants(o, []any{v}, path+"/const")
	}
	if v, ok := o.values["enum"]; ok {
		list, ok := v.([]any)
		if !ok {
			return nil, at(path+"/enum", "expected an array")
		}
		return constants(o, list, path+"/enum")
	}
	return b.typed(o, path)
}

// without returns o less some keywords and annotations.
func without(o *object, keys ...string) *object {
	out := newObject()
	for _, k := range o.keys {
		if !slices.Contains(keys, k) && !slices.Contains(annotations, k) {
			out.set(k, o.values[k])
		}
	}
	return out
}

func (b *schemaBuilder) reference(o *object, target any, path string) (expr, error) {
	pointer, ok := target.(string)
	if !ok {
		return nil, at(path+"/$ref", "expected a string")
	}
	if rest := without(o, "$ref"); len(rest.keys) > 0 {
		merged, err := b.all(rest, []any{onlyRef(pointer)}, path)
		if err != nil {
			return nil, err
		}
		return b.schema(merged, path)
	}
	if name, ok := b.refs[pointer]; ok {
		return ref(name), nil
	}
	to, err := b.lookup(pointer, path+"/$ref")
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("ref-%d", len(b.refs)+1)
	b.refs[pointer] = name
	e, err := b.schema(to, pointer)
	if err != nil {
		return nil, err
	}
	b.rules[name] = e
	return ref(name), nil
}

func onlyRef(pointer string) *object {
	o := newObject()
	o.set("$ref", pointer)
	return o
}

// lookup follows a JSON pointer (RFC 6901) within the document.
func (b *schemaBuilder) lookup(pointer, path string) (any, error) {
	rest, ok := strings.CutPrefix(pointer, "#")
	if !ok || rest != "" && rest[0] != '/' {
		return nil, at(path, "%q is not a reference within this schema, like %q", pointer, "#/$defs/name")
	}
	v := b.root
	if rest == "" {
		return v, nil
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, key := range strings.Split(rest[1:], "/") {
		key = unescape.Replace(key)
		switch in := v.(type) {
		case *object:
			v, ok = in.values[key]
		case []any:
			i, err := strconv.Atoi(key)
			if ok = err == nil && 0 <= i && i < len(in); ok {
				v = in[i]
			}
		default:
			ok = false
		}
		if !ok {
			return nil, at(path, "%q leads nowhere in this schema", pointer)
		}
	}
	return v, nil
}

// any returns the alternatives of anyOf or oneOf, each with o's other keywords.
func (b *schemaBuilder) any(o *object, key string, parts any, path string) (expr, error) {
	list, ok := parts.([]any)
	if !ok || len(list) == 0 {
		return nil, at(path+"/"+key, "expected an array of schemas")
	}
	base := without(o, key)
	if key == "oneOf" {
		if err := b.checkDisjoint(list, path+"/oneOf"); err != nil {
			return nil, err
		}
	}
	var out alt
	for i, part := range list {
		sub := fmt.Sprintf("%s/%s/%d", path, key, i)
		if part == false {
			continue
		}
		if len(base.keys) > 0 {
			merged, err := b.all(base, []any{part}, sub)
			if err != nil {
				return nil, err
			}
			part = merged
		}
		e, err := b.schema(part, sub)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// constants returns the alternatives of enum or const: those of o's types.
func constants(o *object, list []any, path string) (expr, error) {
	for _, k := range without(o, "type", "enum", "const").keys {
		return nil, at(path, "together with %q is not supported", k)
	}
	types, err := typesOf(o, path)
	if err != nil {
		return nil, err
	}
	var out alt
	for i, v := range list {
		if len(types) > 0 && !slices.ContainsFunc(types, func(t string) bool { return isOfType(v, t) }) {
			continue
		}
		text, err := compact(v)
		if err != nil {
			return nil, at(fmt.Sprintf("%s/%d", path, i), "%w", err)
		}
		out = append(out, literal(text))
	}
	if len(out) == 0 {
		return nil, at(path, "allows no value")
	}
	return out, nil
}

// typesOf returns the types that o names; none if it names none.
func typesOf(o *object, path string) ([]string, error) {
	v, ok := o.values["type"]
	if !ok {
		return nil, nil
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	var out []string
	for _, t := range list {
		name, ok := t.(string)
		if !ok || !slices.Contains(typeNames, name) {
			return nil, at(path+"/type", "expected one of %s", strings.Join(typeNames, ", "))
		}
		out = append(out, name)
	}
	if o.values["nullable"] == true { // OpenAPI 3.0
		out = append(out, "null")
	}
	return out, nil
}

var typeNames = []string{"object", "array", "string", "number", "integer", "boolean", "null"}

func isOfType(v any, name string) bool {
	switch v := v.(type) {
	case *object:
		return name == "object"
	case []any:
		return name == "array"
	case string:
		return name == "string"
	case json.Number:
		return name == "number" || name == "integer" && isInteger(v)
	case bool:
		return name == "boolean"
	}
	return name == "null"
}

// typed returns the expression of a schema without combining keywords.
func (b *schemaBuilder) typed(o *object, path string) (expr, error) {
	types, err := typesOf(o, path)
	if err != nil {
		return nil, err
	}
	if len(types) == 0 {
		types = impliedTypes(o)
	}
	if len(types) == 0 {
		return ref("value"), nil
	}
	var out alt
	for _, t := range types {
		var e expr
		switch t {
		case "object":
			e, err = b.object(o, path)
		case "array":
			e, err = b.array(o, path)
		case "string":
			e, err = b.string(o, path)
		case "number", "integer":
			e, err = number(o, t == "integer", path)
		case "boolean":
			e = alt{literal("true"), literal("false")}
		case "null":
			e = literal("null")
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

func impliedTypes(o *object) []string {
	var out []string
	for _, k := range o.keys {
		if t := keywordTypes[k]; t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// count returns keyword k as a count, or otherwise if it is absent.
func count(o *object, k string, otherwise int, path string) (int, error) {
	v, ok := o.values[k]
	if !ok {
		return otherwise, nil
	}
	n, ok := v.(json.Number)
	if ok {
		if c, err := strconv.Atoi(n.String()); err == nil && 0 <= c && c <= maxRepeat {
			return c, nil
		}
	}
	return 0, at(path+"/"+k, "expected a whole number from 0 to %d", maxRepeat)
}
