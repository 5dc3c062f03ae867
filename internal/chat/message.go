package chat

import (
	"bytes"
	"encoding/json"

	"github.com/ellm-gpu/ellm-gpu/internal/jinja"
)

// Message is one turn of a conversation. Role is "system", "user", "assistant" or "tool"; other roles are up to the template.
type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Reasoning  string     `json:"reasoning_content,omitempty"` // what the assistant thought before Content
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`        // what the assistant asks for
	ToolCallID string     `json:"tool_call_id,omitempty"`      // of the call that a tool's message answers
	Name       string     `json:"name,omitempty"`              // of the tool, or of the speaker
}

// ToolCall is a call of a tool by the assistant.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string // a JSON object, as the model wrote it
}

// wireCall is OpenAI's form of a call. Arguments are an object, or a string that holds one.
type wireCall struct {
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type"`
	Function wireFunction `json:"function"`
}

type wireFunction struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// MarshalJSON writes OpenAI's form, in which the arguments are a string.
func (c ToolCall) MarshalJSON() ([]byte, error) {
	arguments, err := json.Marshal(c.Arguments)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wireCall{c.ID, "function", wireFunction{c.Name, arguments}})
}

// UnmarshalJSON reads OpenAI's form, and that of transformers, in which the arguments are an object.
func (c *ToolCall) UnmarshalJSON(b []byte) error {
	var w wireCall
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	c.ID, c.Name, c.Arguments = w.ID, w.Function.Name, string(w.Function.Arguments)
	if bytes.HasPrefix(bytes.TrimSpace(w.Function.Arguments), []byte{'"'}) {
		return json.Unmarshal(w.Function.Arguments, &c.Arguments)
	}
	return nil
}

// size returns how many bytes a message has.
func (m *Message) size() int {
	n := len(m.Role) + len(m.Content) + len(m.Reasoning) + len(m.ToolCallID) + len(m.Name)
	for _, c := range m.ToolCalls {
		n += len(c.ID) + len(c.Name) + len(c.Arguments)
	}
	return n
}

// value returns the message as templates see it: an object with the keys that have a value. Reasoning has the names
// reasoning_content and thinking, as transformers gives it.
func (m *Message) value() *jinja.Dict {
	d := &jinja.Dict{}
	if m.Reasoning != "" {
		d.Set("thinking", m.Reasoning)
	}
	d.Set("role", m.Role)
	d.Set("content", m.Content)
	for _, f := range []struct{ key, value string }{
		{"reasoning_content", m.Reasoning}, {"tool_call_id", m.ToolCallID}, {"name", m.Name},
	} {
		if f.value != "" {
			d.Set(f.key, f.value)
		}
	}
	if len(m.ToolCalls) > 0 {
		calls := jinja.NewList()
		for i := range m.ToolCalls {
			calls.Items = append(calls.Items, m.ToolCalls[i].value())
		}
		d.Set("tool_calls", calls)
	}
	return d
}

// value returns a call with its arguments as an object. What is no JSON object stays a text, as the model wrote it.
func (c *ToolCall) value() *jinja.Dict {
	call, function := &jinja.Dict{}, &jinja.Dict{}
	if c.ID != "" {
		call.Set("id", c.ID)
	}
	call.Set("type", "function")
	function.Set("name", c.Name)
	arguments := c.Arguments
	if arguments == "" {
		arguments = "{}"
	}
	v, err := jinja.FromJSON([]byte(arguments))
	if _, ok := v.(*jinja.Dict); !ok || err != nil {
		v = c.Arguments
	}
	function.Set("arguments", v)
	call.Set("function", function)
	return call
}
