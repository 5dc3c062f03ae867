package grammar

import (
	"fmt"
	"reflect"
	"slices"
)

// all returns base and every part of allOf as one schema.
func (b *schemaBuilder) all(base *object, parts any, path string) (any, error) {
	list, ok := parts.([]any)
	if !ok {
		return nil, at(path+"/allOf", "expected an array of schemas")
	}
	out := without(base, "allOf")
	for i, part := range list {
		sub := fmt.Sprintf("%s/allOf/%d", path, i)
		flat, err := b.flat(part, sub)
		if err != nil {
			return nil, err
		}
		if flat == nil {
			continue // true
		}
		if err := merge(out, flat, sub); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// flat returns a schema with its references and its own allOf resolved; nil for the schema true.
func (b *schemaBuilder) flat(v any, path string) (*object, error) {
	if b.depth++; b.depth > maxNesting {
		return nil, at(path, "references lead in a circle")
	}
	defer func() { b.depth-- }()
	if v == true {
		return nil, nil
	}
	o, ok := v.(*object)
	if !ok {
		return nil, at(path, "expected a schema that allows values")
	}
	if err := checkKeywords(o, path); err != nil {
		return nil, err
	}
	if pointer, ok := o.values["$ref"].(string); ok {
		to, err := b.lookup(pointer, path+"/$ref")
		if err != nil {
			return nil, err
		}
		flat, err := b.flat(to, pointer)
		if err != nil {
			return nil, err
		}
		o = without(o, "$ref")
		if flat != nil {
			if err := merge(o, flat, path); err != nil {
				return nil, err
			}
		}
	}
	if parts, ok := o.values["allOf"]; ok {
		merged, err := b.all(o, parts, path)
		if err != nil {
			return nil, err
		}
		return merged.(*object), nil // all returns nothing else
	}
	return without(o), nil
}

// merge adds the keywords of from to o, both of which must hold.
func merge(o, from *object, path string) error {
	for _, k := range from.keys {
		v := from.values[k]
		old, twice := o.values[k]
		if !twice || reflect.DeepEqual(old, v) {
			o.set(k, v)
			continue
		}
		both, err := mergeKeyword(k, old, v, path)
		if err != nil {
			return err
		}
		o.set(k, both)
	}
	return nil
}

func mergeKeyword(k string, a, b any, path string) (any, error) {
	switch k {
	case "properties":
		return mergeProperties(a, b, path+"/properties")
	case "required":
		x, _ := a.([]any)
		y, _ := b.([]any)
		return append(slices.Clone(x), y...), nil
	case "minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties":
		return further(a, b, 1, path+"/"+k)
	case "maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties":
		return further(a, b, -1, path+"/"+k)
	case "type":
		return commonTypes(a, b, path)
	}
	return nil, at(path+"/"+k, "stands twice in what must hold together, which is not supported")
}

func mergeProperties(a, b any, path string) (any, error) {
	x, ok := a.(*object)
	y, ok2 := b.(*object)
	if !ok || !ok2 {
		return nil, at(path, "expected an object")
	}
	out := x.copy()
	for _, name := range y.keys {
		v := y.values[name]
		if old, twice := out.values[name]; twice && !reflect.DeepEqual(old, v) {
			both := newObject()
			both.set("allOf", []any{old, v})
			v = both
		}
		out.set(name, v)
	}
	return out, nil
}

// further returns the larger (sign 1) or smaller (sign -1) of two numbers.
func further(a, b any, sign int, path string) (any, error) {
	x, err := rational(a, path)
	if err != nil {
		return nil, err
	}
	y, err := rational(b, path)
	if err != nil {
		return nil, err
	}
	if x.Cmp(y)*sign >= 0 {
		return a, nil
	}
	return b, nil
}

func commonTypes(a, b any, path string) (any, error) {
	wrap := func(v any) *object { o := newObject(); o.set("type", v); return o }
	x, err := typesOf(wrap(a), path)
	if err != nil {
		return nil, err
	}
	y, err := typesOf(wrap(b), path)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, t := range x {
		switch {
		case slices.Contains(y, t), t == "integer" && slices.Contains(y, "number"):
			out = append(out, t)
		case t == "number" && slices.Contains(y, "integer"):
			out = append(out, "integer")
		}
	}
	if len(out) == 0 {
		return nil, at(path+"/type", "allows no value together with what else must hold")
	}
	return out, nil
}

// checkDisjoint refuses oneOf where a value could fit two branches, which makes it invalid.
func (b *schemaBuilder) checkDisjoint(list []any, path string) error {
	for i := range list {
		for j := range i {
			x, err := b.flat(list[i], fmt.Sprintf("%s/%d", path, i))
			if err != nil {
				return err
			}
			y, err := b.flat(list[j], fmt.Sprintf("%s/%d", path, j))
			if err != nil {
				return err
			}
			if x == nil || y == nil || !disjoint(x, y) {
				return at(path, "a value could fit both branch %d and branch %d; use anyOf, or give each a type of its own "+
					"or a required property with a const of its own", j, i)
			}
		}
	}
	return nil
}

// disjoint reports whether no value fits both schemas, as far as types, constants and required properties tell.
func disjoint(x, y *object) bool {
	a, b := constantsOf(x), constantsOf(y)
	if a != nil && b != nil {
		return !slices.ContainsFunc(a, func(v any) bool {
			return slices.ContainsFunc(b, func(w any) bool { return equalValues(v, w) })
		})
	}
	s, err := typesOf(x, "")
	t, err2 := typesOf(y, "")
	if err != nil || err2 != nil {
		return false
	}
	s, t = typesOrConstants(s, a), typesOrConstants(t, b)
	if len(s) > 0 && len(t) > 0 && !overlap(s, t) {
		return true
	}
	objects := []string{"object"}
	return slices.Equal(s, objects) && slices.Equal(t, objects) && taggedApart(x, y)
}

// taggedApart reports whether a property that both objects require has different constants in them.
func taggedApart(x, y *object) bool {
	p, ok := x.values["properties"].(*object)
	q, ok2 := y.values["properties"].(*object)
	if !ok || !ok2 {
		return false
	}
	return slices.ContainsFunc(p.keys, func(name string) bool {
		v, ok := p.values[name].(*object)
		w, ok2 := q.values[name].(*object)
		return ok && ok2 && requires(x, name) && requires(y, name) && constantsOf(v) != nil && constantsOf(w) != nil && disjoint(v, w)
	})
}

func requires(o *object, name string) bool {
	list, _ := o.values["required"].([]any)
	return slices.Contains(list, any(name))
}

// constantsOf returns the values of const or enum, nil if there is neither.
func constantsOf(o *object) []any {
	if v, ok := o.values["const"]; ok {
		return []any{v}
	}
	list, _ := o.values["enum"].([]any)
	return list
}

func typesOrConstants(types []string, constants []any) []string {
	for _, v := range constants {
		for _, t := range typeNames {
			if isOfType(v, t) && !slices.Contains(types, t) {
				types = append(types, t)
			}
		}
	}
	return types
}

func overlap(s, t []string) bool {
	return slices.ContainsFunc(s, func(a string) bool {
		return slices.ContainsFunc(t, func(b string) bool {
			return a == b || a == "integer" && b == "number" || a == "number" && b == "integer"
		})
	})
}

func equalValues(a, b any) bool {
	x, err := rational(a, "")
	y, err2 := rational(b, "")
	if err == nil && err2 == nil {
		return x.Cmp(y) == 0
	}
	return reflect.DeepEqual(a, b)
}
