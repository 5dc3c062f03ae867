package main

import (
	"regexp"
	"strings"
)

// macro is a #define with parameters.
type macro struct {
	params []string // the last may be "..."
	body   string
}

var (
	macroDecl = regexp.MustCompile(`(?m)^#define (\w+)\(([^)]*)\)((?:.*\\\n)*.*)$`)
	macroCall = regexp.MustCompile(`(?m)^\s*(\w+)\((.*)\)\s*$`)
)

// parseMacros finds the macros of a header.
func parseMacros(src string) map[string]macro {
	all := map[string]macro{}
	for _, m := range macroDecl.FindAllStringSubmatch(src, -1) {
		var params []string
		for _, p := range strings.Split(m[2], ",") {
			params = append(params, strings.TrimSpace(p))
		}
		all[m[1]] = macro{params, strings.ReplaceAll(m[3], "\\\n", "\n")}
	}
	return all
}

// expand replaces lines that are nothing but a call of a macro by what it stands for.
func expand(src string, macros map[string]macro) string {
	return macroCall.ReplaceAllStringFunc(src, func(line string) string {
		m := macroCall.FindStringSubmatch(line)
		d, ok := macros[m[1]]
		if !ok {
			return line
		}
		return expand(d.apply(m[2]), macros)
	})
}

// apply returns the body with the arguments in place of the parameters.
func (m macro) apply(args string) string {
	values := strings.SplitN(args, ",", len(m.params))
	body := m.body
	for i, p := range m.params {
		if i >= len(values) {
			break
		}
		if p == "..." {
			p = "__VA_ARGS__"
		}
		body = regexp.MustCompile(`\b`+p+`\b`).ReplaceAllLiteralString(body, strings.TrimSpace(values[i]))
	}
	return strings.ReplaceAll(body, "##", "")
}
