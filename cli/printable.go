package cli

import (
	"bytes"
	"fmt"
	"io"
	"unicode/utf8"
)

// printable writes text to a terminal, and what may be shown on one, with control characters as \x1b or \u009b: names and
// messages from files could otherwise move the cursor, retitle the window or hide lines. Line ends and tabs stay.
type printable struct{ w io.Writer }

func (p printable) Write(b []byte) (int, error) {
	if !bytes.ContainsFunc(b, isControl) {
		return p.w.Write(b)
	}
	var out []byte
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case !isControl(r):
			out = append(out, rest[:n]...)
		case r < utf8.RuneSelf:
			out = fmt.Appendf(out, `\x%02x`, r)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		rest = rest[n:]
	}
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// isControl reports whether a terminal may act on r: C0 without line end and tab, DEL, C1, and characters that turn the direction
// of what follows.
func isControl(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	}
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}
