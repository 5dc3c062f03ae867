package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
)

// chatRequest is the body of /v1/chat/completions.
type chatRequest struct {
	Model               string                     `json:"model"`
	Messages            []chatMessage              `json:"messages"`
	Stream              bool                       `json:"stream"`
	StreamOptions       streamOptions              `json:"stream_options"`
	MaxTokens           *int                       `json:"max_tokens"`
	MaxCompletionTokens *int                       `json:"max_completion_tokens"`
	N                   *int                       `json:"n"`
	Stop                stops                      `json:"stop"`
	Logprobs            bool                       `json:"logprobs"`
	TopLogprobs         int                        `json:"top_logprobs"`
	Tools               []json.RawMessage          `json:"tools"`
	ToolChoice          json.RawMessage            `json:"tool_choice"`
	ParallelToolCalls   *bool                      `json:"parallel_tool_calls"`
	ResponseFormat      *responseFormat            `json:"response_format"`
	TemplateArguments   map[string]json.RawMessage `json:"chat_template_kwargs"`
	ReasoningEffort     string                     `json:"reasoning_effort"`
	sampling
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// responseFormat is OpenAI's response_format.
type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
	Schema json.RawMessage `json:"schema"` // as llama.cpp takes it
}

// grammar returns what the format asks for; nil if it is plain text.
func (f *responseFormat) grammar() (string, func() (*grammar.Grammar, error), error) {
	if f == nil {
		return "", nil, nil
	}
	schema := f.Schema
	switch f.Type {
	case "text", "":
		return "", nil, nil
	case "json_object":
		if len(schema) == 0 {
			return "json", grammar.JSONObject, nil
		}
	case "json_schema":
		if f.JSONSchema != nil {
			schema = f.JSONSchema.Schema
		}
		if len(schema) == 0 {
			return "", nil, badRequest("response_format", "response_format.json_schema.schema is missing")
		}
	default:
		return "", nil, badRequest("response_format", "response_format.type %q: expected text, json_object or json_schema", f.Type)
	}
	return "schema:" + string(schema), func() (*grammar.Grammar, error) { return grammar.FromSchema(schema) }, nil
}

// chatMessage is a message whose content is a text, or parts of type text.
type chatMessage chat.Message

// UnmarshalJSON implements json.Unmarshaler.
func (m *chatMessage) UnmarshalJSON(b []byte) error {
	var wire struct {
		Role             string          `json:"role"`
		Content          json.RawMessage `json:"content"`
		ReasoningContent string          `json:"reasoning_content"`
		ToolCalls        []chat.ToolCall `json:"tool_calls"`
		ToolCallID       string          `json:"tool_call_id"`
		Name             string          `json:"name"`
	}
	if err := json.Unmarshal(b, &wire); err != nil {
		return err
	}
	content, err := textOf(wire.Content)
	if err != nil {
		return err
	}
	if wire.Role == "developer" {
		wire.Role = "system" // templates know no other name for it
	}
	*m = chatMessage{Role: wire.Role, Content: content, Reasoning: wire.ReasoningContent, ToolCalls: wire.ToolCalls,
		ToolCallID: wire.ToolCallID, Name: wire.Name}
	return nil
}

// textOf reads content: a text, null, or parts of which all are texts.
func textOf(b json.RawMessage) (string, error) {
	if len(b) == 0 || string(b) == "null" {
		return "", nil
	}
	var text string
	if json.Unmarshal(b, &text) == nil {
		return text, nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return "", badRequest("messages", "content: expected a text or an array of parts")
	}
	var out strings.Builder
	for _, p := range parts {
		switch p.Type {
		case "text", "input_text", "output_text":
			out.WriteString(p.Text)
		default:
			return "", badRequest("messages", "content of type %q is not supported: the models served here read text only", p.Type)
		}
	}
	return out.String(), nil
}

func conversation(messages []chatMessage) ([]chat.Message, error) {
	if len(messages) == 0 {
		return nil, badRequest("messages", "messages is empty")
	}
	out := make([]chat.Message, len(messages))
	for i, m := range messages {
		if m.Role == "" {
			return nil, badRequest("messages", "messages[%d] has no role", i)
		}
		out[i] = chat.Message(m)
	}
	return out, nil
}

