package lint

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The longest lines, in characters; a tab counts as one.
const (
	widestCode     = 130
	widestMarkdown = 110
)

func TestLinesAreNotTooWide(t *testing.T) {
	check := func(limit int, extensions ...string) {
		for _, s := range sources(t, extensions...) {
			for _, at := range tooWide(s.lines, limit, limit == widestCode) {
				t.Errorf("%s:%d: %d characters, at most %d are allowed", s.path, at+1, utf8.RuneCountInString(s.lines[at]), limit)
			}
		}
	}
	check(widestCode, ".go", ".cu", ".cuh", ".cpp", ".h")
	check(widestMarkdown, ".md")
}

// tooWide returns the indices of lines with more than limit characters. In Go, raw strings of several lines are data.
func tooWide(lines []string, limit int, goCode bool) (at []int) {
	data := false
	for i, l := range lines {
		begins := strings.Count(quoted.ReplaceAllString(l, ""), "`")%2 == 1
		if data {
			begins = strings.Count(l, "`")%2 == 1
		}
		if utf8.RuneCountInString(l) > limit && !data && !(goCode && begins) {
			at = append(at, i)
		}
		data = goCode && data != begins
	}
	return at
}

// quoted are Go's interpreted strings, in which a backquote begins nothing.
var quoted = regexp.MustCompile(`"(?:\\.|[^"\\])*"`)

func TestWidthsCountCharacters(t *testing.T) {
	lines := []string{"\tαβγδ", "abcdef", "abcde", "x = `", "a long line", "` + yyyy", "toolong"}
	if at := tooWide(lines, 5, true); !slices.Equal(at, []int{1, 6}) {
		t.Errorf("found %v, expected the second and the last line only", at)
	}
	if at := tooWide(lines, 5, false); !slices.Equal(at, []int{1, 4, 5, 6}) {
		t.Errorf("found %v, expected all wide lines", at)
	}
}
