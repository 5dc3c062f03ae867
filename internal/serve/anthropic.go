package serve

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// messagesRequest is the body of Anthropic's /v1/messages.
type messagesRequest struct {
	Model       string           `json:"model"`
	Messages    []messageIn      `json:"messages"`
	System      json.RawMessage  `json:"system"`
	MaxTokens   *int             `json:"max_tokens"`
	Stream      bool             `json:"stream"`
	Stop        []string         `json:"stop_sequences"`
	Tools       []anthropicTool  `json:"tools"`
	ToolChoice  *anthropicChoice `json:"tool_choice"`
	Temperature *float64         `json:"temperature"`
	TopK        *int             `json:"top_k"`
	TopP        *float64         `json:"top_p"`
	Thinking    *struct {
		Type string `json:"type"`
	} `json:"thinking"`
}

type messageIn struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type anthropicTool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	InputSchema json.RawMessage `json:"input_schema"`
}

type anthropicChoice struct {
	Type string `json:"type"` // auto, any, tool, none
	Name string `json:"name"`
}

// contentBlock is a block of a message's content, in and out.
type contentBlock struct {
	Type      string          `json:"type"` // text, thinking, tool_use, tool_result
	Text      string          `json:"text,omitempty"`
	Thinking  string          `json:"thinking,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	ToolUseID string          `json:"tool_use_id,omitempty"`
	Content   json.RawMessage `json:"content,omitempty"`
}

// chat returns the request as one of OpenAI's form, which the rest of the server reads.
func (q *messagesRequest) chat() (*chatRequest, error) {
	out := &chatRequest{Model: q.Model, Stop: q.Stop, MaxTokens: q.MaxTokens}
	out.Temperature, out.TopK, out.TopP = q.Temperature, q.TopK, q.TopP
	system, err := textOf(q.System)
	if err != nil {
		return nil, err
	}
	if system != "" {
		out.Messages = append(out.Messages, chatMessage{Role: "system", Content: system})
	}
	for i, m := range q.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return nil, badRequest("messages", "messages.%d.role: %q, expected user or assistant", i, m.Role)
		}
		list, err := m.messages()
		if err != nil {
			return nil, err
		}
		out.Messages = append(out.Messages, list...)
	}
	for _, t := range q.Tools {
		tool, err := json.Marshal(map[string]any{"type": "function", "function": map[string]any{
			"name": t.Name, "description": t.Description, "parameters": t.InputSchema}})
		if err != nil {
			return nil, badRequest("tools", "tools: %w", err)
		}
		out.Tools = append(out.Tools, tool)
	}
	if c := q.ToolChoice; c != nil {
		switch c.Type {
		case "auto", "none":
			out.ToolChoice, err = json.Marshal(c.Type)
		case "any":
			out.ToolChoice = json.RawMessage(`"required"`)
		case "tool":
			out.ToolChoice, err = json.Marshal(map[string]any{"type": "function", "function": map[string]string{"name": c.Name}})
		default:
			return nil, badRequest("tool_choice", "tool_choice.type: %q, expected auto, any, tool or none", c.Type)
		}
	}
	if q.Thinking != nil {
		enabled := json.RawMessage("false")
		if q.Thinking.Type == "enabled" || q.Thinking.Type == "adaptive" {
			enabled = json.RawMessage("true")
		}
		out.TemplateArguments = map[string]json.RawMessage{"enable_thinking": enabled}
	}
	return out, err
}

// messages returns a message's blocks as messages of OpenAI's form: results of tools are messages of their own.
func (m *messageIn) messages() ([]chatMessage, error) {
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return []chatMessage{{Role: m.Role, Content: text}}, nil
	}
	var blocks []contentBlock
	if err := json.Unmarshal(m.Content, &blocks); err != nil {
		return nil, badRequest("messages", "content: expected a text or an array of blocks")
	}
	var out []chatMessage
	own := chatMessage{Role: m.Role}
	for _, b := range blocks {
		switch b.Type {
		case "text":
			own.Content += b.Text
		case "thinking":
			own.Reasoning += b.Thinking
		case "redacted_thinking":
		case "tool_use":
			own.ToolCalls = append(own.ToolCalls, chat.ToolCall{ID: b.ID, Name: b.Name, Arguments: string(b.Input)})
		case "tool_result":
			text, err := textOf(b.Content)
			if err != nil {
				return nil, err
			}
			out = append(out, chatMessage{Role: "tool", Content: text, ToolCallID: b.ToolUseID})
		default:
			return nil, badRequest("messages", "content of type %q is not supported: the models served here read text only", b.Type)
		}
	}
	if own.Content != "" || own.Reasoning != "" || len(own.ToolCalls) > 0 || len(out) == 0 {
		out = append(out, own)
	}
	return out, nil
}

// openTurn reads a request and renders its prompt. It reports whether it has not answered.
func (s *Server) openTurn(w http.ResponseWriter, r *http.Request, q *messagesRequest) (*turn, *lease, context.Context,
	func(), bool) {
	if err := readJSON(r, q); err != nil {
		s.failWith(w, r, err)
		return nil, nil, nil, nil, false
	}
	req, err := q.chat()
	if err != nil {
		s.failWith(w, r, err)
		return nil, nil, nil, nil, false
	}
	l, ctx, done, err := s.lease(r, q.Model)
	if err != nil {
		s.failWith(w, r, err)
		return nil, nil, nil, nil, false
	}
	t, err := s.newTurn(ctx, l, req)
	if err != nil {
		done()
		s.failWith(w, r, err)
		return nil, nil, nil, nil, false
	}
	return t, l, ctx, done, true
}

func (s *Server) countTokens(w http.ResponseWriter, r *http.Request) {
	var q messagesRequest
	t, _, _, done, ok := s.openTurn(w, r, &q)
	if !ok {
		return
	}
	defer done()
	writeJSON(w, http.StatusOK, map[string]any{"input_tokens": len(t.jobs[0].prompt)})
}

func (s *Server) anthropicMessages(w http.ResponseWriter, r *http.Request) {
	var q messagesRequest
	t, l, ctx, done, ok := s.openTurn(w, r, &q)
	if !ok {
		return
	}
	defer done()
	if q.MaxTokens == nil {
		s.failWith(w, r, badRequest("max_tokens", "max_tokens: field required"))
		return
	}
	if q.Stream {
		s.streamMessages(ctx, w, r, t)
		return
	}
	j := t.jobs[0]
	res, err := s.run(ctx, j)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	m := t.parser().whole(res.Text)
	reason, stop := anthropicReason(j, res, len(m.ToolCalls) > 0)
	writeJSON(w, http.StatusOK, map[string]any{
		"id": newID("msg"), "type": "message", "role": "assistant", "model": l.name, "content": blocksOf(m), "stop_reason": reason,
		"stop_sequence": stop, "usage": anthropicUsage(res),
	})
}

// blocksOf returns an answer as content blocks.
func blocksOf(m messageOut) []map[string]any {
	out := []map[string]any{}
	if m.Reasoning != "" {
		out = append(out, map[string]any{"type": "thinking", "thinking": m.Reasoning, "signature": ""})
	}
	if m.Content != nil && (*m.Content != "" || len(m.ToolCalls) == 0) {
		out = append(out, map[string]any{"type": "text", "text": *m.Content})
	}
	for _, c := range m.ToolCalls {
		input := json.RawMessage(c.Arguments)
		if !json.Valid(input) {
			input = json.RawMessage("{}")
		}
		out = append(out, map[string]any{"type": "tool_use", "id": c.ID, "name": c.Name, "input": input})
	}
	return out
}

func anthropicReason(j *job, res *engine.Result, calls bool) (reason string, stop any) {
	switch res.StopReason {
	case engine.StopLength, engine.StopContext:
		return "max_tokens", nil
	case engine.StopString:
		if len(j.stop) == 1 {
			stop = j.stop[0]
		}
		return "stop_sequence", stop
	}
	if calls {
		return "tool_use", nil
	}
	return "end_turn", nil
}

func anthropicUsage(res *engine.Result) map[string]int {
	return map[string]int{"input_tokens": res.PromptTokens - res.CachedTokens, "cache_read_input_tokens": res.CachedTokens,
		"cache_creation_input_tokens": 0, "output_tokens": len(res.Tokens)}
}

// messageStream writes Anthropic's events: one content block after the other, each begun, filled and ended.
type messageStream struct {
	ev    *events
	index int    // of the open block
	open  string // its kind; empty: none
	call  int    // which call it is
}

func (m *messageStream) block(kind string, start map[string]any) {
	if m.open != "" {
		m.close()
	}
	m.open = kind
	start["type"] = kind
	m.ev.send("content_block_start", map[string]any{"type": "content_block_start", "index": m.index, "content_block": start})
}

func (m *messageStream) delta(d map[string]any) {
	m.ev.send("content_block_delta", map[string]any{"type": "content_block_delta", "index": m.index, "delta": d})
}

func (m *messageStream) close() {
	if m.open == "" {
		return
	}
	m.ev.send("content_block_stop", map[string]any{"type": "content_block_stop", "index": m.index})
	m.index++
	m.open = ""
}

func (m *messageStream) write(deltas []messageDelta) {
	for _, d := range deltas {
		if d.Reasoning != "" {
			if m.open != "thinking" {
				m.block("thinking", map[string]any{"thinking": "", "signature": ""})
			}
			m.delta(map[string]any{"type": "thinking_delta", "thinking": d.Reasoning})
		}
		if d.Content != nil && *d.Content != "" {
			if m.open != "text" {
				m.block("text", map[string]any{"text": ""})
			}
			m.delta(map[string]any{"type": "text_delta", "text": *d.Content})
		}
		for _, c := range d.ToolCalls {
			if m.open != "tool_use" || m.call != c.Index {
				m.call = c.Index
				m.block("tool_use", map[string]any{"id": c.ID, "name": c.Function.Name, "input": map[string]any{}})
			}
			if c.Function.Arguments != "" {
				m.delta(map[string]any{"type": "input_json_delta", "partial_json": c.Function.Arguments})
			}
		}
	}
}

func (s *Server) streamMessages(ctx context.Context, w http.ResponseWriter, r *http.Request, t *turn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	j, p := t.jobs[0], t.streamParser()
	m := &messageStream{ev: newEvents(w, false, cancel)}
	m.ev.send("message_start", map[string]any{"type": "message_start", "message": map[string]any{
		"id": newID("msg"), "type": "message", "role": "assistant", "model": j.lease.name, "content": []any{}, "stop_reason": nil,
		"stop_sequence": nil, "usage": map[string]int{"input_tokens": len(j.prompt), "output_tokens": 0}}})
	j.onText = func(text string) { m.write(p.feed(text)) }
	res, err := s.run(ctx, j)
	if err != nil {
		m.ev.send("error", errorBody(r.URL.Path, statusOf(err), err))
		return
	}
	m.write(p.end())
	if m.index == 0 && m.open == "" {
		m.block("text", map[string]any{"text": ""})
	}
	m.close()
	reason, stop := anthropicReason(j, res, p.calls > 0)
	m.ev.send("message_delta", map[string]any{"type": "message_delta", "usage": anthropicUsage(res),
		"delta": map[string]any{"stop_reason": reason, "stop_sequence": stop}})
	m.ev.send("message_stop", map[string]any{"type": "message_stop"})
}