func (s *Server) chatCompletions(w http.ResponseWriter, r *http.Request) {
	var req chatRequest
	if err := readJSON(r, &req); err != nil {
		s.failWith(w, r, err)
		return
	}
	l, ctx, done, err := s.lease(r, req.Model)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	t, err := s.newTurn(ctx, l, &req)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	if req.Stream {
		s.streamChat(ctx, w, r, t, &req)
		return
	}
	choices, results, err := s.runChoices(ctx, t)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"id": newID("chatcmpl"), "object": "chat.completion", "created": time.Now().Unix(), "model": l.name,
		"choices": choices, "usage": usageOf(results), "timings": timingsOf(results[0]),
	})
}

// newTurn checks a request for an answer to a conversation and renders its prompt.
func (s *Server) newTurn(ctx context.Context, l *lease, req *chatRequest) (*turn, error) {
	n := 1
	if req.N != nil {
		n = *req.N
	}
	if n < 1 || n > maxChoices {
		return nil, badRequest("n", "n: %d, expected 1 to %d", n, maxChoices)
	}
	if req.TopLogprobs < 0 || req.TopLogprobs > maxLogprobs || req.TopLogprobs > 0 && !req.Logprobs {
		return nil, badRequest("top_logprobs", "top_logprobs: %d, expected 0 to %d, together with logprobs", req.TopLogprobs,
			maxLogprobs)
	}
	messages, err := conversation(req.Messages)
	if err != nil {
		return nil, err
	}
	tools, err := chosenTools(req.Tools, req.ToolChoice)
	if err != nil {
		return nil, err
	}
	source, parse, err := req.ResponseFormat.grammar()
	if err != nil {
		return nil, err
	}
	if tools.must && parse != nil {
		return nil, badRequest("tool_choice", "tool_choice %s together with response_format is not possible", req.ToolChoice)
	}
	if tools.must {
		source, parse = tools.grammar()
	}
	t := &turn{n: n, tools: tools, constrained: parse != nil}
	conv := chat.Conversation{Messages: messages, Tools: tools.list, Options: req.TemplateArguments, GenerationPrompt: true}
	if last := messages[len(messages)-1]; last.Role == "assistant" && len(last.ToolCalls) == 0 {
		conv.GenerationPrompt, conv.ContinueFinal = false, true // the model goes on with it, as llama.cpp's server does
	}
	text, err := l.model.Engine.ChatText(ctx, conv)
	if err != nil {
		return nil, &requestError{"messages", err}
	}
	prompt := l.model.Engine.RawTokens(text)
	t.reasoning = chat.OpensReasoning(text)
	for i := range n {
		j, err := newJob(l, &req.sampling, req.Stop, s.limit(req.MaxCompletionTokens, req.MaxTokens), source, parse)
		if err != nil {
			return nil, err
		}
		j.prompt, j.logprobs, j.top = prompt, req.Logprobs, req.TopLogprobs
		j.options.Seed += uint64(i)
		if !t.constrained {
			j.shown = chat.Markers(l.model.Template)
		}
		t.jobs = append(t.jobs, j)
	}
	return t, nil
}

// turn is the answers that a request asks for.
type turn struct {
	n           int
	jobs        []*job
	tools       *toolChoice
	constrained bool // a grammar shapes the answers
	reasoning   bool // the prompt has begun a thinking block
}

// parser returns what splits an answer's text into content, reasoning and calls.
func (t *turn) parser() *answerParser {
	return newAnswerParser(t.jobs[0].lease.model, t.tools, t.constrained, chat.ParserOptions{Reasoning: t.reasoning})
}

// streamParser is parser for clients that take calls in pieces.
func (t *turn) streamParser() *answerParser {
	return newAnswerParser(t.jobs[0].lease.model, t.tools, t.constrained,
		chat.ParserOptions{Reasoning: t.reasoning, StreamCalls: true})
}

