package tokenizer

import (
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// specialTokens finds control, unknown and user-defined tokens in a text, leftmost first, longest first.
type specialTokens struct {
	byFirst [256][]specialToken // by first byte, longest first
	any     bool
}

type specialToken struct {
	name    string
	id      int32
	attr    uint8
	control bool // recognized only when special tokens are to be parsed
}

type specialMatch struct {
	id         int32
	start, end int // of what it replaces, white space that it strips included
}

func newSpecialTokens(s *spec, eog map[int32]bool) specialTokens {
	var st specialTokens
	for id, name := range s.tokens {
		typ := s.attrs[id] & typeMask
		// Ends of generation are control tokens even where a conversion forgot to say so.
		control := typ == typeControl || typ == typeUnknown || eog[int32(id)]
		if name == "" || !control && typ != typeUser {
			continue
		}
		st.byFirst[name[0]] = append(st.byFirst[name[0]], specialToken{name, int32(id), s.attrs[id], control})
		st.any = true
	}
	for _, list := range st.byFirst {
		sort.SliceStable(list, func(i, j int) bool { return len(list[i].name) > len(list[j].name) })
	}
	return st
}

func (st *specialTokens) exact(name string) (int32, bool) {
	if name == "" {
		return -1, false
	}
	for _, s := range st.byFirst[name[0]] {
		if s.name == name {
			return s.id, true
		}
	}
	return -1, false
}

// find returns the first special token of text. Without one, start is len(text).
func (st *specialTokens) find(text string, control bool) (specialMatch, bool) {
	if !st.any {
		return specialMatch{start: len(text)}, false
	}
	for i := 0; i < len(text); i++ {
		for _, s := range st.byFirst[text[i]] {
			if s.control && !control || !strings.HasPrefix(text[i:], s.name) {
				continue
			}
			end := i + len(s.name)
			if s.attr&flagSingleWord != 0 && insideWord(text, i, end) {
				break
			}
			m := specialMatch{s.id, i, end}
			if s.attr&flagLStrip != 0 {
				m.start = len(strings.TrimRightFunc(text[:i], unicode.IsSpace))
			}
			if s.attr&flagRStrip != 0 {
				m.end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
			}
			return m, true
		}
	}
	return specialMatch{start: len(text)}, false
}

func insideWord(text string, start, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:start])
	after, _ := utf8.DecodeRuneInString(text[end:])
	return start > 0 && isWordRune(before) || end < len(text) && isWordRune(after)
}

func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Pc)
}

// findEnds finds the end-of-turn token, if the source names none, and the tokens that end a generation.
// Sources do not mark them, so they are known by name; names that are also ordinary markup count only as
// control tokens.
func (t *Tokenizer) findEnds() {
	turn := []string{"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
		"<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"}
	markup := []string{"</s>", "<eos>", "[EOS]", "<|eom_id|>", "<|return|>", "<|call|>",
		"<|fim_pad|>", "<fim_pad>", "<|repo_name|>", "<reponame>", "<|file_sep|>"}
	ids := make(map[string]int32, len(turn)+len(markup))
	for _, n := range append(slices.Clone(turn), markup...) {
		ids[n] = -1
	}
	for id, text := range t.tokens {
		if _, known := ids[text]; known {
			ids[text] = int32(id)
		}
	}
	t.eog = map[int32]bool{}
	t.turnEnd = t.eot
	for _, n := range turn {
		if id := ids[n]; id >= 0 {
			t.eog[id] = true
			if t.turnEnd < 0 {
				t.turnEnd = id
			}
		}
	}
	for _, n := range markup {
		if id := ids[n]; id >= 0 && t.attrs[id]&typeMask == typeControl {
			t.eog[id] = true
		}
	}
	for _, id := range []int32{t.eos, t.eot} {
		if id >= 0 {
			t.eog[id] = true
		}
	}
}
