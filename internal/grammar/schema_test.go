package grammar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testTokens is a vocabulary in the manner of byte-level ones: all bytes, and pieces of JSON, words and characters in several
// bytes.
func testTokens() (*Vocabulary, [][]byte) {
	var texts [][]byte
	for b := range 256 {
		texts = append(texts, []byte{byte(b)})
	}
	for _, s := range strings.Fields(`{" "} "}] ": ":" "," ], }, [] {} [[ ]] true false null tru fals 12 345 00 -1 0. .5 1e e+ E- \" \\ \n \u00 \ud8 name age
		"name "id "type the quick été 漢字 😀 a" b", c": "]} abc xyz foo bar 2024- T1 @ex .com ://`) {
		texts = append(texts, []byte(s))
	}
	for _, s := range []string{", ", ": ", `", "`, `": "`, "\n  ", "\n", " the", "  ", "\xe6\xbc", "\xf0\x9f"} {
		texts = append(texts, []byte(s))
	}
	texts = append(texts, nil, []byte("</s>"))
	return NewVocabulary(texts, []int32{int32(len(texts) - 1)}), texts
}

// generate writes a text that c allows, token by token; after long tokens it takes the shortest way to an end.
func generate(t testing.TB, c *Constraint, texts [][]byte, rng *rand.Rand, long int) []byte {
	p, out := c.Start(), []byte(nil)
	mask := make([]uint64, words(c.v.Size()))
	for range long {
		if p.MustEnd() {
			return out
		}
		require.NoError(t, c.Mask(p, mask))
		id, ok := choose(mask, texts, rng)
		require.True(t, ok, "no token may follow %q", out)
		next, err := c.Accept(p, id)
		require.NoError(t, err, "after %q, token %q", out, texts[id])
		if int(id) == len(texts)-1 {
			return out
		}
		p, out = next, append(out, texts[id]...)
	}
	rest, ok := shortest(c, p)
	require.True(t, ok, "no end after %q", out)
	return append(out, rest...)
}

// shortest returns the shortest text that leads from p to an end: at every byte, the one after which least is left.
func shortest(c *Constraint, p Position) ([]byte, bool) {
	left := bytesLeft(c.m.g)
	distance := func(s *state) int {
		if s.ended {
			return 0
		}
		best := 1 << 30
		for _, t := range s.threads {
			d := left[t.at]
			for f := t.up; f != nil; f = f.up {
				d += left[f.at]
			}
			best = min(best, d)
		}
		return best
	}
	var out []byte
	for s := p.s; !s.ended; {
		near, by := s, 0
		for b := range 256 {
			if to := c.m.step(s, byte(b)); to != dead && distance(to) < distance(near) {
				near, by = to, b
			}
		}
		if near == s {
			return nil, false
		}
		s, out = near, append(out, byte(by))
	}
	return out, true
}

// bytesLeft returns for every node how many bytes its rule's end is away, at least.
func bytesLeft(g *Grammar) []int {
	left := make([]int, len(g.nodes))
	for i := range left {
		left[i] = 1 << 20
	}
	for changed := true; changed; {
		changed = false
		for i := range slices.Backward(g.nodes) {
			n, best := &g.nodes[i], left[i]
			if n.end {
				best = 0
			}
			for _, e := range n.edges {
				best = min(best, 1+left[e.to])
			}
			for _, to := range n.free {
				best = min(best, left[to])
			}
			for _, k := range n.calls {
				best = min(best, left[k.start]+left[k.back])
			}
			if best < left[i] {
				left[i], changed = best, true
			}
		}
	}
	return left
}

func choose(mask []uint64, texts [][]byte, rng *rand.Rand) (int32, bool) {
	var ids []int32
	for id := range texts {
		if mask[id/64]>>(id%64)&1 != 0 {
			ids = append(ids, int32(id))
		}
	}
	if len(ids) == 0 {
		return 0, false
	}
	return ids[rng.IntN(len(ids))], true
}

