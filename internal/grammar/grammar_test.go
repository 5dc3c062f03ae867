package grammar

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGBNF(t *testing.T) {
	cases := []struct {
		grammar  string
		good, no []string
	}{
		{`root ::= "a" "b"?`, []string{"a", "ab"}, []string{"", "b", "abb"}},
		{"root ::= x+ # comment\nx ::= [a-c] | \"(\" root \")\"\n", []string{"a", "abc", "(a(bc))a"}, []string{"", "d", "(a", "()"}},
		{`root ::= [^a-z\n]{2,3}`, []string{"AB", "ÄÖ漢"}, []string{"A", "ABCD", "aB", "A\n"}},
		{`root ::= "\x41\u00e9\U0001F600" .`, []string{"Aé😀x", "Aé😀漢"}, []string{"Aé😀"}},
		{"root ::= (\"x\" |\n  \"y\")* \"z\"", []string{"z", "xyz"}, []string{"x", "zx"}},
		{`root ::= e ("+" e)*
e ::= [0-9]{1,} | "(" root ")"`, []string{"1", "12+(3+4)"}, []string{"1+", "()"}},
		{`root ::= a a
a ::= "" | "x"`, []string{"", "x", "xx"}, []string{"xxx"}},
		{`root ::= [a\]-]{,2}`, []string{"", "a]", "-"}, []string{"b", "aaa"}},
	}
	v, _ := testTokens()
	for _, c := range cases {
		g, err := ParseGBNF(c.grammar)
		require.NoError(t, err, c.grammar)
		k := NewConstraint(g, v)
		for _, text := range c.good {
			p, err := k.AcceptText(k.Start(), []byte(text))
			assert.True(t, err == nil && p.MayEnd(), "%s must allow %q", c.grammar, text)
		}
		for _, text := range c.no {
			p, err := k.AcceptText(k.Start(), []byte(text))
			assert.False(t, err == nil && p.MayEnd(), "%s must not allow %q", c.grammar, text)
		}
	}
}

func TestGBNFErrorsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"": `no rule "root"`, "x ::= \"a\"": `no rule "root"`, "root := \"a\"": `expected "::="`,
		"root ::= \"a": "line 1, column 12", "root ::= [a": "expected ']'",
		"root ::= y": `rule "y" is used`, "root ::= \"a\"\nroot ::= \"b\"": "line 2", "root ::= (\"a\"": "expected )",
		"root ::= \"a\"{3,1}": "{m,n}", "root ::= \"a\"{99999}": "{m,n}",
		"root ::= root \"a\" | \"b\"": "left-recursive", "root ::= x root | \"b\"\nx ::= \"\"": "left-recursive",
		"root ::= \"a\" root": "no finite text", "root ::= \"\\q\"": `unknown escape \q`,
		"root ::= [z-a]": "is empty", "root ::= \"a\" ) ": "expected the end",
		"root ::= " + strings.Repeat("(", 300):           "nested more than",
		"root ::= ((((\"a\"{1000}){1000}){1000}){1000})": "more than 200000 places", "root ::= \"\\ud800\"": "hexadecimal",
	} {
		_, err := ParseGBNF(text)
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), want, text)
		}
	}
}

// A mask has the bits of just those tokens that can be accepted.
func TestMasksAreWhatAcceptAccepts(t *testing.T) {
	v, texts := testTokens()
	grammars := []string{"root ::= x+\nx ::= [a-c]+ | \"(\" root \")\" | \"漢\"", "root ::= (\"a\" | \"ab\" | \"abc\")* \"c\"",
		"root ::= \"\\\"\" [^\"]* \"\\\"\" (\",\" root)?"}
	var all []*Grammar
	for _, text := range grammars {
		g, err := ParseGBNF(text)
		require.NoError(t, err)
		all = append(all, g)
	}
	for _, s := range schemas {
		g, err := FromSchema([]byte(s))
		require.NoError(t, err)
		all = append(all, g)
	}
	for i, g := range all {
		c := NewConstraint(g, v)
		rng := rand.New(rand.NewPCG(uint64(i), 3))
		mask := make([]uint64, words(v.Size()))
		p := c.Start()
		for range 60 {
			require.NoError(t, c.Mask(p, mask))
			for id := range texts {
				_, err := c.Accept(p, int32(id))
				require.Equal(t, err == nil, mask[id/64]>>(id%64)&1 != 0, "grammar %d, token %q", i, texts[id])
			}
			id, ok := choose(mask, texts, rng)
			require.True(t, ok)
			if int(id) == len(texts)-1 {
				break
			}
			var err error
			p, err = c.Accept(p, id)
			require.NoError(t, err)
		}
	}
}

func TestPositionsCanBeGoneBackTo(t *testing.T) {
	g, err := ParseGBNF(`root ::= "(" root ")" | "x"`)
	require.NoError(t, err)
	v, _ := testTokens()
	c := NewConstraint(g, v)
	before, err := c.AcceptText(c.Start(), []byte("(("))
	require.NoError(t, err)
	after, err := c.AcceptText(before, []byte("x))"))
	require.NoError(t, err)
	assert.True(t, after.MustEnd())
	_, err = c.AcceptText(after, []byte(")"))
	assert.ErrorIs(t, err, ErrNotAllowed)
	again, err := c.AcceptText(before, []byte("(x)))"))
	require.NoError(t, err)
	assert.True(t, again.MustEnd())
}

