package serve_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A grammar makes the model write what models that know tools write by themselves.
func TestArgumentsOfFreeCallsAreStreamed(t *testing.T) {
	h, _ := start(t, nil)
	tool := object{"name": "weather", "parameters": object{"type": "object", "properties": object{"city": object{"type": "string"}}}}
	body := object{"messages": user("x"), "tools": []object{{"type": "function", "function": tool}}, "tool_choice": "auto",
		"temperature": 0, "stream": true,
		"grammar": `root ::= "{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome or Oslo\", \"days\": 1234567}}"`}
	const want = `{"city": "Rome or Oslo", "days": 1234567}`
	pieces, text, name, id := 0, "", "", ""
	reason := any(nil)
	for _, e := range stream(t, h.URL+"/v1/chat/completions", body) {
		if r := dig(e, "choices", 0, "finish_reason"); r != nil {
			reason = r
		}
		call := dig(e, "choices", 0, "delta", "tool_calls", 0)
		if call == nil {
			continue
		}
		if n, ok := dig(call, "function", "name").(string); ok {
			name += n
			id = dig(call, "id").(string)
		}
		if a := dig(call, "function", "arguments").(string); a != "" {
			pieces++
			text += a
		}
	}
	assert.Equal(t, "weather", name)
	assert.NotEmpty(t, id)
	assert.Equal(t, want, text)
	assert.Greater(t, pieces, 3, "the arguments come as they are written")
	assert.Equal(t, "tool_calls", reason)
	body["stream"] = false
	_, out := post(t, h.URL+"/v1/chat/completions", body)
	assert.Equal(t, want, dig(out, "choices", 0, "message", "tool_calls", 0, "function", "arguments"), "%v", out)

	body["max_tokens"], body["stream"] = 30, true
	text, reason = "", nil
	for _, e := range stream(t, h.URL+"/v1/chat/completions", body) {
		if a, ok := dig(e, "choices", 0, "delta", "tool_calls", 0, "function", "arguments").(string); ok {
			text += a
		}
		if r := dig(e, "choices", 0, "finish_reason"); r != nil {
			reason = r
		}
	}
	assert.Equal(t, "length", reason)
	assert.True(t, strings.HasPrefix(want, text) && text != want, text)
	assert.False(t, json.Valid([]byte(text)), "a call that was cut off cannot be mistaken for a whole one")
	require.NotEmpty(t, text)
}
