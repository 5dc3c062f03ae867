package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// responsesRequest is the body of /v1/responses. The server keeps nothing between requests.
type responsesRequest struct {
	Model              string            `json:"model"`
	Input              json.RawMessage   `json:"input"`
	Instructions       string            `json:"instructions"`
	Stream             bool              `json:"stream"`
	MaxOutputTokens    *int              `json:"max_output_tokens"`
	Tools              []json.RawMessage `json:"tools"`
	ToolChoice         json.RawMessage   `json:"tool_choice"`
	PreviousResponseID string            `json:"previous_response_id"`
	Temperature        *float64          `json:"temperature"`
	TopP               *float64          `json:"top_p"`
	Text               struct {
		Format *struct {
			Type   string          `json:"type"`
			Schema json.RawMessage `json:"schema"`
		} `json:"format"`
	} `json:"text"`
}

// responseItem is an element of input.
type responseItem struct {
	Type      string          `json:"type"`
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	CallID    string          `json:"call_id"`
	Name      string          `json:"name"`
	Arguments string          `json:"arguments"`
	Output    json.RawMessage `json:"output"`
}

// chat returns the request in the form of a chat.
func (q *responsesRequest) chat() (*chatRequest, error) {
	if q.PreviousResponseID != "" {
		return nil, badRequest("previous_response_id", "previous_response_id is not supported: the server keeps no answers; send "+
			"them in input")
	}
	out := &chatRequest{Model: q.Model, MaxTokens: q.MaxOutputTokens}
	out.Temperature, out.TopP = q.Temperature, q.TopP
	if f := q.Text.Format; f != nil {
		out.ResponseFormat = &responseFormat{Type: f.Type, Schema: f.Schema}
	}
	if q.Instructions != "" {
		out.Messages = append(out.Messages, chatMessage{Role: "system", Content: q.Instructions})
	}
	var text string
	var items []responseItem
	switch {
	case json.Unmarshal(q.Input, &text) == nil:
		out.Messages = append(out.Messages, chatMessage{Role: "user", Content: text})
	case json.Unmarshal(q.Input, &items) != nil:
		return nil, badRequest("input", "input: expected a text or an array of items")
	}
	for _, it := range items {
		m, err := it.message()
		if err != nil {
			return nil, err
		}
		if m != nil {
			out.Messages = append(out.Messages, *m)
		}
	}
	var err error
	if out.Tools, err = chatTools(q.Tools); err != nil {
		return nil, err
	}
	out.ToolChoice, err = chatToolChoice(q.ToolChoice)
	return out, err
}

func (it *responseItem) message() (*chatMessage, error) {
	switch it.Type {
	case "", "message":
		content, err := textOf(it.Content)
		role := it.Role
		if role == "developer" {
			role = "system"
		}
		return &chatMessage{Role: role, Content: content}, err
	case "function_call":
		return &chatMessage{Role: "assistant", ToolCalls: []chat.ToolCall{{ID: it.CallID, Name: it.Name, Arguments: it.Arguments}}}, nil
	case "function_call_output":
		content, err := textOf(it.Output)
		return &chatMessage{Role: "tool", Content: content, ToolCallID: it.CallID}, err
	case "reasoning":
		return nil, nil
	}
	return nil, badRequest("input", "input of type %q is not supported", it.Type)
}

// chatTools turns tools, which are flat here, into the form of a chat.
func chatTools(tools []json.RawMessage) ([]json.RawMessage, error) {
	var out []json.RawMessage
	for i, raw := range tools {
		var t struct {
			Type        string          `json:"type"`
			Name        string          `json:"name"`
			Description string          `json:"description"`
			Parameters  json.RawMessage `json:"parameters"`
		}
		if err := json.Unmarshal(raw, &t); err != nil || t.Type != "function" {
			return nil, badRequest("tools", "tools[%d]: tools of type function only are supported", i)
		}
		b, err := json.Marshal(map[string]any{"type": "function",
			"function": map[string]any{"name": t.Name, "description": t.Description,
				"parameters": t.Parameters}})
		if err != nil {
			return nil, badRequest("tools", "tools[%d]: %w", i, err)
		}
		out = append(out, b)
	}
	return out, nil
}

func chatToolChoice(choice json.RawMessage) (json.RawMessage, error) {
	var flat struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(choice, &flat) != nil || flat.Name == "" {
		return choice, nil
	}
	return json.Marshal(map[string]any{"type": "function", "function": map[string]string{"name": flat.Name}})
}

func (s *Server) responses(w http.ResponseWriter, r *http.Request) {
	var q responsesRequest
	if err := readJSON(r, &q); err != nil {
		s.failWith(w, r, err)
		return
	}
	req, err := q.chat()
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	l, ctx, done, err := s.lease(r, q.Model)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	t, err := s.newTurn(ctx, l, req)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	a := &responseOut{id: newID("resp"), message: newID("msg"), model: l.name, created: time.Now().Unix()}
	if q.Stream {
		s.streamResponse(ctx, w, r, t, a)
		return
	}
	res, err := s.run(ctx, t.jobs[0])
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, a.body(res, a.output(t.parser().whole(res.Text))))
}

