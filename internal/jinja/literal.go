package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// number returns the kind and length of a numeric literal at the beginning of s, or length 0.
func number(s string) (tokenKind, int) {
	n := digits(s, isDecimal)
	if n == 0 {
		return "", 0
	}
	if n == 1 && s[0] == '0' && len(s) > 2 {
		switch s[1] | 0x20 {
		case 'x':
			return based(s, isHex)
		case 'o':
			return based(s, func(c byte) bool { return '0' <= c && c <= '7' })
		case 'b':
			return based(s, func(c byte) bool { return c == '0' || c == '1' })
		}
	}
	end := n
	if m := fraction(s[n:]); m > 0 {
		end += m
	}
	if m := exponent(s[end:]); m > 0 {
		end += m
	}
	if end > n {
		return tokFloat, end
	}
	return tokInteger, n
}

func based(s string, ok func(byte) bool) (tokenKind, int) {
	if n := digits(s[2:], ok); n > 0 {
		return tokInteger, 2 + n
	}
	return tokInteger, 1
}

func fraction(s string) int {
	if s == "" || s[0] != '.' {
		return 0
	}
	if n := digits(s[1:], isDecimal); n > 0 {
		return 1 + n
	}
	return 0
}

func exponent(s string) int {
	if s == "" || s[0]|0x20 != 'e' {
		return 0
	}
	i := 1
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	if n := digits(s[i:], isDecimal); n > 0 {
		return i + n
	}
	return 0
}

func isDecimal(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDecimal(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// digits returns the length of a run of digits with single underscores between them.
func digits(s string, ok func(byte) bool) int {
	n := 0
	for n < len(s) && (ok(s[n]) || s[n] == '_' && n > 0 && s[n-1] != '_' && n+1 < len(s) && ok(s[n+1])) {
		n++
	}
	return n
}

// unescape resolves the escapes of a Python string literal. problem is not empty if one of them is wrong.
func unescape(s string) (value, problem string) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, ""
	}
	simple := map[byte]string{
		'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': `"`, 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': "",
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if text, ok := simple[s[i]]; ok {
			b.WriteString(text)
			continue
		}
		r, n, problem := numericEscape(s[i:])
		switch {
		case problem != "":
			return "", problem
		case n == 0: // not an escape: the backslash stays
			b.WriteByte('\\')
			b.WriteByte(s[i])
		default:
			b.WriteRune(r)
			i += n - 1
		}
	}
	return b.String(), ""
}

// numericEscape reads xHH, uXXXX, UXXXXXXXX or up to three octal digits; n is the length read, 0 if s is none of these.
func numericEscape(s string) (r rune, n int, problem string) {
	size, base := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]], 16
	start := 1
	if size == 0 {
		if s[0] == 'N' {
			return 0, 0, `has an escape \N{...}, which is not supported`
		}
		for size < 3 && size < len(s) && '0' <= s[size] && s[size] <= '7' {
			size++
		}
		if size == 0 {
			return 0, 0, ""
		}
		start, base = 0, 8
	}
	if start+size > len(s) {
		return 0, 0, fmt.Sprintf(`has a truncated escape \%s`, s)
	}
	v, err := strconv.ParseUint(s[start:start+size], base, 32)
	if err != nil || v > utf8.MaxRune {
		return 0, 0, fmt.Sprintf(`has a wrong escape \%s`, s[:start+size])
	}
	return rune(v), start + size, ""
}