func TestDeepNestingEndsInAnError(t *testing.T) {
	g, err := JSONObject()
	require.NoError(t, err)
	v, _ := testTokens()
	c := NewConstraint(g, v)
	p, err := c.AcceptText(c.Start(), []byte(`{"a":`))
	require.NoError(t, err)
	mask := make([]uint64, words(v.Size()))
	for n := 0; ; n++ {
		next, err := c.AcceptText(p, []byte("["))
		require.NoError(t, c.Mask(p, mask))
		assert.Equal(t, err == nil, mask['['/64]>>('['%64)&1 != 0, "depth %d", n)
		if err != nil {
			assert.Greater(t, n, 100)
			return
		}
		require.Less(t, n, 2*maxDepth)
		p = next
	}
}

// The UTF-8 form of every rune is taken by the span's sequences exactly if the rune is in the span.
func TestClassesTakeTheirRunes(t *testing.T) {
	for _, c := range []class{{{0, maxRune}}, {{'a', 'z'}, {0x80, 0x900}}, {{0xD000, 0xE100}}, {{0xFFF0, 0x10010}},
		{{0x7F, 0x80}, {0x10FFFF, 0x10FFFF}}} {
		spans := c.sequences()
		for r := rune(0); r <= maxRune; r++ {
			if !utf8.ValidRune(r) {
				continue
			}
			in := false
			for _, s := range c {
				in = in || s.lo <= r && r <= s.hi
			}
			require.Equal(t, in, takes(spans, encode(r)), "%x", r)
		}
	}
}

func takes(sequences [][]byteSpan, text []byte) bool {
	for _, s := range sequences {
		ok := len(s) == len(text)
		for i := range s {
			ok = ok && s[i].lo <= text[i] && text[i] <= s[i].hi
		}
		if ok {
			return true
		}
	}
	return false
}

func FuzzGBNF(f *testing.F) {
	f.Add("root ::= x+ # comment\nx ::= [a-c] | \"(\" root \")\"\n")
	f.Add("root ::= [^a-z\\n]{2,3} \"\\x41\" .")
	v, texts := testTokens()
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ParseGBNF(text)
		if err != nil || len(g.nodes) > 5000 {
			return
		}
		walkRandomly(t, g, v, texts)
	})
}

// largeVocabulary has 152,000 tokens of random lower-case words with and without punctuation.
func largeVocabulary() (*Vocabulary, [][]byte) {
	rng := rand.New(rand.NewPCG(5, 6))
	texts := make([][]byte, 0, 152_000)
	for b := range 256 {
		texts = append(texts, []byte{byte(b)})
	}
	ends := []string{"", "", "", "", "", "", `"`, `",`, `":`, `"}`, ".", ",", "(", "\n"}
	for len(texts) < cap(texts)-1 {
		var b []byte
		if rng.IntN(2) == 0 {
			b = append(b, ' ')
		}
		for range 1 + rng.IntN(9) {
			b = append(b, byte('a'+rng.IntN(26)))
		}
		texts = append(texts, append(b, ends[rng.IntN(len(ends))]...))
	}
	texts = append(texts, []byte("</s>"))
	return NewVocabulary(texts, []int32{int32(len(texts) - 1)}), texts
}

// BenchmarkMask measures the cost per token of whole texts in an object of strings, lists and numbers, first uses and the change
// of the logits included.
func BenchmarkMask(b *testing.B) {
	v, texts := largeVocabulary()
	g, err := FromSchema([]byte(`{"type":"object","properties":{"title":{"type":"string"},"tags":{"type":"array",` +
		`"items":{"type":"string"}},` +
		`"year":{"type":"integer"},"note":{"type":"string","maxLength":200},"kind":{"enum":["book","film"]}},"required":["title",` +
		`"tags","year","note","kind"],"additionalProperties":false}`))
	require.NoError(b, err)
	tokens, took, worst := 0, time.Duration(0), time.Duration(0)
	logits := make([]float32, v.Size())
	for b.Loop() {
		m := NewMask(NewConstraint(g, v))
		rng := rand.New(rand.NewPCG(1, 2))
		for n := range 2000 {
			clear(logits)
			start := time.Now()
			m.Mask(logits)
			d := time.Since(start)
			took, worst = took+d, max(worst, d)
			id, ok := choose(m.bits, texts, rng)
			require.True(b, ok)
			if quote := int32('"'); n%25 == 24 && m.bits[quote/64]>>(quote%64)&1 != 0 {
				id = quote
			}
			if int(id) == len(texts)-1 {
				break
			}
			start = time.Now()
			m.Accept(id)
			took += time.Since(start)
			tokens++
		}
	}
	b.ReportMetric(float64(took.Microseconds())/float64(tokens), "µs/token")
	b.ReportMetric(float64(worst.Microseconds()), "worst-µs")
}
