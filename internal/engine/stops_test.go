package engine

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestStopFilter(t *testing.T) {
	for _, c := range []struct {
		name    string
		stops   []string
		pieces  []string
		text    string
		stopped bool
	}{
		{"no stops", nil, []string{"a", "b"}, "ab", false},
		{"within a token", []string{"END"}, []string{"so ENDing"}, "so ", true},
		{"across tokens", []string{"###"}, []string{"a#", "#", "#b"}, "a", true},
		{"false start", []string{"###"}, []string{"a##", "b"}, "a##b", false},
		{"repeated start", []string{"##!"}, []string{"#", "#", "#", "!"}, "#", true},
		{"earliest of two", []string{"yz", "x"}, []string{"axyz"}, "a", true},
		{"prefix left at the end", []string{"\n\n"}, []string{"a\n"}, "a\n", false},
		{"empty stop is no stop", []string{""}, []string{"abc"}, "abc", false},
		{"longer of two starts is held", []string{"b!", "abc"}, []string{"xab", "c"}, "x", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newStopFilter(c.stops)
			stopped := false
			for _, p := range c.pieces {
				f.text = append(f.text, p...)
				if stopped = f.check(); stopped {
					break
				}
				assert.True(t, strings.HasPrefix(c.text, string(f.text[:f.released])), "released too much: %q", f.text[:f.released])
			}
			f.flush()
			assert.Equal(t, c.text, string(f.text))
			assert.Equal(t, c.stopped, stopped)
		})
	}
}

func TestStopFilterShowsTextAtOnce(t *testing.T) {
	f := newStopFilter([]string{"##"})
	for _, c := range []struct{ piece, released string }{{"a", "a"}, {"b#", "ab"}, {"c", "ab#c"}} {
		f.text = append(f.text, c.piece...)
		assert.False(t, f.check())
		assert.Equal(t, c.released, string(f.text[:f.released]))
	}
}
