package tokenizer

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSpecialBytes bounds the length of a special token, so that looking for them takes a bounded time per byte.
const maxSpecialBytes = 1 << 10

// specialTokens finds control, unknown and user-defined tokens in a text, leftmost first, longest first.
type specialTokens struct {
	all  specialSet // of a text whose control tokens count
	user specialSet // of other texts: user-defined tokens only
}

// specialSet finds the longest of its names at a position.
type specialSet struct {
	tokens []specialToken  // by name
	pairs  [1 << 10]uint64 // the first two bytes of names, a bit each
	single [256]bool       // names of one byte
}

type specialToken struct {
	name    string
	id      int32
	attr    uint8
	shorter int32 // the longest token whose name this one begins with; −1: none
}

type specialMatch struct {
	id         int32
	start, end int // of what it replaces, white space that it strips included
}

func newSpecialTokens(s *spec, eog map[int32]bool) (*specialTokens, error) {
	st := &specialTokens{}
	for id, name := range s.tokens {
		typ := s.attrs[id] & typeMask
		// Ends of generation are control tokens even where a conversion forgot to say so.
		control := typ == typeControl || typ == typeUnknown || eog[int32(id)]
		if name == "" || !control && typ != typeUser {
			continue
		}
		if len(name) > maxSpecialBytes {
			return nil, fmt.Errorf("tokenizer: special token %d is %d bytes long, at most %d are supported",
				id, len(name), maxSpecialBytes)
		}
		token := specialToken{name, int32(id), s.attrs[id], -1}
		st.all.tokens = append(st.all.tokens, token)
		if !control {
			st.user.tokens = append(st.user.tokens, token)
		}
	}
	st.all.index()
	st.user.index()
	return st, nil
}

func (st *specialSet) index() {
	sort.SliceStable(st.tokens, func(i, j int) bool { return st.tokens[i].name < st.tokens[j].name })
	st.tokens = slices.CompactFunc(st.tokens, func(a, b specialToken) bool { return a.name == b.name })
	var open []int32 // names that the present one may begin with, shortest first
	for i := range st.tokens {
		name := st.tokens[i].name
		for len(open) > 0 && !strings.HasPrefix(name, st.tokens[open[len(open)-1]].name) {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			st.tokens[i].shorter = open[len(open)-1]
		}
		open = append(open, int32(i))
		if len(name) == 1 {
			st.single[name[0]] = true
		} else {
			st.pairs[int(name[0])<<2|int(name[1])>>6] |= 1 << (name[1] & 63)
		}
	}
}

func (st *specialTokens) exact(name string) (int32, bool) {
	if i := st.all.longest(name); i >= 0 && st.all.tokens[i].name == name {
		return st.all.tokens[i].id, true
	}
	return -1, false
}

// longest returns the index of the longest token whose name s begins with, −1 if there is none.
func (st *specialSet) longest(s string) int32 {
	i := int32(sort.Search(len(st.tokens), func(i int) bool { return st.tokens[i].name > s })) - 1
	for i >= 0 && !strings.HasPrefix(s, st.tokens[i].name) {
		i = st.tokens[i].shorter
	}
	return i
}

// find returns the first special token of text. Without one, start is len(text).
func (st *specialTokens) find(text string, control bool) (specialMatch, bool) {
	set := &st.user
	if control {
		set = &st.all
	}
	if len(set.tokens) == 0 {
		return specialMatch{start: len(text)}, false
	}
	for i := 0; i < len(text); i++ {
		pair := i+1 < len(text) && set.pairs[int(text[i])<<2|int(text[i+1])>>6]>>(text[i+1]&63)&1 != 0
		if !pair && !set.single[text[i]] {
			continue
		}
		at := set.longest(text[i:min(len(text), i+maxSpecialBytes)])
		if at < 0 {
			continue
		}
		s := &set.tokens[at]
		end := i + len(s.name)
		if s.attr&flagSingleWord != 0 && insideWord(text, i, end) {
			i = end - 1 // the reference implementation looks on after it
			continue
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
