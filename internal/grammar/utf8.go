package grammar

import "slices"

const maxRune = 0x10FFFF

// byteSpan is the bytes lo … hi, both included.
type byteSpan struct{ lo, hi byte }

// sorted returns the spans in ascending order, joined where they touch, and within Unicode.
func (c class) sorted() class {
	in := slices.Clone(c)
	slices.SortFunc(in, func(a, b runeSpan) int { return int(a.lo) - int(b.lo) })
	var out class
	for _, s := range in {
		s.lo, s.hi = max(s.lo, 0), min(s.hi, maxRune)
		if s.lo > s.hi {
			continue
		}
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// utf8Bounds are the last runes of 1, 2 and 3 bytes; spans are cut there, and around the surrogates, which UTF-8 does not have.
var utf8Bounds = []rune{0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF, maxRune}

// sequences returns byte spans whose concatenations are the UTF-8 forms of c's runes: each element is one to four spans.
func (c class) sequences() [][]byteSpan {
	var out [][]byteSpan
	for _, s := range c.sorted() {
		lo := s.lo
		for _, bound := range utf8Bounds {
			if hi := min(s.hi, bound); lo <= hi {
				if bound != 0xDFFF {
					out = appendSequences(out, encode(lo), encode(hi))
				}
				lo = hi + 1
			}
		}
	}
	return out
}

func encode(r rune) []byte { return []byte(string(r)) }

// appendSequences appends spans for the UTF-8 forms from lo to hi, which have the same length.
func appendSequences(out [][]byteSpan, lo, hi []byte) [][]byteSpan {
	n := len(lo)
	if n == 1 || lo[0] == hi[0] {
		if n == 1 {
			return append(out, []byteSpan{{lo[0], hi[0]}})
		}
		for _, tail := range appendSequences(nil, lo[1:], hi[1:]) {
			out = append(out, append([]byteSpan{{lo[0], lo[0]}}, tail...))
		}
		return out
	}
	first, last := lo[0], hi[0]
	if !allOf(lo[1:], 0x80) {
		for _, tail := range appendSequences(nil, lo[1:], fill(n-1, 0xBF)) {
			out = append(out, append([]byteSpan{{first, first}}, tail...))
		}
		first++
	}
	var end [][]byteSpan
	if !allOf(hi[1:], 0xBF) {
		for _, tail := range appendSequences(nil, fill(n-1, 0x80), hi[1:]) {
			end = append(end, append([]byteSpan{{last, last}}, tail...))
		}
		last--
	}
	if first <= last {
		middle := []byteSpan{{first, last}}
		for range n - 1 {
			middle = append(middle, byteSpan{0x80, 0xBF})
		}
		out = append(out, middle)
	}
	return append(out, end...)
}

func allOf(b []byte, v byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != v })
}

func fill(n int, v byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = v
	}
	return b
}
