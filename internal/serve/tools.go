package serve

import (
	"encoding/json"
	"fmt"
	"slices"
)

// toolChoice is a request's tools and what it says of their use.
type toolChoice struct {
	list []json.RawMessage // for the template: none where tool_choice is "none"
	must bool              // a call must come
	only string            // of this tool; empty: any
	defs []toolDef
}

type toolDef struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
}

// chosenTools reads tools and tool_choice.
func chosenTools(tools []json.RawMessage, choice json.RawMessage) (*toolChoice, error) {
	t := &toolChoice{list: tools}
	for i, raw := range tools {
		var tool struct {
			Type     string  `json:"type"`
			Function toolDef `json:"function"`
		}
		if err := json.Unmarshal(raw, &tool); err != nil || tool.Type != "function" || tool.Function.Name == "" {
			return nil, badRequest("tools", "tools[%d]: expected type function, and a function with a name", i)
		}
		t.defs = append(t.defs, tool.Function)
	}
	var word string
	var named struct {
		Function toolDef `json:"function"`
	}
	switch {
	case len(choice) == 0 || string(choice) == "null":
	case json.Unmarshal(choice, &word) == nil:
		switch word {
		case "auto":
		case "none":
			t.list, t.defs = nil, nil
		case "required":
			t.must = true
		default:
			return nil, badRequest("tool_choice", "tool_choice %q: expected none, auto, required or a function", word)
		}
	case json.Unmarshal(choice, &named) == nil && named.Function.Name != "":
		t.must, t.only = true, named.Function.Name
		if !slices.ContainsFunc(t.defs, func(d toolDef) bool { return d.Name == t.only }) {
			return nil, badRequest("tool_choice", "tool_choice names %q, which is not among the tools", t.only)
		}
	default:
		return nil, badRequest("tool_choice", "tool_choice: expected none, auto, required or a function")
	}
	if t.must && len(t.defs) == 0 {
		return nil, badRequest("tool_choice", "tool_choice asks for a call, and there are no tools")
	}
	return t, nil
}

// schema returns the schema of one call as a JSON object with name and arguments, under the given keys.
func (t *toolChoice) schema(nameKey, argumentsKey string) json.RawMessage {
	var branches []any
	for _, d := range t.defs {
		if t.only != "" && d.Name != t.only {
			continue
		}
		parameters := d.Parameters
		if len(parameters) == 0 || string(parameters) == "null" {
			parameters = json.RawMessage(`{"type":"object"}`)
		}
		branches = append(branches, map[string]any{
			"type":       "object",
			"properties": orderedPair{nameKey, map[string]any{"const": d.Name}, argumentsKey, parameters},
			"required":   []string{nameKey, argumentsKey}, "additionalProperties": false,
		})
	}
	b, _ := json.Marshal(map[string]any{"anyOf": branches}) // made of what was decoded before
	return b
}

// orderedPair is an object of two keys in this order.
type orderedPair struct {
	key1   string
	value1 any
	key2   string
	value2 any
}

// MarshalJSON implements json.Marshaler.
func (o orderedPair) MarshalJSON() ([]byte, error) {
	v1, err := json.Marshal(o.value1)
	if err != nil {
		return nil, err
	}
	v2, err := json.Marshal(o.value2)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{%q:%s,%q:%s}`, o.key1, v1, o.key2, v2), nil
}
