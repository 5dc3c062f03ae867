package tokenizer

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// GGUFVocab holds the tokenizer.ggml.* keys of a GGUF file.
type GGUFVocab struct {
	Model  string    // tokenizer.ggml.model: "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "gemma4" (the same with merges)
	Pre    string    // tokenizer.ggml.pre: names the pre-tokenizer of "gpt2" vocabularies
	Tokens []string  // piece of every id
	Scores []float32 // per id; required for "llama", otherwise may be empty
	Types  []int32   // per id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be empty (all normal)
	Merges []string  // "left right", by rank; only "gpt2" and "gemma4"

	BOS, EOS, UNK, PAD, EOT        int32 // −1: absent
	AddBOS, AddEOS, AddSpacePrefix bool  // where the file has no such key: see GGUFDefaults. AddSpacePrefix means "llama" only
}

// GGUFDefaults returns the values of AddBOS, AddEOS and AddSpacePrefix that a GGUF file without these keys means.
func GGUFDefaults(model, pre string) (addBOS, addEOS, addSpacePrefix bool) {
	switch model {
	case "llama":
		return true, false, true
	case "gemma4":
		return true, false, false
	}
	return preTokenizer(pre).addBOS, false, false
}

// preTokenization is what a tokenizer.ggml.pre name means.
type preTokenization struct {
	rules        []string
	ignoreMerges bool
	addBOS       bool
}

// preTokenizer returns no rules for a name it does not know.
func preTokenizer(pre string) preTokenization {
	switch pre {
	case "", "default":
		return preTokenization{rules: []string{rulePunct, ruleGPT2, ruleDigits, ruleASCII3}}
	case "gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "mellum", "modern-bert", "exaone4", "a.x-4.0",
		"jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "trillion", "granite-docling":
		return preTokenization{rules: []string{ruleGPT2}}
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2":
		return preTokenization{rules: []string{ruleDigit, ruleGPT2}}
	case "qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2", "solar-open", "grok-2":
		return preTokenization{rules: []string{ruleQwen2}}
	case "qwen35":
		return preTokenization{rules: []string{ruleQwen35}}
	case "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano":
		return preTokenization{rules: []string{ruleLlama3}, ignoreMerges: true, addBOS: true}
	case "dbrx", "smaug-bpe", "chatglm-bpe":
		return preTokenization{rules: []string{ruleLlama3}}
	case "glm4", "glm5":
		return preTokenization{rules: []string{ruleLlama3}, ignoreMerges: true}
	case "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2":
		return preTokenization{rules: []string{ruleO200k}}
	case "tekken":
		return preTokenization{rules: []string{ruleTekken}, ignoreMerges: true, addBOS: true}
	}
	return preTokenization{}
}

// FromGGUF makes a tokenizer from a GGUF vocabulary. A model or pre-tokenizer that is not known is an error.
func FromGGUF(v GGUFVocab) (*Tokenizer, error) {
	s := spec{
		pre: v.Pre, addBOS: v.AddBOS, addEOS: v.AddEOS,
		bos: v.BOS, eos: v.EOS, unk: v.UNK, pad: v.PAD, eot: v.EOT,
		tokens: v.Tokens,
	}
	if err := checkVocabularySize(v.Tokens); err != nil {
		return nil, err
	}
	if len(v.Types) != 0 && len(v.Types) != len(v.Tokens) {
		return nil, fmt.Errorf("tokenizer: tokenizer.ggml.token_type has %d entries, expected one for each of %d tokens",
			len(v.Types), len(v.Tokens))
	}
	s.attrs = make([]uint8, len(v.Tokens))
	for i := range s.attrs {
		s.attrs[i] = typeNormal
		if len(v.Types) != 0 {
			if v.Types[i] < typeNormal || v.Types[i] > typeByte {
				return nil, fmt.Errorf("tokenizer: tokenizer.ggml.token_type[%d] is %d, expected 1 … 6", i, v.Types[i])
			}
			s.attrs[i] = uint8(v.Types[i])
		}
	}
	var err error
	switch v.Model {
	case "gpt2":
		s.kind = byteLevel
		p := preTokenizer(v.Pre)
		if p.rules == nil {
			return nil, fmt.Errorf("tokenizer: tokenizer.ggml.pre is %q, which is not supported", v.Pre)
		}
		s.rules, s.ignoreMerges = p.rules, p.ignoreMerges
		err = s.readMerges(v.Merges)
	case "gemma4":
		s.kind, s.rules, s.ignoreMerges = sentencePiece, []string{ruleLines}, true
		if v.AddSpacePrefix {
			s.prefix = prefixFragment
		}
		err = s.readMerges(v.Merges)
	case "llama":
		s.kind = sentencePiece
		if len(v.Scores) != len(v.Tokens) {
			return nil, fmt.Errorf("tokenizer: tokenizer.ggml.scores has %d entries, expected one for each of %d tokens",
				len(v.Scores), len(v.Tokens))
		}
		s.scores = v.Scores
		if v.AddSpacePrefix {
			s.prefix = prefixFragment
		}
		s.merges, err = scoredMerges(&s)
	default:
		err = fmt.Errorf("tokenizer: tokenizer.ggml.model is %q; supported are gpt2, llama and gemma4", v.Model)
	}
	if err != nil {
		return nil, err
	}
	return build(s)
}

