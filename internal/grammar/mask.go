package grammar

import "math"

// TokenTexts is what a vocabulary is made from: a tokenizer.
type TokenTexts interface {
	NVocab() int
	Piece(id int32) string // the token's bytes
	IsControl(id int32) bool
	IsEOG(id int32) bool // ends a generation
}

// VocabularyOf returns the vocabulary of a tokenizer.
func VocabularyOf(t TokenTexts) *Vocabulary {
	texts := make([][]byte, t.NVocab())
	var ends []int32
	for i := range texts {
		switch id := int32(i); {
		case t.IsEOG(id):
			ends = append(ends, id)
		case !t.IsControl(id):
			texts[i] = []byte(t.Piece(id))
		}
	}
	return NewVocabulary(texts, ends)
}

// A Mask restricts one text to a constraint. It implements engine.Mask.
type Mask struct {
	c    *Constraint
	at   Position
	bits []uint64
}

// NewMask returns a mask for a text that begins.
func NewMask(c *Constraint) *Mask {
	return &Mask{c: c, at: c.Start(), bits: make([]uint64, words(c.v.size))}
}

// Mask sets the logits of tokens that may not follow to −Inf.
func (m *Mask) Mask(logits []float32) {
	if err := m.c.Mask(m.at, m.bits); err != nil {
		clear(m.bits) // no token may follow: the sampler reports it
	}
	minus := float32(math.Inf(-1))
	for i := range logits {
		if i>>6 >= len(m.bits) || m.bits[i>>6]>>(i&63)&1 == 0 {
			logits[i] = minus
		}
	}
}

// Accept tells that token was chosen.
func (m *Mask) Accept(token int32) {
	if next, err := m.c.Accept(m.at, token); err == nil { // Mask has excluded others
		m.at = next
	}
}
