package jinja

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/race"
)

// hostile are templates that would run for ever, take all memory or overflow the stack.
func hostile() map[string]string {
	return map[string]string{
		"endless loop":        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
		"endless text":        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
		"huge range":          "{% for i in range(1000000000) %}{% endfor %}",
		"range of 10^18":      "{{ range(10**18)|list }}",
		"recursive macro":     "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
		"mutual recursion":    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
		"recursive loop":      "{% set l = [1] %}{% for x in l recursive %}{{ loop(l) }}{% endfor %}",
		"recursive caller":    "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
		"recursive default":   "{% macro f(x=f()) %}{% endmacro %}{{ f() }}",
		"namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
		"list in namespace":   "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a == ns.a }}{{ ns.a|tojson }}",
		"doubling":            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"doubling by concat":  "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
		"doubling a list":     "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"nesting lists": "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}" +
			"{% endfor %}{{ ns.s }}",
		"nested as JSON": "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}" +
			"{% endfor %}{{ ns.s|tojson }}",
		"nested compared": "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(90) %}" +
			"{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
		"block in itself": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}" +
			"{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}",
		"repeat":             "{{ 'a' * 10000000000 }}",
		"repeat a list":      "{{ [1] * 10000000000 }}",
		"JSON indent":        "{{ [1, [2]]|tojson(indent=2000000000) }}",
		"JSON indent, deep":  "{{ [[[[[[[[[[1]]]]]]]]]]|tojson(indent=20000000) }}",
		"center":             "{{ 'a'|center(2000000000) }}",
		"ljust":              "{{ 'a'.ljust(2000000000) }}",
		"zfill":              "{{ 'a'.zfill(2000000000) }}",
		"indent":             "{{ ('\\n' * 10000)|indent(1000000, true, true) }}",
		"format width":       "{{ '%2000000000d' % 1 }}",
		"format precision":   "{{ '%.2000000000f' % 1 }}",
		"str.format width":   "{{ '{:2000000000}'.format(1) }}",
		"many widths":        "{{ ('%1000000d' * 1000) % (([1] * 1000)|map('int')|list) }}{{ ('{0:1000000}' * 1000).format(1) }}",
		"batch":              "{{ [1]|batch(2000000000, 0)|list }}",
		"slice":              "{{ [1]|slice(2000000000)|list }}",
		"replace":            "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
		"replace of nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
		"join":               "{{ range(100000)|join('b' * 100000) }}",
		"joined method":      "{{ ('b' * 100000).join(('a' * 100000)|list) }}",
		"urlencode":          "{% for i in range(1000) %}{{ ('%' * 1000000)|urlencode|length }}{% endfor %}",
		"power":              "{{ 10 ** 10 ** 10 }}",
		"overflow":           "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
		"searching":          "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
		"comparing": "{% set s = 'a' * 10000000 %}{% set t = 'a' * 10000000 %}{% for i in range(99999) %}" +
			"{% if s == t %}{% endif %}{% endfor %}",
		"length of a text": "{% set s = 'ä' * 5000000 %}{% for i in range(99999) %}{{ s|length }}{% endfor %}",
		"last character":   "{% set s = 'ä' * 5000000 %}{% for i in range(99999) %}{{ s[-1] }}{% endfor %}",
		"splitting":        "{% set s = 'a ' * 5000000 %}{% for i in range(99999) %}{{ s.split(' ')|length }}{% endfor %}",
		"splitting lines":  "{% set s = '\\n' * 5000000 %}{% for i in range(99999) %}{{ s.splitlines()|length }}{% endfor %}",
		"counting":         "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ s.count('a') }}{% endfor %}",
		"finding":          "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ s.find('b') }}{% endfor %}",
		"testing case": "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ s.islower() }}{% endfor %}" +
			"{% for i in range(99999) %}{{ s is lower }}{% endfor %}",
		"reversing":     "{% set s = 'a' * 10000000 %}{% for i in range(99999) %}{{ (s|reverse)|length }}{% endfor %}",
		"sorting":       "{% for i in range(999) %}{{ range(100000)|sort(reverse=true)|length }}{% endfor %}",
		"sums of lists": "{{ ([[1, 2, 3]] * 100000)|sum(start=[])|length }}",
		"unique":        "{% for i in range(99999) %}{{ range(99999)|unique|list|length }}{% endfor %}",
		"grouping":      "{% for i in range(99999) %}{{ ([{'a': 1}] * 99999)|groupby('a')|length }}{% endfor %}",
		"mapping":       "{% for i in range(99999) %}{{ range(99999)|map('string')|list|length }}{% endfor %}",
		"nested map": "{{ [[1]]|map('map', 'map', 'map', 'map')|list }}{% for i in range(99999) %}" +
			"{% for j in range(99999)|map('abs') %}{% endfor %}{% endfor %}",
		"arguments": "{% macro f() %}{{ varargs|length }}{% endmacro %}" +
			"{% for i in range(99999) %}{{ f(*range(99999)) }}{% endfor %}",
		"dict of many": "{% for i in range(99999) %}{% set d = dict(range(99999)|map('list')) %}{% endfor %}",
		"dict copies": "{% set ns = namespace(d={}) %}{% for i in range(99999) %}" +
			"{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}",
		"attributes":    "{{ [1]|map(attribute='a.' * 1000000)|list }}",
		"stripping":     "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ (s|trim('xyza'))|length }}{% endfor %}",
		"upper":         "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.upper()|length }}{% endfor %}",
		"escaping":      "{% set s = '<' * 1000000 %}{% for i in range(99999) %}{{ (s|e)|length }}{% endfor %}",
		"time":          "{{ strftime_now('%c' * 10000000)|length }}{{ strftime_now('%c' * 10000000)|length }}",
		"parentheses":   "{{ " + strings.Repeat("(", 100_000),
		"brackets":      "{{ " + strings.Repeat("[", 100_000),
		"braces":        "{{ " + strings.Repeat(`{"a":`, 100_000),
		"not":           "{{ " + strings.Repeat("not ", 100_000) + "1 }}",
		"minus":         "{{ " + strings.Repeat("-", 100_000) + "1 }}",
		"blocks":        strings.Repeat("{% if 1 %}", 50_000),
		"loops":         strings.Repeat("{% for i in x %}", 50_000),
		"conditions":    "{{ " + strings.Repeat("1 if 1 else ", 50_000) + "1 }}",
		"sum of many":   "{{ " + strings.Repeat("1+", 100_000) + "1 }}",
		"attributes of": "{{ x" + strings.Repeat(".a", 100_000) + " }}",
		"filters":       "{{ x" + strings.Repeat("|abs", 100_000) + " }}",
		"calls":         "{{ x" + strings.Repeat("()", 100_000) + " }}",
		"long source":   strings.Repeat("x", maxSource+1),
		"powers":        "{{ " + strings.Repeat("2**", 100_000) + "2 }}",
	}
}

