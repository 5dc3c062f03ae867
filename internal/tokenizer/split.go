package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A splitter cuts text into words, the units within which tokens are merged. next returns the length in
// bytes of the first word of s, 0 < n ≤ len(s), for s ≠ "". A splitter sees only the word it refines: a
// look-ahead at the end of a word behaves as at the end of the text.
type splitter interface {
	next(s string) int
}

// Rules a tokenizer's splitting consists of, applied one inside the other. The comments give the regular
// expression each one stands for; text that no match covers forms words of its own.
const (
	// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
	ruleGPT2 = "gpt2"
	// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
	ruleLlama3 = "llama3"
	// llama3 with \p{N}
	ruleQwen2 = "qwen2"
	// qwen2 with [\p{L}\p{M}]+ for \p{L}+ and [^\s\p{L}\p{M}\p{N}] for [^\s\p{L}\p{N}]
	ruleQwen35 = "qwen35"
	// words cut where lower case turns to upper case, contractions at their end, \p{N}{1,3}, [\r\n/]* after punctuation
	ruleO200k = "o200k"
	// o200k without contractions, with \p{N}
	ruleTekken = "tekken"

	ruleDigit     = "digit"     // \p{N}
	ruleDigits    = "digits"    // \p{N}+
	ruleDigits3   = "digits3"   // \p{N}{1,3}
	ruleASCII3    = "ascii3"    // [0-9][0-9][0-9]
	rulePunct     = "punct"     // [\p{P}\$\+<=>\^~\|]+
	ruleMetaspace = "metaspace" // ▁[^▁]*|[^▁]+
	ruleLines     = "lines"     // [^\n]+|\n+
)

func newSplitter(rule string) (splitter, error) {
	switch rule {
	case ruleGPT2:
		return &wordRule{contractions: contractLower}, nil
	case ruleLlama3:
		return &wordRule{contractions: contractAny, lead: true, digits: 3, tail: "\r\n", newlines: true}, nil
	case ruleQwen2:
		return &wordRule{contractions: contractAny, lead: true, digits: 1, tail: "\r\n", newlines: true}, nil
	case ruleQwen35:
		return &wordRule{contractions: contractAny, lead: true, marks: true, digits: 1, tail: "\r\n", newlines: true}, nil
	case ruleO200k:
		return &wordRule{contractions: contractSuffix, lead: true, cased: true, digits: 3, tail: "\r\n/", newlines: true}, nil
	case ruleTekken:
		return &wordRule{lead: true, cased: true, digits: 1, tail: "\r\n/", newlines: true}, nil
	case ruleDigit:
		return &runRule{class: unicode.IsNumber, min: 1, max: 1}, nil
	case ruleDigits:
		return &runRule{class: unicode.IsNumber, min: 1}, nil
	case ruleDigits3:
		return &runRule{class: unicode.IsNumber, min: 1, max: 3}, nil
	case ruleASCII3:
		return &runRule{class: func(r rune) bool { return '0' <= r && r <= '9' }, min: 3, max: 3}, nil
	case rulePunct:
		return &runRule{class: func(r rune) bool { return unicode.IsPunct(r) || strings.ContainsRune("$+<=>^~|", r) }, min: 1}, nil
	case ruleMetaspace:
		return metaspaceRule{}, nil
	case ruleLines:
		return &runRule{class: func(r rune) bool { return r == '\n' }, min: 1}, nil
	}
	return nil, fmt.Errorf("tokenizer: unknown splitting rule %q", rule)
}

