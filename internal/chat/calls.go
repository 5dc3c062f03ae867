package chat

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"strings"
)

// CallFormat is how a family of models writes a call of a tool. The call itself is a JSON object with the keys Name and
// Arguments, in a list if List is set; several calls repeat all of it, or are items of the list.
type CallFormat struct {
	Before, After   string // around the object or list; the markers in them may be control tokens
	Name, Arguments string
	List            bool
	XML             bool // <function=NAME>, <parameter=NAME> … </parameter>, </function> instead of JSON
}

// FormatOf returns the form of the calls that a template teaches; for a template that names none, an object of JSON
// without marks around it.
func FormatOf(template string) CallFormat {
	has := func(s string) bool { return strings.Contains(template, s) }
	switch {
	case has("<tool_call>") && has("<function="):
		return CallFormat{Before: "<tool_call>\n", After: "\n</tool_call>", XML: true}
	case has("<|tool_call|>"): // Phi, Granite
		f := CallFormat{Before: "<|tool_call|>[", After: "]", Name: "name", Arguments: "arguments", List: true}
		if has("<|/tool_call|>") {
			f.After = "]<|/tool_call|>"
		}
		return f
	case has("[TOOL_CALLS]"):
		return CallFormat{Before: "[TOOL_CALLS][", After: "]", Name: "name", Arguments: "arguments", List: true}
	case has("<tool_call>"), has("xml_tools"): // Hermes, Qwen, SmolLM3
		return CallFormat{Before: "<tool_call>\n", After: "\n</tool_call>", Name: "name", Arguments: "arguments"}
	case has("<|start_header_id|>"): // Llama
		return CallFormat{Name: "name", Arguments: "parameters"}
	}
	return CallFormat{Name: "name", Arguments: "arguments"}
}

// Markers returns the texts that begin or end calls and thoughts in answers to a template. Where they are control tokens, a
// Parser must see them as text all the same.
func Markers(template string) (names []string) {
	for _, m := range []string{
		"<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>",
		"<think>", "</think>", "[THINK]", "[/THINK]",
	} {
		known := strings.Contains(template, m) || strings.HasPrefix(m, "[") && strings.Contains(template, "[TOOL_CALLS]")
		if known || m == "<|python_tag|>" && strings.Contains(template, "<|start_header_id|>") {
			names = append(names, m)
		}
	}
	return names
}

// knownTools returns the names of tools in OpenAI's form.
func knownTools(tools []json.RawMessage) map[string]json.RawMessage {
	known := map[string]json.RawMessage{}
	for _, tool := range tools {
		var t struct {
			Name       string
			Parameters json.RawMessage
			Function   struct {
				Name       string
				Parameters json.RawMessage
			}
		}
		if json.Unmarshal(tool, &t) != nil {
			continue
		}
		if t.Function.Name != "" {
			known[t.Function.Name] = t.Function.Parameters
		} else if t.Name != "" {
			known[t.Name] = t.Parameters
		}
	}
	return known
}

// jsonCalls reads one call or a list of calls. ok is false if any of it is not a call.
func jsonCalls(text string) (calls []ToolCall, ok bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") {
		c, ok := jsonCall([]byte(text))
		return []ToolCall{c}, ok
	}
	var list []json.RawMessage
	if json.Unmarshal([]byte(text), &list) != nil || len(list) == 0 {
		return nil, false
	}
	for _, item := range list {
		c, ok := jsonCall(item)
		if !ok {
			return nil, false
		}
		calls = append(calls, c)
	}
	return calls, true
}

// jsonCall reads {"name": …, "arguments" or "parameters": …, "id": …}, also within "function".
func jsonCall(b []byte) (c ToolCall, ok bool) {
	var w struct {
		ID         string          `json:"id"`
		Name       string          `json:"name"`
		Arguments  json.RawMessage `json:"arguments"`
		Parameters json.RawMessage `json:"parameters"`
		Function   json.RawMessage `json:"function"`
	}
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte{'{'}) || json.Unmarshal(b, &w) != nil {
		return c, false
	}
	if w.Name == "" && bytes.HasPrefix(bytes.TrimSpace(w.Function), []byte{'{'}) {
		c, ok = jsonCall(w.Function)
		c.ID = w.ID
		return c, ok
	}
	arguments := w.Arguments
	if arguments == nil {
		arguments = w.Parameters
	}
	c = ToolCall{ID: w.ID, Name: w.Name}
	c.Arguments, ok = argumentText(arguments)
	return c, ok && c.Name != ""
}

// argumentText returns arguments as the text of an object; they may be that text as a string, or absent.
func argumentText(b json.RawMessage) (string, bool) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || string(b) == "null" {
		return "{}", true
	}
	if b[0] == '"' {
		var s string
		if json.Unmarshal(b, &s) != nil || !json.Valid([]byte(s)) || !strings.HasPrefix(strings.TrimSpace(s), "{") {
			return "", false
		}
		return s, true
	}
	return string(b), b[0] == '{'
}

// xmlCalls reads <function=NAME> blocks with <parameter=NAME> blocks in them. A parameter is JSON where its schema does not
// ask for a string and it can be read so, else a text.
func xmlCalls(text string, tools map[string]json.RawMessage) (calls []ToolCall, ok bool) {
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		head, after, found := strings.Cut(rest, ">")
		name, isCall := strings.CutPrefix(head, "<function=")
		body, next, closed := strings.Cut(after, "</function>")
		if !found || !isCall || !closed || name == "" || strings.ContainsAny(name, "<\n") {
			return nil, false
		}
		arguments, ok := xmlArguments(body, tools[name])
		if !ok {
			return nil, false
		}
		calls = append(calls, ToolCall{Name: name, Arguments: arguments})
		rest = next
	}
	return calls, len(calls) > 0
}

func xmlArguments(body string, schema json.RawMessage) (string, bool) {
	var s struct {
		Properties map[string]struct{ Type any }
	}
	_ = json.Unmarshal(schema, &s) // without a usable schema, no parameter is known to be a string
	out := []byte{'{'}
	for rest := strings.TrimSpace(body); rest != ""; rest = strings.TrimSpace(rest) {
		head, after, found := strings.Cut(rest, ">")
		name, isParameter := strings.CutPrefix(head, "<parameter=")
		value, next, closed := strings.Cut(after, "</parameter>")
		if !found || !isParameter || !closed {
			return "", false
		}
		value = strings.TrimSuffix(strings.TrimPrefix(value, "\n"), "\n")
		key, _ := json.Marshal(name)
		encoded := []byte(value)
		if s.Properties[name].Type == "string" || !json.Valid(encoded) {
			encoded, _ = json.Marshal(value)
		}
		if len(out) > 1 {
			out = append(out, ',', ' ')
		}
		out = append(append(append(out, key...), ':', ' '), encoded...)
		rest = next
	}
	return string(append(out, '}')), true
}

// newCallID returns a name of nine letters and digits, which the templates of all families accept.
func newCallID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	b := make([]byte, 9)
	rand.Read(b)
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return string(b)
}

// jsonEnd returns the length of the JSON object or list that s begins with. done is false if it is not complete; bad is set if s
// does not begin with one.
func jsonEnd(s string) (n int, done, bad bool) {
	if s == "" {
		return 0, false, false
	}
	if s[0] != '{' && s[0] != '[' {
		return 0, false, true
	}
	var open []byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '{', '[':
			open = append(open, c+2) // the closing bracket: ASCII has it two places further
		case '}', ']':
			if open[len(open)-1] != c {
				return 0, false, true
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return i + 1, true, false
			}
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
		}
	}
	return 0, false, false
}