// readMerges reads tokenizer.ggml.merges. Without merges only a vocabulary of single bytes or characters makes sense.
func (s *spec) readMerges(merges []string) (err error) {
	if len(merges) == 0 {
		for id, text := range s.tokens {
			if s.attrs[id]&typeMask == typeNormal && utf8.RuneCountInString(text) > 1 {
				return fmt.Errorf("tokenizer: tokenizer.ggml.merges is missing or empty, and token %d (%.20q) can only be made by merges; "+
					"convert the model again with a converter that writes them", id, text)
			}
		}
	}
	s.merges, err = parseMerges(s.tokens, func(i int) (string, string, error) { return splitMerge(merges[i]) }, len(merges))
	return err
}

// Limits of vocabularies. The largest in use have 262,144 tokens, of up to some hundred bytes.
const (
	maxTokens     = 1 << 19
	maxTokenBytes = 1 << 14
)

func checkVocabularySize(tokens []string) error {
	if len(tokens) > maxTokens {
		return fmt.Errorf("tokenizer: %d tokens, at most %d are supported", len(tokens), maxTokens)
	}
	for id, text := range tokens {
		if len(text) > maxTokenBytes {
			return fmt.Errorf("tokenizer: token %d is %d bytes long, at most %d are supported", id, len(text), maxTokenBytes)
		}
	}
	return nil
}

// splitMerge splits "left right". A token of several characters may begin with a space only as one character.
func splitMerge(m string) (left, right string, err error) {
	i := strings.IndexByte(m[min(1, len(m)):], ' ') + 1
	if i == 0 || i+1 == len(m) {
		return "", "", fmt.Errorf("tokenizer: merge %q is not of the form \"left right\"", m)
	}
	return m[:i], m[i+1:], nil
}

// parseMerges turns n merges of token texts into ids.
func parseMerges(tokens []string, at func(i int) (left, right string, err error), n int) ([]merge, error) {
	if n == 0 {
		return nil, nil
	}
	ids := make(map[string]int32, len(tokens))
	for id, t := range tokens {
		if _, dup := ids[t]; !dup {
			ids[t] = int32(id)
		}
	}
	merges := make([]merge, n)
	for i := range merges {
		l, r, err := at(i)
		if err != nil {
			return nil, err
		}
		left, okL := ids[l]
		right, okR := ids[r]
		result, okB := ids[l+r]
		if !okL || !okR || !okB {
			return nil, fmt.Errorf("tokenizer: merge %d joins %q and %q; these and %q must be tokens", i, l, r, l+r)
		}
		merges[i] = merge{left, right, result}
	}
	return merges, nil
}

