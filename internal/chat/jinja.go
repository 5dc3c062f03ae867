package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// jinja executes a template as the transformers library does: blocks take the line end after them and the
// white space before them; raise_exception, strftime_now and Python's form of JSON are available. Templates
// have no access to files.
type jinja struct {
	template *exec.Template
}

func newJinja(source string) (j *jinja, err error) {
	defer recoverTo(&err)
	cfg := config.New()
	cfg.TrimBlocks, cfg.LeftStripBlocks = true, true
	loader, err := loaders.NewMemoryLoader(map[string]string{"/template": source})
	if err != nil {
		return nil, err
	}
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSON); err != nil {
		return nil, err
	}
	t, err := exec.NewTemplate("/template", cfg, loader, &exec.Environment{
		Context:           exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables),
		Filters:           filters,
		Tests:             builtins.Tests,
		ControlStructures: builtins.ControlStructures,
		Methods:           builtins.Methods,
	})
	if err != nil {
		for errors.Unwrap(err) != nil { // the outer error repeats the whole template
			err = errors.Unwrap(err)
		}
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	return &jinja{t}, nil
}

// recoverTo turns a panic of the template engine into an error: templates come from model files.
func recoverTo(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the template engine failed: %v", r)
	}
}

func (j *jinja) render(c *conversation) (out string, err error) {
	defer recoverTo(&err)
	messages := make([]any, len(c.messages))
	for i, m := range c.messages {
		messages[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	var raised error
	vars := map[string]any{
		"messages":              messages,
		"add_generation_prompt": c.addGenerationPrompt,
		"bos_token":             c.bos,
		"eos_token":             c.eos,
		"raise_exception": func(text string) (string, error) {
			raised = errors.New(text)
			return "", raised
		},
		"strftime_now": func(format string) (string, error) { return strftime(c.now, format) },
	}
	out, err = j.template.ExecuteToString(exec.NewContext(vars))
	if raised != nil {
		return "", raised
	}
	return out, err
}

// toJSON is the filter tojson: like Python's json.dumps with ensure_ascii=False.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := params.GetKeywordArgument("indent", nil)
	width := -1
	if indent.IsInteger() {
		width = indent.Integer()
	}
	var b strings.Builder
	if err := writeJSON(&b, in.Interface(), width, 0); err != nil {
		b.Reset()
		if err := writeJSON(&b, in.ToGoSimpleType(false), width, 0); err != nil {
			return exec.AsValue(err)
		}
	}
	return exec.AsSafeValue(b.String())
}

// writeJSON writes v with indent spaces per depth, or on one line if indent is negative.
func writeJSON(b *strings.Builder, v any, indent, depth int) error {
	list := func(open, close string, n int, item func(i int) error) error {
		b.WriteString(open)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			if indent >= 0 {
				b.WriteString("\n" + strings.Repeat(" ", indent*(depth+1)))
			} else if i > 0 {
				b.WriteByte(' ')
			}
			if err := item(i); err != nil {
				return err
			}
		}
		if indent >= 0 && n > 0 {
			b.WriteString("\n" + strings.Repeat(" ", indent*depth))
		}
		b.WriteString(close)
		return nil
	}
	switch v := v.(type) {
	case []any:
		return list("[", "]", len(v), func(i int) error { return writeJSON(b, v[i], indent, depth+1) })
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		// A message lists its role first; Go's maps have no order of their own.
		sort.Slice(keys, func(i, j int) bool {
			if (keys[i] == "role") != (keys[j] == "role") {
				return keys[i] == "role"
			}
			return keys[i] < keys[j]
		})
		return list("{", "}", len(keys), func(i int) error {
			if err := writeJSON(b, keys[i], indent, depth+1); err != nil {
				return err
			}
			b.WriteString(": ")
			return writeJSON(b, v[keys[i]], indent, depth+1)
		})
	case nil, bool, string, int, int64, float64:
		var buf bytes.Buffer
		e := json.NewEncoder(&buf)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return err
		}
		b.WriteString(strings.TrimSuffix(buf.String(), "\n"))
		return nil
	}
	return fmt.Errorf("tojson: a value of type %T is not supported", v)
}

// strftime formats a time as C's function of this name does in the C locale.
func strftime(t time.Time, format string) (string, error) {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'j': "002", 'm': "01",
		'M': "04", 'p': "PM", 'S': "05", 'y': "06", 'Y': "2006", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
	}
	unpadded := map[byte]string{'d': "2", 'm': "1", 'I': "3"}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		from := layouts
		if i++; i < len(format) && format[i] == '-' {
			from = unpadded
			i++
		}
		if i < len(format) && format[i] == '%' {
			b.WriteByte('%')
			continue
		}
		layout := ""
		if i < len(format) {
			layout = from[format[i]]
		}
		if layout == "" {
			return "", fmt.Errorf("strftime_now: format %q is not supported", format)
		}
		b.WriteString(t.Format(layout))
	}
	return b.String(), nil
}
