package tokenizer

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// byteAlphabet returns GPT-2's alphabet: the character that stands for every byte in vocabularies, which are
// JSON and hence text. Printable Latin-1 characters stand for themselves, the others for U+0100 onward.
func byteAlphabet() (alphabet [256]rune) {
	next := rune(0x100)
	for b := range alphabet {
		r := rune(b)
		if '!' <= r && r <= '~' || 0xA1 <= r && r <= 0xAC || 0xAE <= r && r <= 0xFF {
			alphabet[b] = r
		} else {
			alphabet[b] = next
			next++
		}
	}
	return alphabet
}

// piecesOf returns the bytes that every token stands for, without an allocation per token.
func piecesOf(s *spec) []string {
	var toByte [0x180]int16
	for i := range toByte {
		toByte[i] = -1
	}
	for b, r := range byteAlphabet() {
		toByte[r] = int16(b)
	}
	total := 0
	for _, t := range s.tokens {
		total += len(t)
	}
	var all strings.Builder
	all.Grow(total)
	ends := make([]int, len(s.tokens))
	for id, text := range s.tokens {
		switch typ := s.attrs[id] & typeMask; {
		case typ == typeByte:
			if b, ok := byteToken(text); ok {
				all.WriteByte(b)
			} else {
				all.WriteString(text)
			}
		case typ != typeNormal && typ != typeUnused:
			all.WriteString(text)
		case s.kind != byteLevel:
			writeReplaced(&all, text)
		default:
			writeBytes(&all, text, &toByte)
		}
		ends[id] = all.Len()
	}
	joined := all.String()
	pieces := make([]string, len(s.tokens))
	start := 0
	for id, end := range ends {
		pieces[id] = joined[start:end]
		start = end
	}
	return pieces
}

// writeBytes translates text from the byte alphabet; text with other characters stands for itself.
func writeBytes(all *strings.Builder, text string, toByte *[0x180]int16) {
	for _, r := range text {
		if r >= rune(len(toByte)) || toByte[r] < 0 {
			all.WriteString(text)
			return
		}
	}
	for _, r := range text {
		all.WriteByte(byte(toByte[r]))
	}
}

func writeReplaced(all *strings.Builder, text string) {
	for {
		i := strings.Index(text, spaceMark)
		if i < 0 {
			all.WriteString(text)
			return
		}
		all.WriteString(text[:i])
		all.WriteByte(' ')
		text = text[i+len(spaceMark):]
	}
}

// byteToken reads a token of the form <0x0A>.
func byteToken(text string) (byte, bool) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(text[3:5], 16, 8)
	return byte(b), err == nil
}

// Decode returns the text of ids, without control tokens. It reverses Encode: a space that the tokenizer puts
// before a text is removed again. The bytes are those of the tokens, valid UTF-8 or not.
func (t *Tokenizer) Decode(ids []int32) string {
	var out strings.Builder
	for _, id := range ids {
		out.WriteString(t.visible(id))
	}
	if t.prefix != prefixNone {
		return strings.TrimPrefix(out.String(), " ")
	}
	return out.String()
}

// visible returns the bytes that id adds to a text: none for control tokens and ids not in the vocabulary.
func (t *Tokenizer) visible(id int32) string {
	if id < 0 || int(id) >= len(t.pieces) || t.isControl(id) {
		return ""
	}
	return t.pieces[id]
}

// Stream decodes tokens as they are generated, in continuation of a prompt: no space is removed at the
// beginning. What it returns is valid UTF-8.
type Stream struct {
	t       *Tokenizer
	pending []byte // an incomplete character
	shown   map[int32]string
}

// NewStream returns a Stream for one generation. shown are names of control tokens that are text here; names that are not
// in the vocabulary do not matter.
func (t *Tokenizer) NewStream(shown ...string) *Stream {
	s := &Stream{t: t}
	for _, name := range shown {
		if id, ok := t.Special(name); ok {
			if s.shown == nil {
				s.shown = map[int32]string{}
			}
			s.shown[id] = name
		}
	}
	return s
}

// Push returns the text that id completes, possibly none. Bytes that cannot become a character are replaced by U+FFFD.
func (s *Stream) Push(id int32) string { return string(s.Append(nil, id)) }

// Append is Push that appends the text to dst.
func (s *Stream) Append(dst []byte, id int32) []byte {
	text, ok := s.shown[id]
	if !ok {
		text = s.t.visible(id)
	}
	s.pending = append(s.pending, text...)
	end := completeUTF8(s.pending)
	if text := s.pending[:end]; utf8.Valid(text) {
		dst = append(dst, text...)
	} else {
		dst = append(dst, bytes.ToValidUTF8(text, []byte("\uFFFD"))...)
	}
	s.pending = append(s.pending[:0], s.pending[end:]...)
	return dst
}

// Flush returns what is pending at the end of a generation.
func (s *Stream) Flush() string {
	text := strings.ToValidUTF8(string(s.pending), "\uFFFD")
	s.pending = s.pending[:0]
	return text
}

// completeUTF8 returns the length of b without a character at its end that lacks bytes.
func completeUTF8(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
