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
			var shown []string
			f := stopFilter{stops: c.stops, emit: func(s string) { shown = append(shown, s) }}
			stopped := false
			for _, p := range c.pieces {
				if stopped = f.add(p); stopped {
					break
				}
			}
			f.flush()
			assert.Equal(t, c.text, f.text.String())
			assert.Equal(t, c.stopped, stopped)
			assert.Equal(t, c.text, strings.Join(shown, ""))
		})
	}
}

func TestStopFilterShowsTextAtOnce(t *testing.T) {
	var shown []string
	f := stopFilter{stops: []string{"##"}, emit: func(s string) { shown = append(shown, s) }}
	for _, p := range []string{"a", "b#", "c"} {
		f.add(p)
	}
	assert.Equal(t, []string{"a", "b", "#c"}, shown)
}
