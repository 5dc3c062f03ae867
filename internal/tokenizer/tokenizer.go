// Package tokenizer turns text into token ids and back: byte-level BPE (GPT-2 and successors), SentencePiece-like BPE with
// byte fallback, and Unigram, from tokenizer.json, tokenizer.model or a GGUF vocabulary.
package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// spaceMark stands for a space in SentencePiece vocabularies (U+2581).
const spaceMark = "▁"

type modelKind uint8

const (
	byteLevel     modelKind = iota // words are sequences of bytes, tokens are written in GPT-2's byte alphabet
	sentencePiece                  // words are sequences of characters, spaces are ▁, unknown characters become byte tokens
	unigram                        // spaces are ▁, words are split into the pieces whose scores have the largest sum
	numModelKinds
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

	steps    []string // of the normalizer (normalize.go)
	charsMap []byte   // SentencePiece's precompiled_charsmap; nil without a step that uses it

	ignoreMerges bool // a word that is a token is not split
	fuseUnknown  bool // neighbouring unknown characters become one UNK
	addBOS       bool
	addEOS       bool

	bos, eos, unk, pad, eot int32 // −1: none

	tokens  []string  // as in the source: byteLevel in the byte alphabet, sentencePiece with ▁
	attrs   []uint8   // type and flags per token
	scores  []float32 // sentencePiece from GGUF: merges of equal score have equal rank; otherwise nil
	weights []float64 // unigram: logarithms of probabilities; otherwise nil
	merges  []merge
}

// Tokenizer is immutable and safe for concurrent use.
type Tokenizer struct {
	spec
	splitters []splitter
	pieces    []string // bytes of every token
	bytes     [256]int32
	runes     map[rune]int32       // sentencePiece: tokens of one character
	ascii     [utf8.RuneSelf]int32 // those of one byte, again; −1: none
	whole     map[string]int32     // bytes → token, only with ignoreMerges
	longest   int                  // bytes of the longest key of whole
	pairs     pairTable
	special   *specialTokens
	eog       map[int32]bool
	turnEnd   int32

	normal       *normalizer
	trie         *pieceTrie // unigram
	unknownScore float64    // unigram: of a character without piece

	spacesLead bool // no merge gives a token with ▁ after another character, so words end before it
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

// AddEnds makes further tokens end a generation, those that only the model's configuration names. Ids outside the vocabulary are
// ignored.
func (t *Tokenizer) AddEnds(ids []int32) {
	for _, id := range ids {
		if id >= 0 && int(id) < len(t.tokens) {
			t.eog[id] = true
		}
	}
}

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
	e := newEncoder(t, len(text))
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
	var err error
	if t.normal, err = newNormalizer(&t.spec); err != nil {
		return nil, err
	}
	t.pieces = piecesOf(&t.spec)
	if t.kind == unigram {
		if err := t.indexPieces(); err != nil {
			return nil, err
		}
	}
	if err := t.indexCharacters(); err != nil {
		return nil, err
	}
	if t.ignoreMerges {
		t.whole = make(map[string]int32, len(t.pieces))
		for id, p := range t.pieces {
			if _, dup := t.whole[p]; !dup && t.attrs[id]&typeMask == typeNormal {
				t.whole[p] = int32(id)
				t.longest = max(t.longest, len(p))
			}
		}
	}
	if t.pairs, err = newPairTable(&t.spec); err != nil {
		return nil, err
	}
	t.spacesLead = t.kind == sentencePiece
	for _, m := range t.merges {
		t.spacesLead = t.spacesLead && spaceWord(t.tokens[m.result]) == len(t.tokens[m.result])
	}
	t.findEnds()
	t.special, err = newSpecialTokens(&t.spec, t.eog)
	return t, err
}

func (t *Tokenizer) checkIDs() error {
	if err := checkVocabularySize(t.tokens); err != nil {
		return err
	}
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
	for b := range t.ascii {
		t.ascii[b] = -1
	}
	t.runes = map[rune]int32{}
	for id := range t.tokens {
		t.indexToken(int32(id))
	}
	if t.kind != byteLevel && t.unk < 0 {
		for b, id := range t.bytes {
			if id < 0 {
				return fmt.Errorf("tokenizer: byte 0x%02X has no token and there is no token for unknown characters", b)
			}
		}
	}
	return nil
}

// indexToken enters a token that is a byte or a character, if none of a lower number is the same.
func (t *Tokenizer) indexToken(id int32) {
	typ, byteType, p := t.attrs[id]&typeMask, uint8(typeByte), t.pieces[id]
	if t.kind == byteLevel {
		byteType = typeNormal
	}
	if typ == byteType && len(p) == 1 {
		if t.bytes[p[0]] < 0 {
			t.bytes[p[0]] = id
		}
		return
	}
	if t.kind != sentencePiece || typ != typeNormal && typ != typeUser {
		return
	}
	text := t.tokens[id]
	if r, n := utf8.DecodeRuneInString(text); n > 0 && n == len(text) && (r != utf8.RuneError || n > 1) {
		if _, dup := t.runes[r]; !dup {
			t.runes[r] = id
			if r < utf8.RuneSelf {
				t.ascii[r] = id
			}
		}
	}
}

// indexPieces prepares the split of words into pieces.
func (t *Tokenizer) indexPieces() (err error) {
	if len(t.weights) != len(t.tokens) {
		return fmt.Errorf("tokenizer: %d scores for %d tokens", len(t.weights), len(t.tokens))
	}
	for id, w := range t.weights {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return fmt.Errorf("tokenizer: the score of token %d is not a finite number", id)
		}
	}
	t.unknownScore = slices.Min(t.weights) - unknownPenalty
	t.trie, err = newPieceTrie(&t.spec)
	return err
}