// ruleOfPattern recognizes the regular expression of a tokenizer.json Split node, in the spellings in use.
func ruleOfPattern(pattern string) (string, bool) {
	const contraction = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	const upper, lower = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	const lead, space = `[^\r\n\p{L}\p{N}]?`, `|\s*[\r\n]+|\s+(?!\S)|\s+`
	// Possessive quantifiers match the same text here: what follows them is disjoint from what they repeat.
	const spelled = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	p := strings.NewReplacer(spelled, contraction, `?+`, `?`, `++`, `+`).Replace(pattern)
	switch p {
	case `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
		`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:
		return ruleGPT2, true
	case contraction + `|` + lead + `\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` + space:
		return ruleLlama3, true
	case contraction + `|` + lead + `\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*` + space:
		return ruleQwen2, true
	case contraction + `|` + lead + `[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + space:
		return ruleQwen35, true
	case lead + upper + `*` + lower + `+` + contraction + `?|` + lead + upper + `+` + lower + `*` + contraction + `?` +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + space:
		return ruleO200k, true
	case lead + upper + `*` + lower + `+|` + lead + upper + `+` + lower + `*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + space:
		return ruleTekken, true
	case `\p{N}`:
		return ruleDigit, true
	case `\p{N}+`:
		return ruleDigits, true
	case `\p{N}{1,3}`:
		return ruleDigits3, true
	}
	return "", false
}

// splitWords calls word for every word of s after all splitters.
func splitWords(s string, splitters []splitter, word func(string)) {
	if len(splitters) == 0 {
		word(s)
		return
	}
	for s != "" {
		n := splitters[0].next(s)
		splitWords(s[:n], splitters[1:], word)
		s = s[n:]
	}
}

const (
	contractNone   = iota
	contractLower  // 's|'t|'re|'ve|'m|'ll|'d, before anything else
	contractAny    // the same in any case
	contractSuffix // in any case, at the end of a word
)

// wordRule scans the alternatives common to the patterns of GPT-2 and its successors, in their order:
// contraction, letters, numbers, punctuation, white space up to a line end, white space.
type wordRule struct {
	contractions uint8
	lead         bool   // one character other than CR, LF, letter, number may precede letters; otherwise only a space
	marks        bool   // \p{M} are letters
	cased        bool   // letters are upper* lower+ or upper+ lower*
	digits       int    // numbers come in words of at most this many; 0: any number of them, a space may precede
	tail         string // characters that may follow punctuation
	newlines     bool   // \s*[\r\n]+
}

func (w *wordRule) next(s string) int {
	if w.contractions == contractLower || w.contractions == contractAny {
		if n := contraction(s, w.contractions == contractAny); n > 0 {
			return n
		}
	}
	if n := w.word(s); n > 0 {
		return n
	}
	if n := w.number(s); n > 0 {
		return n
	}
	if n := w.punctuation(s); n > 0 {
		return n
	}
	return w.space(s)
}

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at the beginning of s, or 0. In any case,
// s also matches ſ (U+017F), its other lower-case form.
func contraction(s string, anyCase bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	next := s[1:min(3, len(s))]
	if anyCase {
		next = strings.ToLower(next)
	}
	switch {
	case strings.IndexByte("stmd", next[0]) >= 0:
		return 2
	case next == "re" || next == "ve" || next == "ll":
		return 3
	case anyCase && strings.HasPrefix(s[1:], "ſ"):
		return 1 + len("ſ")
	}
	return 0
}

func (w *wordRule) isLetter(r rune) bool {
	return unicode.IsLetter(r) || w.marks && unicode.IsMark(r)
}

// word matches letters with what may lead them.
func (w *wordRule) word(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	leads := r == ' '
	if w.lead {
		leads = r != '\r' && r != '\n' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
	}
	if w.cased {
		return w.casedWord(s, n, leads)
	}
	if leads {
		if m := runLength(s[n:], w.isLetter); m > 0 {
			return n + m
		}
	}
	return runLength(s, w.isLetter)
}

// casedWord tries upper* lower+ and then upper+ lower*, each first with the leading character and then without.
func (w *wordRule) casedWord(s string, n int, leads bool) int {
	end := 0
	for _, match := range [2]func(string) int{upperLower, upperOnly} {
		if leads {
			if m := match(s[n:]); m > 0 {
				end = n + m
				break
			}
		}
		if end = match(s); end > 0 {
			break
		}
	}
	if end > 0 && w.contractions == contractSuffix {
		end += contraction(s[end:], true)
	}
	return end
}

