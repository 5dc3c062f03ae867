package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func (s *Server) ollamaRoutes(m *http.ServeMux) {
	m.HandleFunc("POST /api/chat", s.ollamaChat)
	m.HandleFunc("POST /api/generate", s.ollamaGenerate)
	m.HandleFunc("GET /api/tags", s.ollamaTags)
	m.HandleFunc("POST /api/show", s.ollamaShow)
	m.HandleFunc("GET /api/ps", s.ollamaPS)
	m.HandleFunc("POST /api/pull", s.ollamaPull)
	m.HandleFunc("GET /api/version", s.ollamaVersion)
}

// ollamaRequest is the body of /api/chat and /api/generate.
type ollamaRequest struct {
	Model    string            `json:"model"`
	Messages []ollamaMessage   `json:"messages"`
	Prompt   string            `json:"prompt"`
	System   string            `json:"system"`
	Raw      bool              `json:"raw"`
	Images   []json.RawMessage `json:"images"`
	Stream   *bool             `json:"stream"`
	Format   json.RawMessage   `json:"format"` // "json", or a schema
	Tools    []json.RawMessage `json:"tools"`
	Think    *bool             `json:"think"`
	Options  struct {
		NumPredict *int  `json:"num_predict"`
		Stop       stops `json:"stop"`
		sampling
	} `json:"options"`
}

// ollamaMessage is a message as ollama's clients send and get it.
type ollamaMessage struct {
	Role      string            `json:"role"`
	Content   string            `json:"content"`
	Thinking  string            `json:"thinking,omitempty"`
	Images    []json.RawMessage `json:"images,omitempty"`
	ToolCalls []ollamaCall      `json:"tool_calls,omitempty"`
	ToolName  string            `json:"tool_name,omitempty"`
}

