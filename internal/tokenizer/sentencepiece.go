package tokenizer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// protoReader reads fields of a protocol buffers message (the wire format of protobuf.dev/programming-guides/encoding).
type protoReader struct {
	data []byte
	pos  int // in the file, for errors
	err  error
}

// protoField is one field: a number, or the bytes of a text or message.
type protoField struct {
	number int
	value  uint64
	bytes  []byte
	pos    int // of bytes in the file
}

// next returns the next field, false at the end or after an error.
func (r *protoReader) next() (f protoField, ok bool) {
	if len(r.data) == 0 || r.err != nil {
		return f, false
	}
	key := r.uvarint()
	f.number = int(key >> 3)
	switch key & 7 {
	case 0:
		f.value = r.uvarint()
	case 1:
		if b := r.take(8); b != nil {
			f.value = binary.LittleEndian.Uint64(b)
		}
	case 2:
		n := r.uvarint()
		f.pos = r.pos
		f.bytes = r.take(n)
	case 5:
		if b := r.take(4); b != nil {
			f.value = uint64(binary.LittleEndian.Uint32(b))
		}
	default:
		r.fail("wire type %d", key&7)
	}
	return f, r.err == nil
}

func (r *protoReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("tokenizer.model: byte %d: %s; expected a SentencePiece model", r.pos, fmt.Sprintf(format, args...))
	}
}

func (r *protoReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail("a number is cut off or too large")
		return 0
	}
	r.data = r.data[n:]
	r.pos += n
	return v
}

func (r *protoReader) take(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.fail("%d bytes expected, %d are left", n, len(r.data))
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	r.pos += int(n)
	return b
}

// sentencePieceModel is what decides ids in a tokenizer.model (sentencepiece_model.proto of the SentencePiece library).
type sentencePieceModel struct {
	pieces []string
	scores []float32
	types  []uint8

	modelType                                    uint64 // 1 Unigram, 2 BPE
	unk, bos, eos, pad                           int32
	dummyPrefix, removeExtraSpaces, escapeSpaces bool
	charsMap                                     []byte
}

// FromSentencePiece makes a tokenizer from the contents of a tokenizer.model (a SentencePiece model) and tokenizer_config.json
// (which may be nil). Control tokens are those of the model; BOS is added if the configuration does not say otherwise.
//
// It follows transformers' conversion of these files (convert_slow_tokenizer.py), which adds up scores in
// double precision and applies the character map by grapheme clusters; the SentencePiece library does neither.
func FromSentencePiece(model, tokenizerConfig []byte) (*Tokenizer, error) {
	c := hfConfig{}
	c.AddBOS = true
	if err := c.read(tokenizerConfig); err != nil {
		return nil, err
	}
	m := sentencePieceModel{modelType: 1, bos: 1, eos: 2, pad: -1, dummyPrefix: true, removeExtraSpaces: true, escapeSpaces: true}
	if err := m.read(model); err != nil {
		return nil, err
	}
	s, err := m.spec()
	if err != nil {
		return nil, fmt.Errorf("tokenizer.model: %w", err)
	}
	s.addBOS, s.addEOS = c.AddBOS && s.bos >= 0 && s.kind == sentencePiece, (c.AddEOS || s.kind == unigram) && s.eos >= 0
	return build(*s)
}

func (m *sentencePieceModel) read(data []byte) error {
	r := &protoReader{data: data}
	for f, ok := r.next(); ok; f, ok = r.next() {
		part := &protoReader{data: f.bytes, pos: f.pos}
		switch f.number {
		case 1:
			m.readPiece(part)
		case 2:
			m.readTrainer(part)
		case 3:
			m.readNormalizer(part)
		}
		if part.err != nil {
			return part.err
		}
	}
	return r.err
}

func (m *sentencePieceModel) readPiece(r *protoReader) {
	text, score, typ := "", float32(0), uint64(1)
	for f, ok := r.next(); ok; f, ok = r.next() {
		switch f.number {
		case 1:
			text = string(f.bytes)
		case 2:
			score = math.Float32frombits(uint32(f.value))
		case 3:
			typ = f.value
		}
	}
	if typ < typeNormal || typ > typeByte {
		r.fail("piece %d has type %d", len(m.pieces), typ)
	}
	m.pieces, m.scores, m.types = append(m.pieces, text), append(m.scores, score), append(m.types, uint8(typ))
}

func (m *sentencePieceModel) readTrainer(r *protoReader) {
	for f, ok := r.next(); ok; f, ok = r.next() {
		switch f.number {
		case 3:
			m.modelType = f.value
		case 40:
			m.unk = int32(f.value)
		case 41:
			m.bos = int32(f.value)
		case 42:
			m.eos = int32(f.value)
		case 43:
			m.pad = int32(f.value)
		}
	}
}

func (m *sentencePieceModel) readNormalizer(r *protoReader) {
	for f, ok := r.next(); ok; f, ok = r.next() {
		switch f.number {
		case 2:
			m.charsMap = append([]byte(nil), f.bytes...)
		case 3:
			m.dummyPrefix = f.value != 0
		case 4:
			m.removeExtraSpaces = f.value != 0
		case 5:
			m.escapeSpaces = f.value != 0
		}
	}
}

func (m *sentencePieceModel) spec() (*spec, error) {
	switch {
	case m.modelType != 1 && m.modelType != 2:
		return nil, fmt.Errorf("model type is %d, supported are 1 (Unigram) and 2 (BPE)", m.modelType)
	case !m.escapeSpaces:
		return nil, errors.New("a vocabulary without marks for spaces is not supported")
	}
	s := &spec{kind: sentencePiece, tokens: m.pieces, attrs: m.types, eot: -1}
	for _, r := range []struct{ from, to *int32 }{{&m.unk, &s.unk}, {&m.bos, &s.bos}, {&m.eos, &s.eos}, {&m.pad, &s.pad}} {
		*r.to = -1
		if int(*r.from) < len(m.pieces) && *r.from >= 0 {
			*r.to = *r.from
		}
	}
	if len(m.charsMap) > 0 {
		s.steps, s.charsMap = append(s.steps, stepGraphemes), m.charsMap
	}
	if m.removeExtraSpaces {
		s.steps = append(s.steps, stepStripR, stepCollapse)
	}
	if m.dummyPrefix {
		s.prefix = prefixFragment
	}
	if m.modelType == 1 {
		if m.dummyPrefix {
			s.prefix = prefixUnlessSpace
		}
		s.kind, s.fuseUnknown, s.rules = unigram, true, []string{ruleMetaspace}
		s.weights = make([]float64, len(m.scores))
		for i, score := range m.scores {
			s.weights[i] = float64(score)
		}
		return s, nil
	}
	s.scores, s.fuseUnknown = m.scores, true
	var err error
	s.merges, err = scoredMerges(s)
	return s, err
}
