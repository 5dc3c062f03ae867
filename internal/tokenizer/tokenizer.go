// Package tokenizer turns text into token ids and back: byte-level BPE (GPT-2 and successors) and
// SentencePiece-like BPE with byte fallback, from tokenizer.json or from a GGUF vocabulary.
package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// spaceMark stands for a space in SentencePiece vocabularies (U+2581).
const spaceMark = "▁"

type modelKind uint8

const (
	byteLevel     modelKind = iota // words are sequences of bytes, tokens are written in GPT-2's byte alphabet
	sentencePiece                  // words are sequences of characters, spaces are ▁, unknown characters become byte tokens
)

// prefixMode says where a SentencePiece or ByteLevel tokenizer puts a space before the text.
type prefixMode uint8

const (
	prefixNone        prefixMode = iota
	prefixFragment               // before the text and after every special token
	prefixUnlessSpace            // the same, unless the fragment begins with a space
	prefixFirst                  // before the text only, unless it begins with a space
	numPrefixModes
)

// Token types, numbered as in GGUF. Flags of the same byte say how a special token matches (tokenizer.json).
const (
	typeNormal  = 1
	typeUnknown = 2
	typeControl = 3
	typeUser    = 4
	typeUnused  = 5
	typeByte    = 6

	typeMask       = 7
	flagLStrip     = 1 << 3 // takes white space to its left
	flagRStrip     = 1 << 4 // takes white space to its right
	flagSingleWord = 1 << 5 // only between characters that are not part of a word
)

// merge joins two neighbouring tokens. Merges are ordered, the first one to be applied first.
type merge struct{ left, right, result int32 }

// spec is what a tokenizer consists of: what Marshal stores and all constructors fill in.
type spec struct {
	kind   modelKind
	pre    string   // GGUF's tokenizer.ggml.pre; "" if the splitting has no name there
	rules  []string // splitting rules, outermost first
	prefix prefixMode

	nfc          bool // normalize text to NFC
	ignoreMerges bool // a word that is a token is not split
	fuseUnknown  bool // neighbouring unknown characters become one UNK
	addBOS       bool
	addEOS       bool

	bos, eos, unk, pad, eot int32 // −1: none

	tokens []string  // as in the source: byteLevel in the byte alphabet, sentencePiece with ▁
	attrs  []uint8   // type and flags per token
	scores []float32 // sentencePiece from GGUF: merges of equal score have equal rank; otherwise nil
	merges []merge
}

// Tokenizer is immutable and safe for concurrent use.
type Tokenizer struct {
	spec
	splitters []splitter
	pieces    []string // bytes of every token
	bytes     [256]int32
	runes     map[rune]int32   // sentencePiece: tokens of one character
	whole     map[string]int32 // bytes → token, only with ignoreMerges
	pairs     pairTable
	special   specialTokens
	eog       map[int32]bool
	turnEnd   int32
}

// NVocab returns the number of tokens, unused ones included.
func (t *Tokenizer) NVocab() int { return len(t.tokens) }

// BOS returns the id of the beginning-of-sequence token, −1 if there is none.
func (t *Tokenizer) BOS() int32 { return t.bos }

// EOS returns the id of the end-of-sequence token, −1 if there is none.
func (t *Tokenizer) EOS() int32 { return t.eos }

// EOT returns the id of the end-of-turn token, −1 if there is none.
func (t *Tokenizer) EOT() int32 { return t.turnEnd }

// AddBOS says whether Encode with addSpecial begins with BOS.
func (t *Tokenizer) AddBOS() bool { return t.addBOS }

// AddEOS says whether Encode with addSpecial ends with EOS.
func (t *Tokenizer) AddEOS() bool { return t.addEOS }

// IsEOG says whether a model that produces id has finished: EOS, EOT and the tokens known to mean the same.
func (t *Tokenizer) IsEOG(id int32) bool { return t.eog[id] }

// Piece returns the bytes that id stands for; for control tokens their name, like <|im_end|>. An id that is
// not in the vocabulary yields "".
func (t *Tokenizer) Piece(id int32) string {
	if id < 0 || int(id) >= len(t.pieces) {
		return ""
	}
	return t.pieces[id]
}

// Special returns the id of a special (control, user-defined or unknown) token by its name.
func (t *Tokenizer) Special(name string) (int32, bool) {
	return t.special.exact(name)
}

func (t *Tokenizer) isControl(id int32) bool {
	typ := t.attrs[id] & typeMask
	return typ == typeControl || typ == typeUnknown || t.eog[id]
}

// Encode returns the ids of text. addSpecial adds BOS and EOS as the model wants them. parseSpecial lets the
// names of control tokens in text stand for these tokens; without it they are ordinary text. User-defined
// tokens are always recognized. Bytes without a token in a byte-level vocabulary are dropped.
func (t *Tokenizer) Encode(text string, addSpecial, parseSpecial bool) []int32 {
	e := encoder{t: t, out: make([]int32, 0, len(text)/3+2)}
	if addSpecial && t.addBOS {
		e.out = append(e.out, t.bos)
	}
	first := true
	for text != "" {
		m, found := t.special.find(text, parseSpecial)
		if m.start > 0 {
			e.fragment(text[:m.start], first)
		}
		if !found {
			break
		}
		e.out = append(e.out, m.id)
		text = text[m.end:]
		first = false
	}
	if addSpecial && t.addEOS {
		e.out = append(e.out, t.eos)
	}
	return e.out
}

