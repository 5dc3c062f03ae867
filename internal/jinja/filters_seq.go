package jinja

import (
	"slices"
	"sort"
	"strconv"
	"strings"
)

func lengthFilter(e *interp, v Value, a *args) Value {
	n, ok := length(v)
	if !ok {
		return e.fail("a value of type %s has no length", typeName(v))
	}
	if s, isText := textOf(v); isText {
		e.scan(len(s))
	}
	return int64(n)
}

func listFilter(e *interp, v Value, a *args) Value {
	return e.newList(slices.Clone(e.iterate(v)))
}

func itemsFilter(e *interp, v Value, a *args) Value {
	if isUndefined(v) {
		return &iterator{}
	}
	d, ok := v.(*Dict)
	if !ok {
		return e.fail("items: expected a dict, got a value of type %s", typeName(v))
	}
	return &iterator{e.pairs(d)}
}

func endFilter(name string, last bool) filterFunc {
	return func(e *interp, v Value, a *args) Value {
		if it, ok := v.(*iterator); ok && !last && len(it.items) > 0 {
			first := it.items[0]
			it.items = it.items[1:]
			return first
		}
		if _, ok := v.(*iterator); ok && last {
			return e.fail("last: a value of type generator cannot be reversed")
		}
		items := e.iterate(v)
		if len(items) == 0 {
			return &undefined{"no " + name + " item, the sequence was empty"}
		}
		if last {
			return items[len(items)-1]
		}
		return items[0]
	}
}

func reverseFilter(e *interp, v Value, a *args) Value {
	if s, ok := textOf(v); ok {
		if !e.charge(5 * len(s)) {
			return &undefined{}
		}
		return string(reversed([]rune(s)))
	}
	return &iterator{reversed(e.newList(slices.Clone(e.iterate(v))).Items)}
}

func joinFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "join", 0, "d", "attribute")
	items := e.iterate(v)
	if given(b[1]) && b[1] != nil {
		items = slices.Clone(items)
		for i := range items {
			items[i] = e.attributePath(items[i], b[1])
		}
	}
	sep := ""
	if given(b[0]) {
		sep = e.str(b[0])
	}
	return e.joined(items, sep)
}

// attributePath follows an attribute with dots in it; parts that are numbers are indexes.
func (e *interp) attributePath(v Value, path Value) Value {
	s, ok := textOf(path)
	if !ok {
		return e.item(v, path)
	}
	for _, part := range strings.Split(s, ".") {
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			v = e.item(v, n)
		} else {
			v = e.item(v, part)
		}
		e.step(1)
	}
	return v
}

// mapFilter applies a filter to every item, or looks up an attribute.
func (e *interp) mapFilter(v Value, a *args) Value {
	if !truth(v) {
		return &iterator{}
	}
	out := slices.Clone(e.iterate(v))
	e.charge(valueBytes * len(out))
	if len(a.positional) == 0 {
		b := a.bind(e, "map", 0, "attribute", "default")
		for i := range out {
			out[i] = e.attributePath(out[i], b[0])
			if isUndefined(out[i]) && given(b[1]) && b[1] != nil {
				out[i] = b[1]
			}
		}
		return &iterator{out}
	}
	rest := &args{a.positional[1:], a.names, a.values}
	name := e.text("map", a.positional[0], "")
	for i := range out {
		if e.err != nil || !e.enter() {
			return &undefined{}
		}
		out[i] = e.filter(name, out[i], rest)
		e.leave()
	}
	return &iterator{out}
}

// selectFilter keeps the items, or those with an attribute, that pass or fail a test.
func (e *interp) selectFilter(name string, v Value, a *args, byAttribute, keep bool) Value {
	if !truth(v) {
		return &iterator{}
	}
	positional := a.positional
	var attribute Value
	if byAttribute {
		if len(positional) == 0 {
			return e.fail("%s needs the name of an attribute", name)
		}
		attribute, positional = positional[0], positional[1:]
	}
	test, rest := "", &args{nil, a.names, a.values}
	if len(positional) > 0 {
		test = e.text(name, positional[0], "")
		rest.positional = positional[1:]
	}
	var out []Value
	for _, item := range e.iterate(v) {
		e.step(1)
		x := item
		if byAttribute {
			x = e.attributePath(item, attribute)
		}
		passes := truth(x)
		if test != "" {
			passes = truth(e.test(test, x, rest))
		}
		if e.err != nil {
			return &undefined{}
		}
		if passes == keep && e.charge(valueBytes) {
			out = append(out, item)
		}
	}
	return &iterator{out}
}

// sortKey returns what items are ordered by: a text in lower case unless the case counts.
func (e *interp) sortKey(v Value, caseSensitive bool) Value {
	if s, ok := textOf(v); ok && !caseSensitive {
		e.charge(len(s))
		return strings.ToLower(s)
	}
	return v
}

// sorted returns items in the order of their keys.
func (e *interp) sorted(items, keys []Value, reverse bool) []Value {
	e.charge(3 * valueBytes * len(items))
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool {
		a, b := keys[order[i]], keys[order[j]]
		if e.err != nil {
			return false
		}
		less, ok := e.compare(a, b)
		if !ok {
			e.fail("values of the types %s and %s cannot be ordered", typeName(a), typeName(b))
		}
		return !reverse && less < 0 || reverse && less > 0
	})
	out := make([]Value, len(items))
	for i, at := range order {
		out[i] = items[at]
	}
	return out
}

func sortFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "sort", 0, "reverse", "case_sensitive", "attribute")
	items := e.iterate(v)
	caseSensitive := given(b[1]) && truth(b[1])
	keys := make([]Value, len(items))
	for i, item := range items {
		keys[i] = e.sortKeys(item, b[2], caseSensitive)
	}
	return e.newList(e.sorted(items, keys, given(b[0]) && truth(b[0])))
}