type ollamaCall struct {
	Function struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

// ollamaDefaults are the values that ollama gives to options that a request leaves out.
const ollamaTemperature, ollamaTopP = 0.8, 0.9

// chat returns the request in OpenAI's form.
func (q *ollamaRequest) chat() (*chatRequest, error) {
	out := &chatRequest{Model: q.Model, Tools: q.Tools, Stop: q.Options.Stop, sampling: q.Options.sampling}
	if n := q.Options.NumPredict; n != nil && *n != 0 {
		out.MaxTokens = n // negative: no limit
	}
	if out.Temperature == nil {
		t := ollamaTemperature
		out.Temperature = &t
	}
	if out.TopP == nil {
		t := ollamaTopP
		out.TopP = &t
	}
	if q.Think != nil {
		b, _ := json.Marshal(*q.Think) // a boolean
		out.TemplateArguments = map[string]json.RawMessage{"enable_thinking": b}
	}
	switch f := string(q.Format); {
	case f == "" || f == "null" || f == `""`:
	case f == `"json"`:
		out.ResponseFormat = &responseFormat{Type: "json_object"}
	case strings.HasPrefix(f, "{"):
		out.ResponseFormat = &responseFormat{Type: "json_schema", Schema: q.Format}
	default:
		return nil, badRequest("format", `format: expected "json" or a JSON schema`)
	}
	if len(q.Images) > 0 {
		return nil, badRequest("images", "images are not supported: the models served here read text only")
	}
	for _, m := range q.Messages {
		if len(m.Images) > 0 {
			return nil, badRequest("images", "images are not supported: the models served here read text only")
		}
		c := chatMessage{Role: m.Role, Content: m.Content, Reasoning: m.Thinking, Name: m.ToolName}
		for _, call := range m.ToolCalls {
			c.ToolCalls = append(c.ToolCalls, chat.ToolCall{Name: call.Function.Name, Arguments: string(call.Function.Arguments)})
		}
		out.Messages = append(out.Messages, c)
	}
	return out, nil
}

func (s *Server) ollamaChat(w http.ResponseWriter, r *http.Request) { s.ollama(w, r, true) }

func (s *Server) ollamaGenerate(w http.ResponseWriter, r *http.Request) { s.ollama(w, r, false) }

func (s *Server) ollama(w http.ResponseWriter, r *http.Request, chat bool) {
	var q ollamaRequest
	if err := readJSON(r, &q); err != nil {
		s.failWith(w, r, err)
		return
	}
	if !chat && !q.Raw && q.Prompt != "" {
		if q.System != "" {
			q.Messages = append(q.Messages, ollamaMessage{Role: "system", Content: q.System})
		}
		q.Messages = append(q.Messages, ollamaMessage{Role: "user", Content: q.Prompt})
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
	a := &ollamaAnswer{chat: chat, model: l.name, start: time.Now()}
	if len(q.Messages) == 0 && q.Prompt == "" { // asks to load the model only
		writeJSON(w, http.StatusOK, a.last(nil, messageOut{}, "load"))
		return
	}
	t, err := s.ollamaTurn(ctx, l, &q, req)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	if q.Stream == nil || *q.Stream {
		s.streamOllama(ctx, w, r, t, a)
		return
	}
	res, err := s.run(ctx, t.jobs[0])
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, a.last(res, t.parser().whole(res.Text), ollamaReason(res)))
}

// ollamaTurn is newTurn, or the prompt as it is for raw requests.
func (s *Server) ollamaTurn(ctx context.Context, l *lease, q *ollamaRequest, req *chatRequest) (*turn, error) {
	if !q.Raw {
		return s.newTurn(ctx, l, req)
	}
	source, parse, err := req.ResponseFormat.grammar()
	if err != nil {
		return nil, err
	}
	j, err := newJob(l, &req.sampling, req.Stop, s.limit(req.MaxTokens), source, parse)
	if err != nil {
		return nil, err
	}
	j.prompt = l.model.Engine.RawTokens(q.Prompt)
	return &turn{n: 1, jobs: []*job{j}, tools: &toolChoice{}, constrained: true}, nil
}

func ollamaReason(res *engine.Result) string {
	if res.StopReason == engine.StopLength || res.StopReason == engine.StopContext {
		return "length"
	}
	return "stop"
}

// ollamaAnswer makes the objects that ollama's clients get.
type ollamaAnswer struct {
	chat  bool
	model string
	start time.Time
}

func (a *ollamaAnswer) piece(content, thinking string, calls []chat.ToolCall) map[string]any {
	out := map[string]any{"model": a.model, "created_at": time.Now().UTC().Format(time.RFC3339Nano), "done": false}
	if !a.chat {
		out["response"] = content
		if thinking != "" {
			out["thinking"] = thinking
		}
		return out
	}
	m := ollamaMessage{Role: "assistant", Content: content, Thinking: thinking}
	for _, c := range calls {
		var call ollamaCall
		call.Function.Name, call.Function.Arguments = c.Name, json.RawMessage(c.Arguments)
		if !json.Valid(call.Function.Arguments) {
			call.Function.Arguments = json.RawMessage("{}")
		}
		m.ToolCalls = append(m.ToolCalls, call)
	}
	out["message"] = m
	return out
}

// last is the object that ends an answer, with its figures in nanoseconds.
func (a *ollamaAnswer) last(res *engine.Result, m messageOut, reason string) map[string]any {
	content := ""
	if m.Content != nil {
		content = *m.Content
	}
	out := a.piece(content, m.Reasoning, m.ToolCalls)
	out["done"], out["done_reason"] = true, reason
	if res != nil {
		out["total_duration"], out["load_duration"] = time.Since(a.start).Nanoseconds(), 0
		out["prompt_eval_count"], out["prompt_eval_duration"] = res.PromptTokens, res.PrefillTime.Nanoseconds()
		out["eval_count"], out["eval_duration"] = len(res.Tokens), res.DecodeTime.Nanoseconds()
	}
	return out
}

func (s *Server) streamOllama(ctx context.Context, w http.ResponseWriter, r *http.Request, t *turn, a *ollamaAnswer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ev, p := newEvents(w, true, cancel), t.parser()
	var calls []chat.ToolCall // sent whole at the end, as their arguments are objects here
	write := func(deltas []messageDelta) {
		for _, d := range deltas {
			for _, c := range d.ToolCalls {
				for c.Index >= len(calls) {
					calls = append(calls, chat.ToolCall{})
				}
				calls[c.Index].Name += c.Function.Name
				calls[c.Index].Arguments += c.Function.Arguments
			}
			if d.Content != nil && *d.Content != "" || d.Reasoning != "" {
				content := ""
				if d.Content != nil {
					content = *d.Content
				}
				ev.send("", a.piece(content, d.Reasoning, nil))
			}
		}
	}
	t.jobs[0].onText = func(text string) { write(p.feed(text)) }
	res, err := s.run(ctx, t.jobs[0])
	if err != nil {
		if !ev.started {
			s.failWith(w, r, err)
			return
		}
		ev.send("", errorBody(r.URL.Path, statusOf(err), err))
		return
	}
	write(p.end())
	if len(calls) > 0 {
		ev.send("", a.piece("", "", calls))
	}
	ev.send("", a.last(res, messageOut{}, ollamaReason(res)))
}

func (s *Server) ollamaTags(w http.ResponseWriter, r *http.Request) {
	list, err := s.opt.Library.List()
	if err != nil {
		s.opt.Log.Warn("listing models", "error", err)
	}
	models := []map[string]any{}
	for _, m := range list {
		models = append(models, ollamaModel(m))
	}
	writeJSON(w, http.StatusOK, map[string]any{"models": models})
}

func ollamaModel(m ModelInfo) map[string]any {
	return map[string]any{"name": m.Name, "model": m.Name, "modified_at": m.Modified.UTC().Format(time.RFC3339), "size": m.Size,
		"digest": "", "details": map[string]any{"format": "ellm", "family": "", "families": []string{}, "parameter_size": "",
			"quantization_level": ""}}
}

func (s *Server) ollamaShow(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if err := readJSON(r, &q); err != nil {
		s.failWith(w, r, err)
		return
	}
	if q.Model == "" {
		q.Model = q.Name
	}
	l, _, done, err := s.lease(r, q.Model)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	c := l.model.Engine.Config()
	capabilities := []string{"completion"}
	if strings.Contains(l.model.Template, "tools") {
		capabilities = append(capabilities, "tools")
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"template": l.model.Template, "capabilities": capabilities, "modelfile": "", "parameters": "",
		"details": map[string]any{"format": "ellm", "family": c.Architecture, "families": []string{c.Architecture},
			"parameter_size": "", "quantization_level": ""},
		"model_info": map[string]any{"general.architecture": c.Architecture, "general.basename": c.Name,
			c.Architecture + ".context_length": c.NCtx, c.Architecture + ".embedding_length": c.NEmbd,
			c.Architecture + ".block_count": c.NLayers},
	})
}

func (s *Server) ollamaPS(w http.ResponseWriter, r *http.Request) {
	models := []map[string]any{}
	for _, e := range s.models.running() {
		size := e.model.Engine.Memory().Total()
		models = append(models, map[string]any{"name": e.name, "model": e.name, "size": size, "size_vram": 0, "digest": "",
			"context_length": e.model.Engine.NCtx(), "details": map[string]any{"format": "ellm"}})
	}
	writeJSON(w, http.StatusOK, map[string]any{"models": models})
}

func (s *Server) ollamaVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"version": s.opt.Version})
}