// encoder holds the buffers of one Encode.
type encoder struct {
	t   *Tokenizer
	out []int32
	m   merger
}

// fragment encodes text between special tokens.
func (e *encoder) fragment(s string, first bool) {
	t := e.t
	if t.nfc {
		s = norm.NFC.String(s)
	}
	space := " "
	if t.kind == sentencePiece {
		s = strings.ReplaceAll(s, " ", spaceMark)
		space = spaceMark
	}
	switch {
	case t.prefix == prefixFragment,
		t.prefix == prefixUnlessSpace && !strings.HasPrefix(s, space),
		t.prefix == prefixFirst && first && !strings.HasPrefix(s, space):
		s = space + s
	}
	splitWords(s, t.splitters, e.word)
}

func (e *encoder) word(w string) {
	t := e.t
	if t.ignoreMerges {
		if id, ok := t.whole[w]; ok {
			e.out = append(e.out, id)
			return
		}
	}
	e.m.reset()
	if t.kind == byteLevel {
		for i := 0; i < len(w); i++ {
			if id := t.bytes[w[i]]; id >= 0 {
				e.m.add(id)
			}
		}
		e.out = e.m.run(&t.pairs, e.out)
		return
	}
	e.characters(w)
}

// characters merges a sentencePiece word; runs between unknown characters are merged on their own.
func (e *encoder) characters(w string) {
	t := e.t
	unknown := false
	for len(w) > 0 {
		r, n := utf8.DecodeRuneInString(w)
		if id, ok := t.runes[r]; ok && (r != utf8.RuneError || n > 1) {
			e.m.add(id)
			unknown = false
		} else {
			e.out = e.m.run(&t.pairs, e.out)
			e.m.reset()
			unknown = e.fallback(w[:n], unknown)
		}
		w = w[n:]
	}
	e.out = e.m.run(&t.pairs, e.out)
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

// build checks a spec and derives everything Encode and Decode need.
func build(s spec) (*Tokenizer, error) {
	t := &Tokenizer{spec: s}
	if err := t.checkIDs(); err != nil {
		return nil, err
	}
	for _, rule := range s.rules {
		sp, err := newSplitter(rule)
		if err != nil {
			return nil, err
		}
		t.splitters = append(t.splitters, sp)
	}
	t.pieces = piecesOf(&t.spec)
	if err := t.indexCharacters(); err != nil {
		return nil, err
	}
	if t.ignoreMerges {
		t.whole = make(map[string]int32, len(t.pieces))
		for id, p := range t.pieces {
			if _, dup := t.whole[p]; !dup && t.attrs[id]&typeMask == typeNormal {
				t.whole[p] = int32(id)
			}
		}
	}
	var err error
	if t.pairs, err = newPairTable(&t.spec); err != nil {
		return nil, err
	}
	t.findEnds()
	t.special = newSpecialTokens(&t.spec, t.eog)
	return t, nil
}

func (t *Tokenizer) checkIDs() error {
	n := int32(len(t.tokens))
	if n == 0 {
		return fmt.Errorf("tokenizer: the vocabulary is empty")
	}
	for _, s := range []struct {
		name string
		id   int32
	}{{"BOS", t.bos}, {"EOS", t.eos}, {"UNK", t.unk}, {"PAD", t.pad}, {"EOT", t.eot}} {
		if s.id < -1 || s.id >= n {
			return fmt.Errorf("tokenizer: %s is token %d, the vocabulary has %d tokens", s.name, s.id, n)
		}
	}
	if t.addBOS && t.bos < 0 || t.addEOS && t.eos < 0 {
		return fmt.Errorf("tokenizer: BOS or EOS is to be added to texts, but the vocabulary names none")
	}
	for id, a := range t.attrs {
		if typ := a & typeMask; typ < typeNormal || typ > typeByte {
			return fmt.Errorf("tokenizer: token %d has unknown type %d", id, typ)
		}
	}
	return nil
}

// indexCharacters finds the tokens that words are made of before merging.
func (t *Tokenizer) indexCharacters() error {
	for b := range t.bytes {
		t.bytes[b] = -1
	}
	t.runes = map[rune]int32{}
	for id, text := range t.tokens {
		typ := t.attrs[id] & typeMask
		switch p := t.pieces[id]; {
		case t.kind == byteLevel && typ == typeNormal && len(p) == 1, t.kind == sentencePiece && typ == typeByte && len(p) == 1:
			if t.bytes[p[0]] < 0 {
				t.bytes[p[0]] = int32(id)
			}
		case t.kind == sentencePiece && (typ == typeNormal || typ == typeUser):
			if r, n := utf8.DecodeRuneInString(text); n > 0 && n == len(text) && (r != utf8.RuneError || n > 1) {
				if _, dup := t.runes[r]; !dup {
					t.runes[r] = int32(id)
				}
			}
		}
	}
	if t.kind == sentencePiece && t.unk < 0 {
		for b, id := range t.bytes {
			if id < 0 {
				return fmt.Errorf("tokenizer: byte 0x%02X has no token and there is no token for unknown characters", b)
			}
		}
	}
	return nil
}