// sortKeys returns the key of an item: itself, or attributes with commas between them.
func (e *interp) sortKeys(item, attributes Value, caseSensitive bool) Value {
	s, ok := textOf(attributes)
	switch {
	case !given(attributes) || attributes == nil:
		return e.sortKey(item, caseSensitive)
	case !ok:
		return e.sortKey(e.item(item, attributes), caseSensitive)
	}
	key := &List{}
	for _, path := range strings.Split(s, ",") {
		key.Items = append(key.Items, e.sortKey(e.attributePath(item, path), caseSensitive))
		e.charge(valueBytes)
	}
	return key
}

func dictsortFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "dictsort", 0, "case_sensitive", "by", "reverse")
	d, ok := v.(*Dict)
	if !ok {
		return e.fail("dictsort: expected a dict, got a value of type %s", typeName(v))
	}
	from := d.keys
	switch e.text("dictsort", b[1], "key") {
	case "key":
	case "value":
		from = d.values
	default:
		return e.fail("dictsort: by must be key or value")
	}
	keys := make([]Value, len(from))
	for i, k := range from {
		keys[i] = e.sortKey(k, given(b[0]) && truth(b[0]))
	}
	return e.newList(e.sorted(e.pairs(d), keys, given(b[2]) && truth(b[2])))
}

func groupbyFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "groupby", 1, "attribute", "default", "case_sensitive")
	items := e.iterate(v)
	keys := make([]Value, len(items))
	real := map[Value]Value{}
	for i, item := range items {
		k := e.attributePath(item, b[0])
		if isUndefined(k) && given(b[1]) && b[1] != nil {
			k = b[1]
		}
		keys[i] = e.sortKey(k, given(b[2]) && truth(b[2]))
		real[item] = k
	}
	if e.err != nil {
		return &undefined{}
	}
	items = e.sorted(items, keys, false)
	keys = e.sorted(keys, keys, false)
	var groups []Value
	for start := 0; start < len(items) && e.err == nil; {
		end := start + 1
		for end < len(items) && e.equal(keys[start], keys[end]) {
			end++
		}
		group := &List{Items: []Value{real[items[start]], e.newList(items[start:end])}, tuple: true, group: true}
		e.charge(4 * valueBytes)
		groups = append(groups, group)
		start = end
	}
	return e.newList(groups)
}

func uniqueFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "unique", 0, "case_sensitive", "attribute")
	seen := map[any]bool{}
	var out []Value
	for _, item := range e.iterate(v) {
		key := item
		if given(b[1]) && b[1] != nil {
			key = e.attributePath(item, b[1])
		}
		h, ok := hashKey(e.sortKey(key, given(b[0]) && truth(b[0])))
		if !ok {
			return e.fail("unique: a value of type %s cannot be looked up", typeName(key))
		}
		if !seen[h] && e.charge(4*valueBytes) {
			seen[h] = true
			out = append(out, item)
		}
	}
	return &iterator{out}
}

func extremeFilter(name string, want int) filterFunc {
	return func(e *interp, v Value, a *args) Value {
		b := a.bind(e, name, 0, "case_sensitive", "attribute")
		var best, bestKey Value = &undefined{"no aggregated item, the sequence was empty"}, nil
		for i, item := range e.iterate(v) {
			x := item
			if given(b[1]) && b[1] != nil {
				x = e.attributePath(item, b[1])
			}
			key := e.sortKey(x, given(b[0]) && truth(b[0]))
			if i > 0 {
				order, ok := e.compare(key, bestKey)
				if !ok {
					return e.fail("%s: values of the types %s and %s cannot be ordered", name, typeName(key), typeName(bestKey))
				}
				if order != want {
					continue
				}
			}
			best, bestKey = item, key
		}
		return best
	}
}

func sumFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "sum", 0, "attribute", "start")
	var total Value = int64(0)
	if given(b[1]) {
		total = b[1]
	}
	if _, ok := textOf(total); ok {
		return e.fail("sum: texts cannot be added up")
	}
	for _, item := range e.iterate(v) {
		if given(b[0]) && b[0] != nil {
			item = e.attributePath(item, b[0])
		}
		if total = e.arithmetic("+", total, item); e.err != nil {
			break
		}
	}
	return total
}

func batchFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "batch", 1, "linecount", "fill_with")
	n := e.integer("batch", b[0], 1)
	if n < 1 {
		return e.fail("batch: the number of items must be positive")
	}
	items := e.iterate(v)
	var out []Value
	for start := 0; start < len(items) && e.err == nil; start += n {
		row := slices.Clone(items[start:min(start+n, len(items))])
		if missing := n - len(row); given(b[1]) && b[1] != nil && missing > 0 && e.charge(valueBytes*missing) {
			for range missing {
				row = append(row, b[1])
			}
		}
		out = append(out, e.newList(row))
	}
	return &iterator{out}
}

func sliceFilter(e *interp, v Value, a *args) Value {
	b := a.bind(e, "slice", 1, "slices", "fill_with")
	n := e.integer("slice", b[0], 1)
	items := e.iterate(v)
	if n < 1 || !e.charge(4*valueBytes*n) {
		return e.fail("slice: the number of slices must be positive")
	}
	size, extra := len(items)/n, len(items)%n
	out := make([]Value, 0, n)
	for start := 0; len(out) < n; {
		end := start + size
		if len(out) < extra {
			end++
		}
		row := slices.Clone(items[start:end])
		if given(b[1]) && b[1] != nil && len(out) >= extra && extra >= 0 {
			row = append(row, b[1])
		}
		out = append(out, e.newList(row))
		start = end
	}
	return &iterator{out}
}