// responseOut makes the objects of one response.
type responseOut struct {
	id, message, model string
	created            int64
}

// body is the response, in progress without res.
func (a *responseOut) body(res *engine.Result, output []map[string]any) map[string]any {
	out := map[string]any{"id": a.id, "object": "response", "created_at": a.created, "model": a.model, "status": "in_progress",
		"output": output, "error": nil, "incomplete_details": nil, "parallel_tool_calls": true, "tools": []any{}, "tool_choice": "auto",
		"store": false}
	if res == nil {
		return out
	}
	out["status"] = "completed"
	if res.StopReason == engine.StopLength || res.StopReason == engine.StopContext {
		out["status"], out["incomplete_details"] = "incomplete", map[string]string{"reason": "max_output_tokens"}
	}
	out["usage"] = map[string]any{"input_tokens": res.PromptTokens, "output_tokens": len(res.Tokens),
		"total_tokens":          res.PromptTokens + len(res.Tokens),
		"input_tokens_details":  map[string]int{"cached_tokens": res.CachedTokens},
		"output_tokens_details": map[string]int{"reasoning_tokens": 0}}
	return out
}

// output is an answer as items.
func (a *responseOut) output(m messageOut) []map[string]any {
	out := []map[string]any{}
	if m.Reasoning != "" {
		out = append(out, map[string]any{"type": "reasoning", "id": newID("rs"), "summary": []any{},
			"content": []any{map[string]string{"type": "reasoning_text", "text": m.Reasoning}}})
	}
	if m.Content != nil {
		out = append(out, a.item(*m.Content, "completed"))
	}
	for _, c := range m.ToolCalls {
		out = append(out, map[string]any{"type": "function_call", "id": newID("fc"), "call_id": c.ID, "name": c.Name,
			"arguments": c.Arguments, "status": "completed"})
	}
	return out
}

func (a *responseOut) item(text, status string) map[string]any {
	content := []any{}
	if text != "" || status == "completed" {
		content = append(content, textPart(text))
	}
	return map[string]any{"type": "message", "id": a.message, "role": "assistant", "status": status, "content": content}
}

func textPart(text string) map[string]any {
	return map[string]any{"type": "output_text", "text": text, "annotations": []any{}}
}

func (s *Server) streamResponse(ctx context.Context, w http.ResponseWriter, r *http.Request, t *turn, a *responseOut) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ev, p, sequence := newEvents(w, false, cancel), t.parser(), 0
	send := func(kind string, fields map[string]any) {
		fields["type"], fields["sequence_number"] = kind, sequence
		sequence++
		ev.send(kind, fields)
	}
	send("response.created", map[string]any{"response": a.body(nil, []map[string]any{})})
	begun := false
	var all []messageDelta
	write := func(deltas []messageDelta) {
		all = append(all, deltas...)
		for _, d := range deltas {
			if d.Content == nil || *d.Content == "" {
				continue
			}
			if !begun {
				begun = true
				send("response.output_item.added", map[string]any{"output_index": 0, "item": a.item("", "in_progress")})
				send("response.content_part.added", map[string]any{"output_index": 0, "content_index": 0, "item_id": a.message,
					"part": textPart("")})
			}
			send("response.output_text.delta", map[string]any{"output_index": 0, "content_index": 0, "item_id": a.message,
				"delta": *d.Content})
		}
	}
	t.jobs[0].onText = func(text string) { write(p.feed(text)) }
	res, err := s.run(ctx, t.jobs[0])
	if err != nil {
		send("error", map[string]any{"message": err.Error(), "code": errorType(statusOf(err)), "param": nil})
		return
	}
	write(p.end())
	m := joined(all)
	if begun {
		text := *m.Content
		send("response.output_text.done", map[string]any{"output_index": 0, "content_index": 0, "item_id": a.message, "text": text})
		send("response.content_part.done", map[string]any{"output_index": 0, "content_index": 0, "item_id": a.message,
			"part": textPart(text)})
		send("response.output_item.done", map[string]any{"output_index": 0, "item": a.item(text, "completed")})
	}
	output := a.output(m)
	for i, item := range output {
		if item["type"] == "function_call" {
			send("response.output_item.added", map[string]any{"output_index": i, "item": item})
			send("response.function_call_arguments.done", map[string]any{"output_index": i, "item_id": item["id"],
				"arguments": item["arguments"]})
			send("response.output_item.done", map[string]any{"output_index": i, "item": item})
		}
	}
	body := a.body(res, output)
	send("response."+body["status"].(string), map[string]any{"response": body})
}
