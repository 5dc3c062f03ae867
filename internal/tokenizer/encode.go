package tokenizer

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

// encoder holds the buffers of one Encode. Its memory beside the output does not grow with the text, except for what
// normalization changes.
type encoder struct {
	t       *Tokenizer
	out     []int32
	m       merger
	lattice lattice

	length, left int // bytes of the text, and of those that no token stands for yet, about
	seed         maphash.Seed
	words        []cachedWord // a power of two; by hash, the latest word of each
}

// cachedWord is a word that was encoded before, and where its tokens are in the output.
type cachedWord struct {
	word  string
	at, n int32
}

const (
	maxCachedWord  = 64      // bytes; longer words rarely come again
	maxCachedWords = 1 << 13 // 192 KiB
)

func newEncoder(t *Tokenizer, length int) *encoder {
	words := 1 << bits.Len(uint(min(length/32, maxCachedWords-1)))
	return &encoder{
		t: t, out: make([]int32, 0, length/4+2), length: length, left: length,
		m: newMerger(length), seed: maphash.MakeSeed(), words: make([]cachedWord, words),
	}
}

// reserve makes room for the tokens of n more bytes. The output grows to what the whole text will need at the rate of
// tokens so far, so that it grows seldom.
func (e *encoder) reserve(n int) {
	e.left = max(0, e.left-n)
	if cap(e.out)-len(e.out) >= n {
		return
	}
	done := max(1, e.length-e.left-n)
	expected := int(float64(len(e.out)) / float64(done) * float64(e.left+n) * 1.1)
	e.out = slices.Grow(e.out, max(n, min(expected, e.left+n)))
}

// fragment encodes text between special tokens.
func (e *encoder) fragment(s string, first bool) {
	t := e.t
	before := len(s)
	if s = t.normal.apply(s); s == "" {
		return
	}
	marked := t.kind != byteLevel && strings.HasPrefix(s, spaceMark)
	hasSpace := strings.HasPrefix(s, " ") || marked
	prefix := ""
	if t.prefix == prefixFragment || t.prefix == prefixUnlessSpace && !hasSpace || t.prefix == prefixFirst && first && !hasSpace {
		prefix = " "
	}
	if t.kind != byteLevel {
		s = markSpaces(prefix, s)
	} else if prefix != "" {
		s = prefix + s
	}
	e.length += len(s) - before
	e.left += len(s) - before
	splitWords(s, t.splitters, e.word)
}

// markSpaces joins a and b, with ▁ for spaces.
func markSpaces(a, b string) string {
	spaces := strings.Count(a, " ") + strings.Count(b, " ")
	if spaces == 0 && a == "" {
		return b
	}
	var out strings.Builder
	out.Grow(len(a) + len(b) + spaces*(len(spaceMark)-1))
	writeMarked(&out, a)
	writeMarked(&out, b)
	return out.String()
}

func writeMarked(out *strings.Builder, s string) {
	for {
		i := strings.IndexByte(s, ' ')
		if i < 0 {
			out.WriteString(s)
			return
		}
		out.WriteString(s[:i])
		out.WriteString(spaceMark)
		s = s[i+1:]
	}
}

// word encodes a word, by its tokens in the output if it has been there before.
func (e *encoder) word(w string) {
	if e.t.kind == sentencePiece && e.t.spacesLead {
		for n := spaceWord(w); n < len(w); n = spaceWord(w) {
			e.wholeWord(w[:n])
			w = w[n:]
		}
	}
	e.wholeWord(w)
}

// spaceWord returns the length of s up to a ▁ that follows another character.
func spaceWord(s string) int {
	start := 0
	for strings.HasPrefix(s[start:], spaceMark) {
		start += len(spaceMark)
	}
	if i := strings.Index(s[start:], spaceMark); i >= 0 {
		return start + i
	}
	return len(s)
}

func (e *encoder) wholeWord(w string) {
	if len(w) > maxCachedWord {
		e.uncached(w)
		return
	}
	e.reserve(len(w))
	c := &e.words[maphash.String(e.seed, w)&uint64(len(e.words)-1)]
	if c.word == w {
		e.out = append(e.out, e.out[c.at:c.at+c.n]...)
		return
	}
	at := len(e.out)
	e.uncached(w)
	*c = cachedWord{w, int32(at), int32(len(e.out) - at)}
}

func (e *encoder) uncached(w string) {
	t := e.t
	if t.ignoreMerges && len(w) <= t.longest {
		if id, ok := t.whole[w]; ok {
			e.out = append(e.out, id)
			return
		}
	}
	if t.kind == unigram {
		e.unigram(w)
		return
	}
	e.m.begin(e.out)
	if t.kind == byteLevel {
		for i := 0; i < len(w); i++ {
			if i%manySymbols == 0 && len(w) > maxCachedWord {
				e.reserve(min(manySymbols, len(w)-i))
			}
			if id := t.bytes[w[i]]; id >= 0 {
				e.out = e.m.add(t, id, e.out)
			}
		}
		e.out = e.m.flush(t, e.out)
		return
	}
	e.characters(w)
}

// characters merges a sentencePiece word; runs between unknown characters are merged on their own.
func (e *encoder) characters(w string) {
	t := e.t
	unknown := false
	reserved, long := len(w), len(w) > maxCachedWord
	for len(w) > 0 {
		if long && len(w) <= reserved {
			n := min(manySymbols, len(w))
			e.reserve(n)
			reserved = len(w) - n
		}
		id, n := t.character(w)
		if id >= 0 {
			e.out = e.m.add(t, id, e.out)
			unknown = false
		} else {
			e.out = e.m.flush(t, e.out)
			unknown = e.fallback(w[:n], unknown)
			e.m.begin(e.out)
		}
		w = w[n:]
	}
	e.out = e.m.flush(t, e.out)
}

// character returns the token of the character that w begins with, −1 if it has none, and its length in bytes.
func (t *Tokenizer) character(w string) (id int32, n int) {
	if w[0] < utf8.RuneSelf {
		return t.ascii[w[0]], 1
	}
	r, n := utf8.DecodeRuneInString(w)
	if id, ok := t.runes[r]; ok && (r != utf8.RuneError || n > 1) {
		return id, n
	}
	return -1, n
}

// fallback encodes a character without token: its bytes, or UNK, once for a run if the tokenizer fuses them.
func (e *encoder) fallback(c string, afterUnknown bool) (unknown bool) {
	t := e.t
	for i := 0; i < len(c); i++ {
		if t.bytes[c[i]] < 0 {
			if !afterUnknown || !t.fuseUnknown {
				e.out = append(e.out, t.unk)
			}
			return true
		}
	}
	for i := 0; i < len(c); i++ {
		e.out = append(e.out, t.bytes[c[i]])
	}
	return false
}

// appendSymbols appends the symbols that a merged token consists of.
func (t *Tokenizer) appendSymbols(symbols []int32, id int32) []int32 {
	if t.kind == byteLevel {
		for _, b := range []byte(t.pieces[id]) {
			symbols = append(symbols, t.bytes[b])
		}
		return symbols
	}
	for _, r := range t.tokens[id] {
		symbols = append(symbols, t.runes[r])
	}
	return symbols
}
