package tokenizer

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/text/unicode/norm"
)

// Steps of a normalizer, applied in order to the text between special tokens.
const (
	stepNFC       = "nfc"
	stepNFD       = "nfd"
	stepNFKC      = "nfkc"
	stepNFKD      = "nfkd"
	stepLower     = "lower"
	stepStripL    = "strip left"
	stepStripR    = "strip right"
	stepCollapse  = "collapse"  // two or more spaces become one
	stepWords     = "words"     // white space of any kind and length becomes one space, none at the ends
	stepGraphemes = "graphemes" // the character map, as the tokenizers library applies it
	stepReplace   = "replace"   // followed by two more entries: what, and by what
	maxSteps      = 64          // entries of the list
)

// normalizer is the list of steps with what they need.
type normalizer struct {
	steps []string
	chars *charsMap // of stepGraphemes
}

func newNormalizer(s *spec) (*normalizer, error) {
	n := &normalizer{steps: s.steps}
	if len(s.steps) > maxSteps {
		return nil, fmt.Errorf("tokenizer: the normalizer has %d steps, at most %d are supported", len(s.steps), maxSteps)
	}
	for i := 0; i < len(s.steps); i++ {
		switch step := s.steps[i]; step {
		case stepNFC, stepNFD, stepNFKC, stepNFKD, stepLower, stepStripL, stepStripR, stepCollapse, stepWords:
		case stepGraphemes:
			var err error
			if n.chars, err = newCharsMap(s.charsMap); err != nil {
				return nil, err
			}
		case stepReplace:
			if i+2 >= len(s.steps) || s.steps[i+1] == "" {
				return nil, fmt.Errorf("tokenizer: normalizer step %q needs two texts", step)
			}
			if len(s.steps[i+2]) > 4*len(s.steps[i+1]) {
				return nil, fmt.Errorf("tokenizer: normalizer step %q makes the text more than 4 times as long", step)
			}
			i += 2
		default:
			return nil, fmt.Errorf("tokenizer: unknown normalizer step %q", step)
		}
	}
	return n, nil
}

var manySpaces = regexp.MustCompile(" {2,}")

func (n *normalizer) apply(s string) string {
	forms := map[string]norm.Form{stepNFC: norm.NFC, stepNFD: norm.NFD, stepNFKC: norm.NFKC, stepNFKD: norm.NFKD}
	for i := 0; i < len(n.steps); i++ {
		switch step := n.steps[i]; step {
		case stepLower:
			s = lower(strings.ReplaceAll(s, "İ", "i\u0307")) // the only character that becomes two
		case stepStripL:
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		case stepStripR:
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		case stepCollapse:
			s = manySpaces.ReplaceAllLiteralString(s, " ")
		case stepWords:
			s = words(s)
			s = strings.ReplaceAll(s, " "+spaceMark, spaceMark) // a word that begins with the mark gets no other
		case stepGraphemes:
			s = n.chars.graphemes(s)
		case stepReplace:
			s = strings.ReplaceAll(s, n.steps[i+1], n.steps[i+2])
			i += 2
		default:
			s = forms[step].String(s)
		}
	}
	return s
}

// lower is strings.ToLower, which takes several times the memory of its result if that is longer than s.
func lower(s string) string {
	n := 0
	for _, r := range s {
		n += utf8.RuneLen(unicode.ToLower(r))
	}
	var b strings.Builder
	b.Grow(n)
	for _, r := range s {
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// words joins the words of s with single spaces, without a list of them.
func words(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for word := range strings.FieldsFuncSeq(s, unicode.IsSpace) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	return b.String()
}

// charsMap replaces characters by texts. It is SentencePiece's precompiled_charsmap: u32 length of the trie, the trie as a
// double array of u32 units (Yata's darts-clone), then the texts, each ended by a zero byte.
type charsMap struct {
	units []uint32
	texts string
}

const maxCharsMap = 4 << 20 // that of nmt_nfkc has 240 KiB

// maxReplacement bounds what one character may become, in bytes. The longest of Unicode's normal forms has 33.
const maxReplacement = 64

func newCharsMap(b []byte) (*charsMap, error) {
	if len(b) < 4 || len(b) > maxCharsMap {
		return nil, fmt.Errorf("tokenizer: the character map has %d bytes, expected 4 … %d", len(b), maxCharsMap)
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n%4 != 0 || n < 4 || n > len(b)-4 {
		return nil, fmt.Errorf("tokenizer: the trie of the character map has %d bytes of %d", n, len(b)-4)
	}
	m := &charsMap{units: make([]uint32, n/4), texts: string(b[4+n:])}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(b[4+4*i:])
	}
	if m.texts == "" || m.texts[len(m.texts)-1] != 0 {
		return nil, fmt.Errorf("tokenizer: the texts of the character map do not end with a zero byte")
	}
	for rest := m.texts; rest != ""; {
		n := strings.IndexByte(rest, 0)
		if n > maxReplacement {
			return nil, fmt.Errorf("tokenizer: a text of the character map has %d bytes, at most %d are supported", n, maxReplacement)
		}
		rest = rest[n+1:]
	}
	return m, nil
}

// lookup returns what replaces the shortest key that s begins with, and the key's length, 0 if there is none.
func (m *charsMap) lookup(s string) (text string, length int) {
	unit := m.units[0]
	at := uint32(0)
	move := func() { at ^= unit >> 10 << (unit >> 9 & 1 << 3) }
	move()
	value := -1
	for i := 0; i < len(s); i++ {
		if s[i] == 0 {
			break
		}
		at ^= uint32(s[i])
		if at >= uint32(len(m.units)) {
			break
		}
		unit = m.units[at]
		if unit&(1<<31|0xFF) != uint32(s[i]) {
			break
		}
		move()
		if unit>>8&1 != 0 && at < uint32(len(m.units)) {
			value, length = int(m.units[at]&(1<<31-1)), i+1
			break
		}
	}
	if value < 0 || value >= len(m.texts) {
		return "", 0
	}
	text = m.texts[value:]
	return text[:strings.IndexByte(text, 0)], length
}

// graphemes replaces grapheme clusters of less than 6 bytes, or else characters, by what the shortest key they begin with
// stands for: the rule of the tokenizers library.
func (m *charsMap) graphemes(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	state := -1
	for s != "" {
		var cluster string
		cluster, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		if len(cluster) < 6 {
			if text, n := m.lookup(cluster); n > 0 {
				b.WriteString(text)
				continue
			}
		}
		for cluster != "" {
			_, size := utf8.DecodeRuneInString(cluster)
			if text, n := m.lookup(cluster[:size]); n > 0 {
				b.WriteString(text)
			} else {
				b.WriteString(cluster[:size])
			}
			cluster = cluster[size:]
		}
	}
	return b.String()
}