// chatChoice is an element of choices.
type chatChoice struct {
	Index        int           `json:"index"`
	Message      messageOut    `json:"message"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
}

type messageOut struct {
	Role      string          `json:"role"`
	Content   *string         `json:"content"`
	Reasoning string          `json:"reasoning_content,omitempty"`
	ToolCalls []chat.ToolCall `json:"tool_calls,omitempty"`
}

// runChoices computes all answers side by side.
func (s *Server) runChoices(ctx context.Context, t *turn) ([]chatChoice, []*engine.Result, error) {
	choices, results, errs := make([]chatChoice, t.n), make([]*engine.Result, t.n), make([]error, t.n)
	var group sync.WaitGroup
	for i, j := range t.jobs {
		group.Go(func() {
			res, err := s.run(ctx, j)
			results[i], errs[i] = res, err
			if err != nil {
				return
			}
			m := t.parser().whole(res.Text)
			choices[i] = chatChoice{Index: i, Message: m, FinishReason: finishReason(res.StopReason, len(m.ToolCalls) > 0)}
			if j.logprobs {
				choices[i].Logprobs = chatLogprobsOf(j.lease.model.Engine, res.Steps)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	return choices, results, nil
}

func finishReason(r engine.StopReason, calls bool) string {
	switch {
	case r == engine.StopLength || r == engine.StopContext:
		return "length"
	case calls:
		return "tool_calls"
	}
	return "stop"
}

// usage counts tokens as OpenAI does.
type usage struct {
	PromptTokens     int          `json:"prompt_tokens"`
	CompletionTokens int          `json:"completion_tokens"`
	TotalTokens      int          `json:"total_tokens"`
	PromptDetails    usageDetails `json:"prompt_tokens_details"`
}

type usageDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

func usageOf(results []*engine.Result) usage {
	var u usage
	for i, r := range results {
		if r == nil {
			continue
		}
		if i == 0 {
			u.PromptTokens, u.PromptDetails.CachedTokens = r.PromptTokens, r.CachedTokens
		}
		u.CompletionTokens += len(r.Tokens)
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// timings are llama.cpp's server's figures of a generation.
type timings struct {
	PromptN            int     `json:"prompt_n"`
	PromptMS           float64 `json:"prompt_ms"`
	PromptPerSecond    float64 `json:"prompt_per_second"`
	PredictedN         int     `json:"predicted_n"`
	PredictedMS        float64 `json:"predicted_ms"`
	PredictedPerSecond float64 `json:"predicted_per_second"`
}

func timingsOf(r *engine.Result) *timings {
	if r == nil {
		return nil
	}
	return &timings{PromptN: r.PromptTokens - r.CachedTokens, PromptMS: float64(r.PrefillTime.Microseconds()) / 1e3,
		PromptPerSecond: r.PrefillTPS(), PredictedN: len(r.Tokens), PredictedMS: float64(r.DecodeTime.Microseconds()) / 1e3,
		PredictedPerSecond: r.DecodeTPS()}
}

// chatLogprobs are OpenAI's logprobs of a chat answer.
type chatLogprobs struct {
	Content []tokenLogprob `json:"content"`
}

type tokenLogprob struct {
	Token   string         `json:"token"`
	Logprob float32        `json:"logprob"`
	Bytes   []int          `json:"bytes"`
	Top     []tokenLogprob `json:"top_logprobs,omitempty"`
}

func chatLogprobsOf(e *engine.Engine, steps []engine.Step) *chatLogprobs {
	out := &chatLogprobs{Content: []tokenLogprob{}}
	one := func(id int32, p float32) tokenLogprob {
		piece := e.Tokenizer().Piece(id)
		t := tokenLogprob{Token: strings.ToValidUTF8(piece, "\uFFFD"), Logprob: max(p, -9999), Bytes: []int{}}
		for _, c := range []byte(piece) {
			t.Bytes = append(t.Bytes, int(c))
		}
		return t
	}
	for _, st := range steps {
		t := one(st.Token, st.Logprob)
		t.Top = []tokenLogprob{}
		for _, c := range st.Candidates {
			t.Top = append(t.Top, one(c.Token, c.Logprob))
		}
		out.Content = append(out.Content, t)
	}
	return out
}
