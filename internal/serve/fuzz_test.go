package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/serve"
)

// parrot is a backend that computes nothing: after any token comes the next one of the vocabulary.
type parrot struct {
	vocab  int
	pages  int
	logits []float32
	hidden []float32
}

func (p *parrot) Load(_ context.Context, _ *format.Reader, prog *model.Program, opt engine.LoadOptions) error {
	p.pages = opt.Pages()
	p.vocab, p.hidden = prog.Config.NVocab, make([]float32, prog.Config.NEmbd)
	p.hidden[0] = 1
	return nil
}

func (p *parrot) Forward(_ context.Context, b engine.Batch) ([]float32, error) {
	rows := b.Rows()
	if n := rows * p.vocab; len(p.logits) < n {
		p.logits = make([]float32, n)
	}
	out := p.logits[:rows*p.vocab]
	clear(out)
	for i, token := range b.Tokens[len(b.Tokens)-rows:] {
		out[i*p.vocab+(int(token)+1)%p.vocab] = 9
	}
	return out, nil
}

func (p *parrot) Memory() engine.MemoryPlan {
	return engine.MemoryPlan{Device: "parrot", Pages: p.pages}
}
func (p *parrot) Hidden(int) []float32 { return p.hidden }
func (p *parrot) Describe() string     { return "parrot" }
func (p *parrot) Close() error         { return nil }

// parrots is a library whose model answers at once.
type parrots struct{ *tinyLibrary }

func (l parrots) Load(ctx context.Context, _ string) (*serve.Loaded, error) {
	f, err := format.Open(l.path)
	if err != nil {
		return nil, err
	}
	e, err := engine.New(ctx, f, &parrot{}, engine.LoadOptions{NCtx: 64, Sequences: 2, MaxBatch: 64})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &serve.Loaded{Engine: e, Template: f.Meta().ChatTemplate, Parallel: 2, Close: f.Close}, nil
}

// FuzzBodies sends arbitrary bodies to every path that takes one. Answers are whole and never an internal error, which is what
// a panic becomes.
func FuzzBodies(f *testing.F) {
	paths := []string{"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages",
		"/v1/messages/count_tokens", "/api/chat", "/api/generate", "/api/embed", "/api/show", "/tokenize", "/detokenize",
		"/apply-template", "/api/pull"}
	for _, seed := range []struct {
		path int
		body string
	}{
		{0, `{"messages":[{"role":"user","content":"a"}],"max_tokens":3,"temperature":0,"stop":["b"],"logprobs":true}`},
		{0, `{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"max_tokens":2,"stream":true,"n":2,
			"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"required"}`},
		{0, `{"messages":[{"role":"user","content":"a"}],"max_tokens":4,"response_format":{"type":"json_schema","json_schema":
			{"name":"x","schema":{"type":"array","items":{"type":"integer"}}}},"logit_bias":{"5":1}}`},
		{1, `{"prompt":"abc","max_tokens":2,"echo":true,"logprobs":2,"seed":7,"top_p":0.5,"grammar":"root ::= \"a\""}`},
		{1, `{"prompt":[1,2,3],"max_tokens":1,"stream":true}`},
		{2, `{"input":"a","max_output_tokens":2}`},
		{3, `{"input":["a","b"],"encoding_format":"base64"}`},
		{4, `{"messages":[{"role":"user","content":"a"}],"max_tokens":2,"system":"s","stop_sequences":["x"]}`},
		{6, `{"messages":[{"role":"user","content":"a"}],"options":{"num_predict":2,"temperature":0},"format":"json"}`},
		{7, `{"prompt":"a","options":{"num_predict":2},"stream":false,"raw":true}`},
		{10, `{"content":"abc","with_pieces":true}`},
		{11, `{"tokens":[1,2,3]}`},
		{12, `{"messages":[{"role":"user","content":"a"}]}`},
	} {
		f.Add(uint8(seed.path), seed.body)
	}
	s := serve.New(serve.Options{Library: parrots{library(f)}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Queue: 8,
		MaxToken: 4, MaxBody: 1 << 16})
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, path uint8, body string) {
		url := paths[int(path)%len(paths)]
		r := httptest.NewRequest(http.MethodPost, url, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		out := w.Body.String()
		require.Less(t, w.Code, 600)
		require.NotEqual(t, http.StatusInternalServerError, w.Code, "%s: %s", url, out)
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			require.True(t, json.Valid([]byte(out)), out)
		}
	})
}