// scoredMerges lists all ways to join two normal tokens into a third, best score of the result first: what
// SentencePiece's BPE does with neighbours on the fly.
func scoredMerges(s *spec) ([]merge, error) {
	ids := make(map[string]int32, len(s.tokens))
	for id, t := range s.tokens {
		if s.attrs[id]&typeMask != typeNormal {
			continue
		}
		if len(t) > maxPieceBytes { // every way to split it is looked at
			return nil, fmt.Errorf("tokenizer: token %d is %d bytes long, at most %d are supported in a vocabulary with scores",
				id, len(t), maxPieceBytes)
		}
		if _, dup := ids[t]; !dup {
			ids[t] = int32(id)
		}
	}
	var merges []merge
	for text, id := range ids {
		if !utf8.ValidString(text) {
			continue
		}
		for i := range text {
			if i == 0 {
				continue
			}
			left, okL := ids[text[:i]]
			right, okR := ids[text[i:]]
			if okL && okR {
				merges = append(merges, merge{left, right, id})
			}
		}
	}
	sort.Slice(merges, func(i, j int) bool {
		a, b := merges[i], merges[j]
		if sa, sb := s.scores[a.result], s.scores[b.result]; sa != sb {
			return sa > sb
		}
		if a.result != b.result {
			return a.result < b.result
		}
		return a.left < b.left
	})
	return merges, nil
}

// GGUFVocab returns the vocabulary in GGUF's terms, for export. A tokenizer from tokenizer.json that GGUF
// cannot express is an error; normal forms and the finer rules for a space before the text are left out, as in
// all GGUF files.
func (t *Tokenizer) GGUFVocab() (GGUFVocab, error) {
	v := GGUFVocab{
		Model: "gpt2", Pre: t.pre, Tokens: t.tokens, Types: make([]int32, len(t.attrs)),
		BOS: t.bos, EOS: t.eos, UNK: t.unk, PAD: t.pad, EOT: t.eot,
		AddBOS: t.addBOS, AddEOS: t.addEOS, AddSpacePrefix: t.prefix != prefixNone,
	}
	for i, a := range t.attrs {
		v.Types[i] = int32(a & typeMask)
	}
	if t.kind == unigram {
		return v, fmt.Errorf("tokenizer: a Unigram vocabulary cannot be exported to GGUF")
	}
	if t.kind == sentencePiece {
		v.Model = "llama"
		if sameRules(t.rules, []string{ruleLines}) {
			v.Model, v.Merges = "gemma4", t.mergeTexts()
			return v, nil
		}
		if len(t.rules) > 0 {
			return v, fmt.Errorf("tokenizer: splitting %v of a SentencePiece vocabulary has no name in GGUF", t.rules)
		}
		v.Scores = t.scores
		if v.Scores == nil {
			return v, t.scoreByID(&v)
		}
		return v, nil
	}
	if t.prefix != prefixNone {
		return v, fmt.Errorf("tokenizer: a byte-level vocabulary with a space before the text has no name in GGUF")
	}
	if preTokenizer(t.pre).rules == nil || t.pre == "" && !sameRules(t.rules, preTokenizer("").rules) {
		return v, fmt.Errorf("tokenizer: splitting %v has no name in GGUF", t.rules)
	}
	v.Merges = t.mergeTexts()
	return v, nil
}

func (t *Tokenizer) mergeTexts() []string {
	merges := make([]string, len(t.merges))
	for i, m := range t.merges {
		merges[i] = t.tokens[m.left] + " " + t.tokens[m.right]
	}
	return merges
}

// scoreByID gives tokens descending scores in order of id, which stand for the merges if these are in the
// order of their results.
func (t *Tokenizer) scoreByID(v *GGUFVocab) error {
	for i := 1; i < len(t.merges); i++ {
		if t.merges[i].result < t.merges[i-1].result {
			return fmt.Errorf("tokenizer: merge %d makes token %d after token %d; GGUF needs them in order",
				i, t.merges[i].result, t.merges[i-1].result)
		}
	}
	v.Scores = make([]float32, len(t.tokens))
	for i := range v.Scores {
		v.Scores[i] = -float32(i)
	}
	return nil
}

func sameRules(a, b []string) bool {
	return strings.Join(a, " ") == strings.Join(b, " ")
}
