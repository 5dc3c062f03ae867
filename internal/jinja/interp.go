package jinja

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// maxDepth bounds how deeply a rendering may nest: expressions in expressions, macros in macros, values in values.
const maxDepth = 1000

// maxRange bounds a range, as Jinja2's sandbox does.
const maxRange = 100_000

// interp is one rendering. After the first error, which err keeps, everything evaluates to an undefined value.
type interp struct {
	ctx    context.Context
	limits Limits
	vars   map[string]Value // of the caller
	now    time.Time

	out   *strings.Builder // what is being rendered: the text, or a block that is captured
	err   error
	at    int // the line of the statement or expression in work
	depth int
	steps int
	bytes int
}

// Error is an error of a template. Line counts from 1; 0: none.
type Error struct {
	Line int
	Text string // one line without control characters
	// Raised tells that the template itself refuses the conversation, with raise_exception.
	Raised bool
}

func (e *Error) Error() string {
	if e.Raised || e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Text)
}

const maxErrorText = 400

// errorAt makes an error whose text cannot harm a terminal or a log: templates and messages come from strangers.
func errorAt(line int, format string, values ...any) *Error {
	return &Error{Line: line, Text: cleanText(fmt.Sprintf(format, values...))}
}

func cleanText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() > maxErrorText {
			b.WriteString("…")
			break
		}
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// fail keeps the first error and returns an undefined value.
func (e *interp) fail(format string, values ...any) Value {
	if e.err == nil {
		e.err = errorAt(e.at, format, values...)
	}
	return &undefined{}
}

// enter goes one level deeper and reports whether that is allowed. The caller must call leave if so.
func (e *interp) enter() bool {
	if e.depth >= maxDepth {
		e.fail("nested more than %d deep", maxDepth)
	}
	if e.err != nil {
		return false
	}
	e.depth++
	return true
}

func (e *interp) leave() { e.depth-- }

// step counts work: about what evaluating one expression takes.
func (e *interp) step(n int) {
	before := e.steps
	e.steps += n
	if e.steps > e.limits.Steps {
		e.fail("more than %d steps", e.limits.Steps)
	}
	const every = 1 << 10
	if before/every != e.steps/every && e.err == nil {
		if err := e.ctx.Err(); err != nil {
			e.err = err
		}
	}
}

// scan counts the work of looking at n bytes.
func (e *interp) scan(n int) { e.step(n / 64) }

// charge counts n bytes of memory that a value takes, and reports whether the limit allows them. Memory is counted
// when it is taken, and not given back: the sum also bounds the time.
func (e *interp) charge(n int) bool {
	e.scan(n)
	if n < 0 || n > e.limits.Memory-e.bytes {
		e.fail("more than %d MiB of memory", e.limits.Memory>>20)
		return false
	}
	e.bytes += n
	return e.err == nil
}

// overflows reports whether a text of n bytes that is being built is longer than what is left.
func (e *interp) overflows(n int) bool {
	if n > e.limits.Memory-e.bytes {
		e.fail("more than %d MiB of memory", e.limits.Memory>>20)
	}
	return e.err != nil
}

// valueBytes is what an item of a list takes.
const valueBytes = 16

// newList returns a list and counts its memory.
func (e *interp) newList(items []Value) *List {
	e.charge(valueBytes * (len(items) + 2))
	return &List{Items: items}
}

// newText counts the memory of a new text.
func (e *interp) newText(s string) Value {
	if !e.charge(len(s)) {
		return &undefined{}
	}
	return s
}

// write appends to the output.
func (e *interp) write(s string) {
	if e.out.Len()+len(s) > e.limits.Output {
		e.fail("more than %d MiB of text", e.limits.Output>>20)
		return
	}
	if e.charge(len(s)) {
		e.out.WriteString(s)
	}
}

// capture renders body into a text of its own.
func (e *interp) capture(body func()) string {
	outer := e.out
	e.out = &strings.Builder{}
	body()
	text := e.out.String()
	e.out = outer
	return text
}

// iterate returns the items of a value; an iterator is used up.
func (e *interp) iterate(v Value) []Value {
	switch v := v.(type) {
	case *undefined:
		return nil
	case *List:
		return v.Items
	case *Dict:
		return v.keys
	case *view:
		return v.items
	case *iterator:
		items := v.items
		v.items = nil
		return items
	case *integers:
		if !e.charge(valueBytes * v.len()) {
			return nil
		}
		items := make([]Value, v.len())
		for i := range items {
			items[i] = v.start + int64(i)*v.step
		}
		return items
	}
	if s, ok := textOf(v); ok {
		n := runeCount(s)
		if !e.charge(2 * valueBytes * n) {
			return nil
		}
		items := make([]Value, 0, n)
		for _, r := range s {
			items = append(items, string(r))
		}
		return items
	}
	e.fail("%s is not iterable", typeName(v))
	return nil
}