// TestHostileTemplatesEndWithAnError bounds time and memory of every template, alone.
func TestHostileTemplatesEndWithAnError(t *testing.T) {
	for name, source := range hostile() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := render(source, nil)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			require.Less(t, len(err.Error()), 700)
			limit := 20 * time.Second
			if race.Enabled { // its instructions take five to twenty times as long
				limit *= 10
			}
			require.Less(t, time.Since(start), limit)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<30), "all memory ever taken")
			require.Less(t, after.Sys, uint64(1<<30), "memory taken from the system")
		})
	}
}

func TestContextEndsARendering(t *testing.T) {
	tmpl, err := Parse("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = tmpl.Render(ctx, nil, testTime, DefaultLimits(0))
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	limits := DefaultLimits(0)
	limits.Steps = 1 << 40
	start := time.Now()
	_, err = tmpl.Render(ctx, nil, testTime, limits)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestLimitsAreNamed(t *testing.T) {
	vars, _ := readGoldens(t)
	for source, want := range map[string]string{
		"{% for i in range(1000) %}{{ i }}{% endfor %}": "more than 500 steps",
		"{{ 'a' * 3000000 }}":                           "more than 2 MiB of memory",
		"{% set x = 'a' * 900000 %}{{ x }}{{ x }}":      "more than 1 MiB of text",
	} {
		tmpl, err := Parse(source)
		require.NoError(t, err)
		limits := Limits{Steps: 500, Memory: 2 << 20, Output: 1 << 20}
		if strings.Contains(want, "MiB") {
			limits.Steps = 1 << 20
		}
		if strings.Contains(want, "text") {
			limits.Memory = 1 << 30
		}
		_, err = tmpl.Render(context.Background(), vars, testTime, limits)
		require.ErrorContains(t, err, want)
	}
}

// FuzzRender looks for panics, and for renderings that pass the limits.
func FuzzRender(f *testing.F) {
	vars, cases := readGoldens(f)
	for _, c := range cases {
		f.Add(*c[0])
	}
	for _, source := range hostile() {
		if len(source) < 400 {
			f.Add(source)
		}
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Parse(source)
		if err != nil {
			return
		}
		limits := Limits{Steps: 20_000, Memory: 1 << 20, Output: 1 << 18}
		start := time.Now()
		out, err := tmpl.Render(context.Background(), vars, testTime, limits)
		require.LessOrEqual(t, len(out), limits.Output)
		require.Less(t, time.Since(start), 10*time.Second)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
		}
	})
}
