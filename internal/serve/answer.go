package serve

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
)

// answerParser splits the text of an answer as it comes. What is not recognized stays content: nothing is lost.
type answerParser struct {
	family *chat.Parser // nil: a grammar shapes the text
	call   bool         // a grammar makes the text one call: an object of name and arguments
	calls  int
	text   string // of a call, that was not sent
	open   bool   // the call's name was sent
}

// newAnswerParser returns a parser for an answer to a prompt. tools.must says that a grammar makes it a call, constrained that
// one gives it another form.
func newAnswerParser(m *Loaded, tools *toolChoice, constrained bool, o chat.ParserOptions) *answerParser {
	p := &answerParser{call: tools.must}
	if !constrained {
		o.Tools = tools.list
		p.family = chat.NewParser(m.Template, o)
	}
	return p
}

// deltas turns the parts that a family's parser found into those of a message.
func (p *answerParser) deltas(parts []chat.Delta) []messageDelta {
	var out []messageDelta
	for _, d := range parts {
		switch {
		case d.Call != nil:
			out = append(out, callPiece(callDelta{Index: p.calls, ID: d.Call.ID, Type: "function",
				Function: callFunctionDelta{Name: d.Call.Name, Arguments: d.Call.Arguments}}))
			p.calls++
		case d.Arguments != "":
			out = append(out, callPiece(callDelta{Index: p.calls - 1, Function: callFunctionDelta{Arguments: d.Arguments}}))
		case d.Reasoning != "":
			out = append(out, messageDelta{Reasoning: d.Reasoning})
		case d.Content != "":
			out = append(out, messageDelta{Content: &d.Content})
		}
	}
	return out
}

// callStart is how the text of a call begins by the grammar of toolChoice.
var callStart = regexp.MustCompile(`^\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*`)

func (p *answerParser) feed(text string) []messageDelta {
	if p.family != nil {
		return p.deltas(p.family.Feed(text))
	}
	if !p.call {
		return []messageDelta{{Content: &text}}
	}
	p.text += text
	var out []messageDelta
	if !p.open {
		m := callStart.FindStringSubmatch(p.text)
		if m == nil {
			return nil
		}
		name, err := strconv.Unquote(m[1])
		if err != nil {
			return nil // names are constants of the grammar
		}
		p.open, p.calls, p.text = true, 1, p.text[len(m[0]):]
		out = append(out, callPiece(callDelta{ID: newID("call"), Type: "function", Function: callFunctionDelta{Name: name}}))
	}
	// The object's own end is held back: it is not part of the arguments.
	if n := len(strings.TrimRight(p.text, "} \t\n")); n > 0 {
		out = append(out, callPiece(callDelta{Function: callFunctionDelta{Arguments: p.text[:n]}}))
		p.text = p.text[n:]
	}
	return out
}

func callPiece(c callDelta) messageDelta { return messageDelta{ToolCalls: []callDelta{c}} }

func (p *answerParser) end() []messageDelta {
	if p.family != nil {
		return p.deltas(p.family.End())
	}
	if p.text == "" {
		return nil
	}
	rest := p.text
	p.text = ""
	if !p.open { // cut off before the name was complete
		return []messageDelta{{Content: &rest}}
	}
	rest = strings.TrimSuffix(strings.TrimRight(rest, " \t\n"), "}")
	return []messageDelta{callPiece(callDelta{Function: callFunctionDelta{Arguments: strings.TrimRight(rest, " \t\n")}})}
}

// whole splits a text that is complete.
func (p *answerParser) whole(text string) messageOut { return joined(append(p.feed(text), p.end()...)) }

// joined puts the pieces of an answer together.
func joined(deltas []messageDelta) messageOut {
	m := messageOut{Role: "assistant"}
	content := ""
	for _, d := range deltas {
		if d.Content != nil {
			content += *d.Content
		}
		m.Reasoning += d.Reasoning
		for _, c := range d.ToolCalls {
			for c.Index >= len(m.ToolCalls) {
				m.ToolCalls = append(m.ToolCalls, chat.ToolCall{})
			}
			call := &m.ToolCalls[c.Index]
			call.ID += c.ID
			call.Name += c.Function.Name
			call.Arguments += c.Function.Arguments
		}
	}
	if content != "" || len(m.ToolCalls) == 0 {
		m.Content = &content
	}
	return m
}

// grammar returns the grammar of a call that must come: an object of name and arguments.
func (t *toolChoice) grammar() (string, func() (*grammar.Grammar, error)) {
	schema := t.schema("name", "arguments")
	return "schema:" + string(schema), func() (*grammar.Grammar, error) { return grammar.FromSchema(schema) }
}
