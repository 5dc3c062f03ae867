// Package grammar constrains generated text: a JSON schema or a GBNF grammar becomes an automaton over bytes, and the automaton
// tells, for the text so far, which tokens of a vocabulary may come next.
//
// The path of a grammar through this package: GBNF text (gbnf.go) or a schema (schema.go) → expressions (this file) → an
// automaton whose rules call each other (compile.go) → states, made when they are first reached (state.go) → masks of tokens,
// computed by walking a trie of the vocabulary (vocabulary.go, matcher.go).
package grammar

// expr is a node of a grammar as it was written; runes and literals are UTF-8 text.
type expr interface{}

type (
	literal string     // exactly these bytes
	class   []runeSpan // one rune of these spans
	seq     []expr     // one after the other; empty: nothing
	alt     []expr     // one of them; empty: never matches
	rep     struct {   // e, min to max times; max < 0: without limit
		e        expr
		min, max int
	}
	ref string // a rule by its name
)

// runeSpan is the runes lo … hi, both included.
type runeSpan struct{ lo, hi rune }

// rules are the rules of a grammar by name. The text starts with rule "root".
type rules map[string]expr

func opt(e expr) expr { return rep{e, 0, 1} }

func span(lo, hi rune) class { return class{{lo, hi}} }

// negated returns the runes outside of c, surrogates excepted.
func (c class) negated() class {
	inside := c.sorted()
	var out class
	next := rune(0)
	add := func(lo, hi rune) {
		if lo <= hi {
			out = append(out, runeSpan{lo, hi})
		}
	}
	for _, s := range inside {
		add(next, s.lo-1)
		next = max(next, s.hi+1)
	}
	add(next, maxRune)
	return out
}
