// Package jinja renders chat templates: the language of Jinja2 as the transformers library sets it up (trim_blocks,
// lstrip_blocks, loop controls, the generation tag, raise_exception, strftime_now, its own tojson), byte for byte.
//
// A template is code from a stranger. Source, nesting, steps, memory and output are bounded, a context ends a
// rendering, and there is nothing to reach: no files, no other templates, no Python attributes beyond the methods
// of texts, dicts and lists that change nothing. Every error names the line and the construct.
//
// The engine is written for this program because Go's engines that are made for chat templates have no bound on steps,
// memory and depth and no place to add one.
package jinja

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxSource bounds the length of a template in bytes; those of known models have less than 64 KiB.
const maxSource = 1 << 20

// Limits bound a rendering.
type Limits struct {
	Steps  int // expressions and statements evaluated, and 64 bytes of text looked at count as one
	Memory int // bytes of all values made, whether still in use or not
	Output int // bytes of the result
}

// DefaultLimits returns limits for a conversation of the given length in bytes, all its parts counted.
func DefaultLimits(input int) Limits {
	return Limits{Steps: 5_000_000 + 16*input, Memory: 128<<20 + 64*input, Output: 16<<20 + 4*input}
}

// Template is a parsed template. It is immutable and safe for concurrent use.
type Template struct {
	body []stmt
}

// Parse reads a template.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, &Error{Text: fmt.Sprintf("the template has %d bytes, at most %d are supported", len(source), maxSource)}
	}
	body, err := parse(source)
	if err != nil {
		return nil, err
	}
	return &Template{body}, nil
}

// Render executes the template with the given variables, whose values are nil, bool, int64, float64, string, *List and
// *Dict. now is what strftime_now formats. An error is an *Error, or that of ctx.
func (t *Template) Render(ctx context.Context, vars map[string]Value, now time.Time, limits Limits) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	e := &interp{ctx: ctx, limits: limits, vars: vars, now: now, out: &strings.Builder{}}
	e.execAll(t.body, &scope{})
	if e.err != nil {
		return "", e.err
	}
	return e.out.String(), nil
}

// IsRaised reports whether a template refused its conversation with raise_exception.
func IsRaised(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Raised
}