// Letters without case and marks count as both upper and lower.
func isCaseless(r rune) bool {
	if r < utf8.RuneSelf || r == utf8.RuneError { // frequent, and slow to find absent
		return false
	}
	return unicode.IsMark(r) || unicode.In(r, unicode.Lm, unicode.Lo)
}

func isUpperLetter(r rune) bool {
	if r < utf8.RuneSelf || r == utf8.RuneError {
		return 'A' <= r && r <= 'Z'
	}
	return unicode.In(r, unicode.Lu, unicode.Lt) || isCaseless(r)
}

func isLowerLetter(r rune) bool {
	if r < utf8.RuneSelf || r == utf8.RuneError {
		return 'a' <= r && r <= 'z'
	}
	return unicode.Is(unicode.Ll, r) || isCaseless(r)
}

// upperLower matches upper* lower+. The run of upper letters gives back what lower+ needs.
func upperLower(s string) int {
	upper := runLength(s, isUpperLetter)
	if lower := runLength(s[upper:], isLowerLetter); lower > 0 {
		return upper + lower
	}
	for end := upper; end > 0; {
		r, n := utf8.DecodeLastRuneInString(s[:end])
		if isCaseless(r) {
			return end
		}
		end -= n
	}
	return 0
}

// upperOnly matches upper+ lower*, tried where upper* lower+ does not match: there is no lower letter.
func upperOnly(s string) int {
	return runLength(s, isUpperLetter)
}

func (w *wordRule) number(s string) int {
	start := 0
	if w.digits == 0 && s[0] == ' ' {
		start = 1
	}
	end, count := start, 0
	for end < len(s) && (w.digits == 0 || count < w.digits) {
		r, n := utf8.DecodeRuneInString(s[end:])
		if !unicode.IsNumber(r) {
			break
		}
		end += n
		count++
	}
	if count == 0 {
		return 0
	}
	return end
}

func (w *wordRule) punctuation(s string) int {
	start := 0
	if s[0] == ' ' {
		start = 1
	}
	m := runLength(s[start:], func(r rune) bool {
		return !unicode.IsSpace(r) && !w.isLetter(r) && !unicode.IsNumber(r)
	})
	if m == 0 {
		return 0
	}
	end := start + m
	for end < len(s) && strings.IndexByte(w.tail, s[end]) >= 0 {
		end++
	}
	return end
}

// space matches white space: up to the last line end of the run if line ends count, else all of it at the
// end of the text, else all but the last character, which belongs to what follows unless it is alone.
func (w *wordRule) space(s string) int {
	end := runLength(s, unicode.IsSpace)
	if w.newlines {
		if i := strings.LastIndexAny(s[:end], "\r\n"); i >= 0 {
			return i + 1
		}
	}
	if end == len(s) {
		return end
	}
	_, last := utf8.DecodeLastRuneInString(s[:end])
	if end > last {
		return end - last
	}
	return end
}

func runLength(s string, class func(rune) bool) int {
	for i, r := range s {
		if !class(r) {
			return i
		}
	}
	return len(s)
}

// runRule makes runs of min to max characters of a class words (max 0: any number) and what lies between others.
type runRule struct {
	class    func(rune) bool
	min, max int
}

func (c *runRule) next(s string) int {
	if n := c.match(s); n > 0 {
		return n
	}
	for i := range s {
		if i > 0 && c.match(s[i:]) > 0 {
			return i
		}
	}
	return len(s)
}

func (c *runRule) match(s string) int {
	count := 0
	for i, r := range s {
		if !c.class(r) || c.max > 0 && count == c.max {
			if count < c.min {
				return 0
			}
			return i
		}
		count++
	}
	if count < c.min {
		return 0
	}
	return len(s)
}

type metaspaceRule struct{}

func (metaspaceRule) next(s string) int {
	start := 0
	if strings.HasPrefix(s, spaceMark) {
		start = len(spaceMark)
	}
	if i := strings.Index(s[start:], spaceMark); i >= 0 {
		return start + i
	}
	return len(s)
}