func validator(t testing.TB, schema string) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	require.NoError(t, err, schema)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	require.NoError(t, c.AddResource("schema.json", doc))
	s, err := c.Compile("schema.json")
	require.NoError(t, err, schema)
	return s
}

func checkOutputs(t *testing.T, schema string, runs int) {
	v, texts := testTokens()
	g, err := FromSchema([]byte(schema))
	require.NoError(t, err, schema)
	c, valid := NewConstraint(g, v), validator(t, schema)
	for run := range runs {
		out := generate(t, c, texts, rand.New(rand.NewPCG(uint64(run), 1)), 10+40*run)
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(out))
		require.NoError(t, err, "%s: %s", schema, out)
		require.NoError(t, valid.Validate(value), "%s: %s", schema, out)
	}
}

var schemas = []string{
	`true`, `{}`, `{"type":"object"}`, `{"type":"array"}`, `{"type":"string"}`, `{"type":"number"}`, `{"type":"integer"}`,
	`{"type":"boolean"}`, `{"type":"null"}`,
	`{"type":["string","null"]}`, `{"type":["integer","boolean","array"]}`,
	`{"const":"x"}`, `{"const":{"a":[1,2.50,null]}}`, `{"enum":["red","green",3,null,true,{"a":1}]}`,
	`{"type":"string","enum":["a",1,"b\"c"]}`,
	`{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],` +
		`"additionalProperties":false}`,
	`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"null"}},"additionalProperties":false}`,
	`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["b"],` +
		`"additionalProperties":{"type":"boolean"}}`,
	`{"type":"object","properties":{"name":{"type":"integer"},"names":{"type":"null"}},"additionalProperties":{"type":"string"}}`,
	`{"type":"object","properties":{"":{"type":"integer"},"é\"":{"type":"integer"}},"additionalProperties":{"type":"string"}}`,
	`{"type":"object","additionalProperties":{"type":"integer"},"maxProperties":3}`, `{"type":"object","minProperties":1}`,
	`{"type":"object","maxProperties":0}`,
	`{"type":"object","required":["x","y"]}`, `{"type":"object","required":["x"],"additionalProperties":{"type":"integer"}}`,
	`{"type":"object","properties":{"a":false,"b":true}}`, `{"properties":{"a":{"type":"integer"}}}`,
	`{"type":"array","items":{"type":"integer"}}`, `{"type":"array","items":{"type":"integer"},"minItems":2}`,
	`{"type":"array","items":{"type":"integer"},"maxItems":2}`,
	`{"type":"array","items":{"type":"boolean"},"minItems":3,"maxItems":3}`, `{"type":"array","items":false}`,
	`{"type":"array","maxItems":0}`,
	`{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}]}`,
	`{"type":"array","prefixItems":[{"type":"string"}],"items":{"type":"null"},"minItems":2,"maxItems":4}`,
	`{"type":"array","prefixItems":[{"type":"string"},{"type":"null"}],"items":false}`,
	`{"type":"array","prefixItems":[{"type":"string"},{"type":"null"}],"maxItems":1}`,
	`{"type":"string","minLength":3}`, `{"type":"string","maxLength":3}`, `{"type":"string","minLength":2,"maxLength":5}`,
	`{"type":"string","maxLength":0}`,
	`{"type":"string","pattern":"^[a-z]+$"}`, `{"type":"string","pattern":"abc"}`, `{"type":"string","pattern":"^a"}`,
	`{"type":"string","pattern":"z$"}`, `{"type":"string","pattern":"^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$"}`,
	`{"type":"string","pattern":"^\\d{4}$|^x+$"}`, `{"type":"string","pattern":"^[a-z]+$","minLength":3,"maxLength":6}`,
	`{"type":"string","pattern":"(?i)^hello \"w\\\\orld\"$"}`, `{"type":"string","pattern":"^.{2,4}$"}`,
	`{"type":"string","pattern":"^(a|b*)*c$","minLength":4}`, `{"type":"string","pattern":"^[^a-z\"]*$","maxLength":9}`,
	`{"type":"string","pattern":"^\\S+\\s\\w$"}`,
	`{"type":"string","format":"date"}`, `{"type":"string","format":"date-time"}`, `{"type":"string","format":"time"}`,
	`{"type":"string","format":"uuid"}`, `{"type":"string","format":"email"}`,
	`{"type":"string","format":"ipv4"}`, `{"type":"string","format":"ipv6"}`, `{"type":"string","format":"hostname"}`,
	`{"type":"string","format":"duration"}`, `{"type":"string","format":"uri"}`, `{"type":"string","format":"no such"}`,
	`{"type":"integer","minimum":0}`, `{"type":"integer","minimum":-7,"maximum":13}`,
	`{"type":"integer","exclusiveMinimum":99,"exclusiveMaximum":1001}`, `{"type":"integer","maximum":-5}`,
	`{"type":"integer","minimum":2.5,"maximum":3.5}`,
	`{"type":"integer","minimum":-1000,"maximum":-37}`, `{"type":"integer","minimum":1234,"maximum":98765}`,
	`{"type":"integer","minimum":5,"maximum":5}`, `{"type":"integer","multipleOf":7}`,
	`{"type":"integer","multipleOf":5,"minimum":-3,"maximum":52}`,
	`{"type":"number","minimum":0,"maximum":1}`, `{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1}`,
	`{"type":"number","minimum":-1.5,"maximum":2.25}`, `{"type":"number","minimum":1e-3,"maximum":1e3}`,
	`{"type":"number","exclusiveMaximum":-0.125}`,
	`{"type":"number","minimum":3.14,"maximum":3.14}`, `{"type":"number","minimum":3.14,"maximum":3.15}`,
	`{"type":"number","multipleOf":0.01}`, `{"type":"number","multipleOf":0.1,"minimum":0.3,"maximum":10}`,
	`{"type":"number","multipleOf":1}`, `{"type":"number","minimum":0,"exclusiveMinimum":0}`,
	`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `{"type":"object","anyOf":[{"required":["a"]},{"required":["b"]}]}`,
	`{"oneOf":[{"type":"string"},{"type":"number"}]}`,
	`{"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"v":{"type":"integer"}},"required":["k","v"]},{"type":"object",` +
		`"properties":{"k":{"const":"b"},"w":{"type":"null"}},"required":["k"]}]}`,
	`{"allOf":[{"type":"object","properties":{"a":{"type":"string"}}},{"properties":{"b":{"type":"null"}},` +
		`"required":["a","b"]}]}`, `{"allOf":[{"minimum":3},{"maximum":9},{"type":"integer"}]}`,
	`{"allOf":[{"properties":{"a":{"type":"number","minimum":2}}},{"properties":{"a":{"type":"integer","maximum":4}},` +
		`"required":["a"]}]}`,
	`{"$defs":{"p":{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]}},"type":"array",` +
		`"items":{"$ref":"#/$defs/p"},"minItems":1}`,
	`{"$defs":{"tree":{"type":"object","properties":{"v":{"type":"integer"},"kids":{"type":"array",` +
		`"items":{"$ref":"#/$defs/tree"}}},"required":["v","kids"],"additionalProperties":false}},"$ref":"#/$defs/tree"}`,
	`{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v",` +
		`"next"],"additionalProperties":false}`,
	`{"definitions":{"a/b":{"type":"string"},"c~d":{"type":"null"}},"type":"array","prefixItems":[{"$ref":"#/definitions/a~1b"},` +
		`{"$ref":"#/definitions/c~0d"}]}`,
	`{"$defs":{"n":{"type":"integer","minimum":0}},"$ref":"#/$defs/n","maximum":10,"description":"both"}`,
	`{"type":"string","title":"t","default":"d","examples":[1],"$comment":"c"}`,
}

func TestOutputsAreValid(t *testing.T) {
	for _, s := range schemas {
		checkOutputs(t, s, 8)
	}
}

// randomSchema composes a schema of the supported keywords.
func randomSchema(rng *rand.Rand, depth int) map[string]any {
	kinds := []string{"string", "integer", "number", "boolean", "null", "enum", "length", "range", "pattern", "decimal"}
	if depth > 0 {
		kinds = append(kinds, "object", "object", "object", "array", "array", "tuple", "anyOf", "map")
	}
	sub := func() map[string]any { return randomSchema(rng, depth-1) }
	switch kind := kinds[rng.IntN(len(kinds))]; kind {
	case "enum":
		return map[string]any{"enum": []any{"a", rng.IntN(100), nil, fmt.Sprint("x", rng.IntN(9)), []any{true}}}
	case "length":
		return map[string]any{"type": "string", "minLength": rng.IntN(4), "maxLength": 4 + rng.IntN(5)}
	case "range":
		low := rng.IntN(2000) - 1000
		return map[string]any{"type": "integer", "minimum": low, "exclusiveMaximum": low + 1 + rng.IntN(3000)}
	case "decimal":
		low := float64(rng.IntN(4000)-2000) / 64
		return map[string]any{"type": "number", "exclusiveMinimum": low, "maximum": low + float64(1+rng.IntN(500))/128}
	case "pattern":
		patterns := []string{"^[A-Z]{2}-[0-9]+$", "b+", "^(yes|no|maybe)$", "^[^ ]*$", "x.y$", `^\w+@\w+$`}
		return map[string]any{"type": "string", "pattern": patterns[rng.IntN(len(patterns))]}
	case "array":
		low := rng.IntN(3)
		return map[string]any{"type": "array", "items": sub(), "minItems": low, "maxItems": low + rng.IntN(3)}
	case "tuple":
		return map[string]any{"type": "array", "prefixItems": []any{sub(), sub()}, "items": rng.IntN(2) == 0}
	case "anyOf":
		return map[string]any{"anyOf": []any{sub(), sub()}}
	case "map":
		return map[string]any{"type": "object", "additionalProperties": sub()}
	case "object":
		props, required := map[string]any{}, []any{}
		for i := range 1 + rng.IntN(4) {
			name := fmt.Sprint([]string{"a", "name", "é", "x y"}[rng.IntN(4)], i)
			props[name] = sub()
			if rng.IntN(2) == 0 {
				required = append(required, name)
			}
		}
		o := map[string]any{"type": "object", "properties": props, "required": required}
		switch rng.IntN(3) {
		case 0:
			o["additionalProperties"] = false
		case 1:
			o["additionalProperties"] = sub()
		}
		return o
	default:
		return map[string]any{"type": kind}
	}
}

func TestOutputsOfRandomSchemasAreValid(t *testing.T) {
	for seed := range uint64(300) {
		s, err := json.Marshal(randomSchema(rand.New(rand.NewPCG(seed, 7)), 3))
		require.NoError(t, err)
		checkOutputs(t, string(s), 3)
	}
}

// Texts that must be in the grammar, and ones that must not.
func TestWhichTextsASchemaAllows(t *testing.T) {
	person := `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150}},` +
		`"required":["name"],"additionalProperties":false}`
	cases := []struct {
		schema   string
		good, no []string
	}{
		{person, []string{`{"name":"x"}`, `{"name": "x", "age": 150}`, "{\n  \"name\": \"\\u00e9\",\n  \"age\": 0\n}"},
			[]string{`{}`, `{"age":1}`, `{"name":"x","age":151}`, `{"name":"x","age":007}`, `{"name":"x",}`, `{"name":"x","more":1}`,
				`{"name":"\ud800"}`}},
		{`{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}`, []string{"-1.5", "-1.50", "0", "2.2499", "2", "-0.1"},
			[]string{"-1.51", "2.25", "2.250", "3", "-2", "00"}},
		{`{"type":"integer","multipleOf":7}`, []string{"0", "7", "-14", "700"}, []string{"8", "-1", "07"}},
		{`{"type":"string","pattern":"b"}`, []string{`"b"`, `"abc"`, `"\nb"`}, []string{`"a"`, `""`}},
		{`{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"a\n"`, `"漢😀x"`, `"\ud83d\ude00x"`},
			[]string{`"a"`, `"abcd"`}},
		{`{"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"integer"}}`,
			[]string{`{"a":1}`, `{"abc":1}`, `{"ab":null,"b":2}`, `{"":3}`}, []string{`{"ab":1}`, `{"\u0061b":1}`}},
	}
	v, _ := testTokens()
	for _, c := range cases {
		g, err := FromSchema([]byte(c.schema))
		require.NoError(t, err)
		k := NewConstraint(g, v)
		for _, text := range c.good {
			p, err := k.AcceptText(k.Start(), []byte(text))
			assert.True(t, err == nil && p.MayEnd(), "%s must allow %s", c.schema, text)
		}
		for _, text := range c.no {
			p, err := k.AcceptText(k.Start(), []byte(text))
			assert.False(t, err == nil && p.MayEnd(), "%s must not allow %s", c.schema, text)
		}
	}
}

