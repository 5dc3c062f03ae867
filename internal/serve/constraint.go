package serve

import (
	"slices"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// maxConstraints is how many grammars a model keeps with what was computed of them.
const maxConstraints = 16

// vocabulary is a model's tokens for grammars, made when first needed.
type vocabulary struct {
	tokens func() *grammar.Vocabulary

	mu    sync.Mutex
	known []knownGrammar // most recently used last
}

type knownGrammar struct {
	source string
	c      *grammar.Constraint
}

func newVocabulary(t *tokenizer.Tokenizer) *vocabulary {
	return &vocabulary{tokens: sync.OnceValue(func() *grammar.Vocabulary { return grammar.VocabularyOf(t) })}
}

// constraint returns the constraint of a grammar. Requests with the same source share it. source has a prefix that tells kinds
// apart.
func (v *vocabulary) constraint(source string, parse func() (*grammar.Grammar, error)) (*grammar.Constraint, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.IndexFunc(v.known, func(k knownGrammar) bool { return k.source == source }); i >= 0 {
		k := v.known[i]
		v.known = append(slices.Delete(v.known, i, i+1), k)
		return k.c, nil
	}
	g, err := parse()
	if err != nil {
		return nil, err
	}
	k := knownGrammar{source, grammar.NewConstraint(g, v.tokens())}
	if len(v.known) >= maxConstraints {
		v.known = slices.Delete(v.known, 0, 1)
	}
	v.known = append(v.known, k)
	return k.c, nil
}