func TestSchemaErrorsNameThePath(t *testing.T) {
	deep := strings.Repeat(`{"items":`, 300) + `{}` + strings.Repeat(`}`, 300)
	for schema, want := range map[string]string{
		`{`: "not JSON", `3`: "#: expected a schema", `false`: "allows no value", `{"type":"strin"}`: "#/type",
		`{"properties":{"a":{"type":7}}}`: "#/properties/a/type", `{"not":{}}`: `"not" is not supported`,
		`{"properties":{"a":{"if":{}}}}`: `#/properties/a: keyword "if"`,
		`{"$ref":"#/$defs/x"}`:           "leads nowhere", `{"$ref":"http://x/y"}`: "not a reference within",
		`{"$ref":"#"}`:     "matches no finite text",
		`{"minItems":1e9}`: "#/minItems", `{"minItems":3,"maxItems":2}`: "minItems is above", `{"minimum":"3"}`: "#/minimum",
		`{"minimum":3,"maximum":2}`: "above the maximum",
		`{"minimum":1e99999}`:       "out of range", `{"type":"integer","multipleOf":0}`: "#/multipleOf",
		`{"type":"integer","multipleOf":1000003}`: "#/multipleOf",
		`{"type":"string","pattern":"("}`:         "#/pattern", `{"type":"string","pattern":"\\bx"}`: "#/pattern",
		`{"type":"string","pattern":"(?=x)"}`: "#/pattern", `{"enum":[]}`: "#/enum: allows no value",
		`{"oneOf":[{"type":"number"},{"type":"integer"}]}`: "#/oneOf", `{"anyOf":[]}`: "#/anyOf",
		`{"type":"object","required":"a"}`:                                           "#/required",
		`{"type":"string","maxLength":9000,"pattern":"^(abcdefgh|ijklmnop){1,90}$"}`: "too large", `{"allOf":[{"$ref":"#"}]}`: "circle",
		`{"type":"object","required":["a"],"additionalProperties":false}`: "additionalProperties forbids", deep: "nested more than",
	} {
		_, err := FromSchema([]byte(schema))
		if assert.Error(t, err, schema) {
			assert.Contains(t, err.Error(), want, schema)
		}
	}
}

func FuzzSchema(f *testing.F) {
	for _, s := range schemas {
		f.Add(s)
	}
	v, texts := testTokens()
	f.Fuzz(func(t *testing.T, schema string) {
		g, err := FromSchema([]byte(schema))
		if err != nil || len(g.nodes) > 5000 {
			return
		}
		walkRandomly(t, g, v, texts)
	})
}

// walkRandomly takes some tokens that masks allow: each must be accepted.
func walkRandomly(t *testing.T, g *Grammar, v *Vocabulary, texts [][]byte) {
	c := NewConstraint(g, v)
	mask := make([]uint64, words(v.Size()))
	p := c.Start()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		require.NoError(t, c.Mask(p, mask))
		id, ok := choose(mask, texts, rng)
		require.True(t, ok)
		if int(id) == len(texts)-1 {
			return
		}
		var err error
		p, err = c.Accept(p, id)
		require.NoError(t, err)
	}
}
