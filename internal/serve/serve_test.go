package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/serve"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// tinyLibrary serves the test model under two names.
type tinyLibrary struct {
	path   string
	loads  atomic.Int32
	closes atomic.Int32
}

func (l *tinyLibrary) List() ([]serve.ModelInfo, error) {
	return []serve.ModelInfo{{Name: "tiny:a", Size: 1}, {Name: "tiny:b", Size: 2}}, nil
}

func (l *tinyLibrary) Find(name string) (string, error) {
	switch name {
	case "", "tiny:a", "tiny":
		return "tiny:a", nil
	case "tiny:b":
		return name, nil
	case "broken":
		return name, nil
	}
	return "", fmt.Errorf("%w: %q", serve.ErrNoModel, name)
}

func (l *tinyLibrary) Load(ctx context.Context, name string) (*serve.Loaded, error) {
	if name == "broken" {
		return nil, errors.New("the file is damaged")
	}
	f, err := format.Open(l.path)
	if err != nil {
		return nil, err
	}
	b := cpu.New()
	e, err := engine.New(ctx, f, b, engine.LoadOptions{Plan: engine.PlanResident, NCtx: 256, Sequences: 3, Threads: 2})
	if err != nil {
		return nil, errors.Join(err, b.Close(), f.Close())
	}
	l.loads.Add(1)
	return &serve.Loaded{Engine: e, Template: f.Meta().ChatTemplate, Parallel: 3, Close: func() error {
		l.closes.Add(1)
		return errors.Join(b.Close(), f.Close())
	}}, nil
}

func library(t testing.TB) *tinyLibrary {
	src, err := source.Open(testmodel.Path(t))
	require.NoError(t, err)
	defer src.Close()
	path := filepath.Join(t.TempDir(), "tiny.ellm")
	_, err = convert.Compress(context.Background(), src, path, convert.Options{Scheme: convert.SchemeLossless}, nil)
	require.NoError(t, err)
	return &tinyLibrary{path: path}
}

// start runs a server for the test; change may alter its options.
func start(t testing.TB, change func(*serve.Options)) (*httptest.Server, *tinyLibrary) {
	lib := library(t)
	opt := serve.Options{Library: lib, Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Queue: 8}
	if change != nil {
		change(&opt)
	}
	s := serve.New(opt)
	h := httptest.NewServer(s)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	t.Cleanup(h.Close)
	return h, lib
}

type object = map[string]any

func post(t testing.TB, url string, body any, header ...string) (int, object) {
	status, text := postText(t, url, body, header...)
	var out object
	require.NoError(t, json.Unmarshal(text, &out), "%s", text)
	return status, out
}

func postText(t testing.TB, url string, body any, header ...string) (int, []byte) {
	text, isText := body.(string)
	if !isText {
		b, err := json.Marshal(body)
		require.NoError(t, err)
		text = string(b)
	}
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(text))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, out
}

// dig follows keys and indexes into a decoded JSON value.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			o, _ := v.(object)
			v = o[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func user(text string) []object { return []object{{"role": "user", "content": text}} }

func TestChatAnswersAreTheEngines(t *testing.T) {
	h, _ := start(t, nil)
	body := object{"model": "tiny", "messages": user("Once upon"), "max_tokens": 12, "temperature": 0, "logprobs": true,
		"top_logprobs": 2}
	status, out := post(t, h.URL+"/v1/chat/completions", body)
	require.Equal(t, http.StatusOK, status, "%v", out)
	text := dig(out, "choices", 0, "message", "content").(string)
	assert.NotEmpty(t, text)
	assert.Equal(t, "tiny:a", out["model"])
	n := int(dig(out, "usage", "completion_tokens").(float64))
	assert.Len(t, dig(out, "choices", 0, "logprobs", "content"), n)
	assert.Len(t, dig(out, "choices", 0, "logprobs", "content", 0, "top_logprobs"), 2)

	body["stream"], body["stream_options"] = true, object{"include_usage": true}
	streamed, events := "", stream(t, h.URL+"/v1/chat/completions", body)
	assert.Equal(t, "assistant", dig(events[0], "choices", 0, "delta", "role"))
	tokens := 0
	for _, e := range events {
		if c, ok := dig(e, "choices", 0, "delta", "content").(string); ok {
			streamed += c
		}
		if l, ok := dig(e, "choices", 0, "logprobs", "content").([]any); ok {
			tokens += len(l)
		}
	}
	assert.Equal(t, text, streamed)
	assert.Equal(t, n, tokens, "every token's logprob is sent once")
	last := events[len(events)-1]
	assert.Equal(t, dig(out, "usage", "completion_tokens"), dig(last, "usage", "completion_tokens"))
	assert.Empty(t, last["choices"])
}

// stream posts a request and returns the events of the answer, which must end with [DONE].
func stream(t testing.TB, url string, body any) []object {
	_, text := postText(t, url, body)
	var out []object
	done := false
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		data, ok := strings.CutPrefix(s.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			done = true
			continue
		}
		var o object
		require.NoError(t, json.Unmarshal([]byte(data), &o), "%s", data)
		out = append(out, o)
	}
	assert.True(t, done, "%s", text)
	return out
}

func TestOptionsOfAChat(t *testing.T) {
	h, _ := start(t, nil)
	url := h.URL + "/v1/chat/completions"
	base := func(more object) object {
		o := object{"messages": user("Once upon"), "max_completion_tokens": 10, "temperature": 0}
		for k, v := range more {
			o[k] = v
		}
		return o
	}
	_, plain := post(t, url, base(nil))
	text := dig(plain, "choices", 0, "message", "content").(string)

	_, out := post(t, url, base(object{"stop": text[2:5]}))
	assert.Equal(t, text[:2], dig(out, "choices", 0, "message", "content"))
	assert.Equal(t, "stop", dig(out, "choices", 0, "finish_reason"))

	_, out = post(t, url, base(object{"n": 3, "temperature": 1.5, "seed": 4}))
	require.Len(t, out["choices"], 3)
	again, _ := post(t, url, base(object{"n": 3, "temperature": 1.5, "seed": 4}))
	require.Equal(t, http.StatusOK, again)
	_, same := post(t, url, base(object{"n": 3, "temperature": 1.5, "seed": 4}))
	for i := range 3 {
		assert.Equal(t, dig(out, "choices", i, "message", "content"), dig(same, "choices", i, "message", "content"),
			"same seed, same text")
	}
	_, first := post(t, h.URL+"/tokenize", object{"content": text})
	id := dig(first, "tokens", 0).(float64)
	_, out = post(t, url, base(object{"logit_bias": object{fmt.Sprint(id): -100}}))
	without := dig(out, "choices", 0, "message", "content")
	assert.NotEqual(t, text, without, "an excluded token does not come")
	_, out = post(t, url, base(object{"logit_bias": []any{[]any{id, false}}}))
	assert.Equal(t, without, dig(out, "choices", 0, "message", "content"), "llama.cpp's form")
	_, out = post(t, url, base(object{"logit_bias": []any{[]any{text[:1], -100}}}))
	assert.NotEqual(t, text[:1], dig(out, "choices", 0, "message", "content").(string)[:1], "a text stands for its tokens")

	_, out = post(t, url, base(object{"messages": append(user("Once upon"), object{"role": "assistant", "content": text[:3]})}))
	assert.NotEmpty(t, dig(out, "choices", 0, "message", "content"), "a last message of the assistant is continued")
}

func TestSamplersOfLlamaCpp(t *testing.T) {
	h, _ := start(t, nil)
	answer := func(more object) string {
		o := object{"messages": user("Once upon"), "max_tokens": 24, "temperature": 1.2, "seed": 3}
		for k, v := range more {
			o[k] = v
		}
		status, out := post(t, h.URL+"/v1/chat/completions", o)
		require.Equal(t, http.StatusOK, status, out)
		return dig(out, "choices", 0, "message", "content").(string)
	}
	plain := answer(nil)
	for name, off := range map[string]object{
		"typical": {"typical_p": 1}, "xtc": {"xtc_probability": 0, "xtc_threshold": 0.1},
		"mirostat": {"mirostat": 0, "mirostat_tau": 3},
		"dry":      {"dry_multiplier": 0, "dry_base": 2, "dry_allowed_length": 1, "dry_penalty_last_n": -1},
	} {
		assert.Equal(t, plain, answer(off), name)
	}
	for name, on := range map[string]object{
		"typical": {"typical_p": 0.2, "top_k": 0, "top_p": 1, "min_p": 0}, "xtc": {"xtc_probability": 1, "xtc_threshold": 0.05},
		"mirostat": {"mirostat": 1, "mirostat_tau": 1}, "mirostat 2": {"mirostat": 2, "mirostat_tau": 9},
		"dry": {"dry_multiplier": 50, "dry_allowed_length": 1, "dry_sequence_breakers": []string{}},
	} {
		assert.NotEqual(t, plain, answer(on), name)
		assert.Equal(t, answer(on), answer(on), name)
	}
}

func TestAnswersFollowSchemasAndGrammars(t *testing.T) {
	h, _ := start(t, nil)
	url := h.URL + "/v1/chat/completions"
	schema := object{"type": "object", "properties": object{"a": object{"type": "integer", "minimum": 0, "maximum": 99},
		"b": object{"enum": []string{"x", "y"}}},
		"required": []string{"a", "b"}, "additionalProperties": false}
	for seed := range 5 {
		_, out := post(t, url, object{"messages": user("x"), "seed": seed, "temperature": 1.5,
			"response_format": object{"type": "json_schema", "json_schema": object{"name": "s", "strict": true, "schema": schema}}})
		var v struct {
			A *int
			B string
		}
		text, _ := dig(out, "choices", 0, "message", "content").(string)
		require.NoError(t, json.Unmarshal([]byte(text), &v), "%v", out)
		assert.True(t, v.A != nil && *v.A >= 0 && *v.A <= 99 && (v.B == "x" || v.B == "y"), text)
	}
	_, out := post(t, url, object{"messages": user("x"), "grammar": `root ::= "ab" [0-9]{3}`, "temperature": 2})
	assert.Regexp(t, `^ab[0-9]{3}$`, dig(out, "choices", 0, "message", "content"))
	status, out := post(t, url, object{"messages": user("x"), "response_format": object{"type": "json_schema",
		"json_schema": object{"schema": object{"properties": object{"a": object{"type": "no"}}}}}})
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, dig(out, "error", "message"), "#/properties/a/type")
}

func TestCompletionsEchoWithLogprobs(t *testing.T) {
	h, _ := start(t, nil)
	url := h.URL + "/v1/completions"
	_, out := post(t, url, object{"prompt": "Once upon a", "max_tokens": 2, "temperature": 0, "echo": true, "logprobs": 1})
	text := dig(out, "choices", 0, "text").(string)
	assert.True(t, strings.HasPrefix(text, "Once upon a") && len(text) > len("Once upon a"), text)
	tokens, probs := dig(out, "choices", 0, "logprobs", "tokens").([]any),
		dig(out, "choices", 0, "logprobs", "token_logprobs").([]any)
	require.Len(t, probs, len(tokens))
	assert.Nil(t, probs[0], "nothing comes before the first token")
	// The probabilities of a prompt do not depend on what is generated after it.
	_, more := post(t, url, object{"prompt": "Once upon a" + strings.TrimPrefix(text, "Once upon a"), "max_tokens": 0,
		"echo": true, "logprobs": 1})
	assert.InDelta(t, probs[1], dig(more, "choices", 0, "logprobs", "token_logprobs", 1), 1e-4)
	_, out = post(t, url, object{"prompt": []string{"a", "b"}, "max_tokens": 1, "n": 2})
	assert.Len(t, out["choices"], 4)
	events := stream(t, url, object{"prompt": "Once", "max_tokens": 3, "stream": true})
	assert.Equal(t, "text_completion", events[0]["object"])
}

func TestAnthropicMessages(t *testing.T) {
	h, _ := start(t, nil)
	url := h.URL + "/v1/messages"
	body := object{"model": "tiny", "max_tokens": 8, "temperature": 0, "system": []object{{"type": "text", "text": "Be kind."}},
		"messages": []object{{"role": "user", "content": []object{{"type": "text", "text": "Once"}}}}}
	status, out := post(t, url, body)
	require.Equal(t, http.StatusOK, status, "%v", out)
	text := dig(out, "content", 0, "text").(string)
	_, count := post(t, url+"/count_tokens", body)
	assert.InDelta(t, count["input_tokens"], dig(out, "usage", "input_tokens").(float64)+dig(out, "usage",
		"cache_read_input_tokens").(float64), 0)
	body["stream"] = true
	_, raw := postText(t, url, body)
	var names []string
	streamed := ""
	for _, line := range strings.Split(string(raw), "\n") {
		if name, ok := strings.CutPrefix(line, "event: "); ok && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var o object
			require.NoError(t, json.Unmarshal([]byte(data), &o))
			if s, ok := dig(o, "delta", "text").(string); ok {
				streamed += s
			}
		}
	}
	assert.Equal(t, []string{"message_start", "content_block_start", "content_block_delta", "content_block_stop",
		"message_delta", "message_stop"}, names)
	assert.Equal(t, text, streamed)
	status, out = post(t, url, object{"model": "tiny", "messages": user("x")})
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Equal(t, "error", out["type"])
	status, _ = post(t, url, object{"model": "tiny", "max_tokens": 1,
		"messages": []object{{"role": "user", "content": []object{{"type": "image"}}}}})
	assert.Equal(t, http.StatusBadRequest, status)
}

func TestOllama(t *testing.T) {
	h, _ := start(t, nil)
	body := object{"model": "tiny", "messages": user("Once"), "options": object{"num_predict": 6, "temperature": 0}}
	_, raw := postText(t, h.URL+"/api/chat", body)
	text, last := "", object{}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		last = object{}
		require.NoError(t, json.Unmarshal([]byte(line), &last))
		text += dig(last, "message", "content").(string)
	}
	assert.Equal(t, true, last["done"])
	assert.EqualValues(t, 6, last["eval_count"])
	body["stream"] = false
	_, out := post(t, h.URL+"/api/chat", body)
	assert.Equal(t, text, dig(out, "message", "content"))
	_, out = post(t, h.URL+"/api/generate", object{"model": "tiny", "prompt": "Once upon", "raw": true, "stream": false,
		"format": "json", "options": object{"num_predict": 400}})
	assert.True(t, strings.HasPrefix(out["response"].(string), "{"), "%v", out)
	_, out = post(t, h.URL+"/api/show", object{"model": "tiny"})
	assert.Equal(t, "llama", dig(out, "details", "family"))
	for path, key := range map[string]string{"/api/tags": "models", "/api/ps": "models", "/api/version": "version"} {
		resp, err := http.Get(h.URL + path)
		require.NoError(t, err)
		var o object
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
		resp.Body.Close()
		assert.NotEmpty(t, o[key], path)
	}
	status, out := post(t, h.URL+"/api/chat", object{"model": "nothing", "messages": user("x")})
	assert.Equal(t, http.StatusNotFound, status)
	assert.IsType(t, "", out["error"])
}

func TestMistakesAreToldWithTheirField(t *testing.T) {
	h, _ := start(t, func(o *serve.Options) { o.MaxBody = 1 << 16 })
	chat := h.URL + "/v1/chat/completions"
	deep := strings.Repeat(`[`, 5000)
	cases := []struct {
		body   any
		status int
		want   string
	}{
		{`{`, 400, "JSON"}, {`[]`, 400, ""}, {deep, 400, "nested"}, {strings.Repeat(" ", 1<<17), 413, "65536 bytes"},
		{object{}, 400, "messages is empty"}, {object{"messages": "x"}, 400, ""}, {object{"messages": []object{{"content": "x"}}},
			400, "role"},
		{object{"model": "gpt", "messages": user("x")}, 404, "no such model"}, {object{"model": "broken", "messages": user("x")},
			500, "damaged"},
		{object{"messages": user("x"), "temperature": -1}, 400, "temperature"},
		{object{"messages": user("x"), "temperature": 1e300}, 400, "temperature"},
		{`{"messages":[{"role":"user","content":"x"}],"temperature":1e999}`, 400, "temperature"},
		{object{"messages": user("x"), "top_p": 2}, 400, "top_p"}, {object{"messages": user("x"), "top_k": -1}, 400, "top_k"},
		{object{"messages": user("x"), "max_tokens": 0}, 400, "max_tokens"},
		{object{"messages": user("x"), "n": 100}, 400, "n:"}, {object{"messages": user("x"), "stop": make([]string, 99)}, 400,
			"stop"}, {object{"messages": user("x"), "stop": []int{1}}, 400, ""},
		{object{"messages": user("x"), "logit_bias": object{"x": 1}}, 400, "logit_bias"},
		{object{"messages": user("x"), "logit_bias": object{"1": 101}}, 400, "logit_bias"},
		{object{"messages": user("x"), "logit_bias": []any{[]any{-1, 1}}}, 400, "logit_bias"},
		{object{"messages": user("x"), "logit_bias": []any{[]any{1, "x"}}}, 400, "logit_bias[0]"},
		{object{"messages": user("x"), "logit_bias": []any{[]any{1}}}, 400, "logit_bias[0]"},
		{object{"messages": user("x"), "mirostat": 3}, 400, "mirostat"},
		{object{"messages": user("x"), "mirostat_tau": -1}, 400, "mirostat_tau"},
		{object{"messages": user("x"), "typical_p": 1.1}, 400, "typical_p"},
		{object{"messages": user("x"), "xtc_probability": 2}, 400, "xtc_probability"},
		{object{"messages": user("x"), "dry_base": 0.5}, 400, "dry_base"},
		{object{"messages": user("x"), "dry_sequence_breakers": []string{""}}, 400, "dry_sequence_breakers"},
		{object{"messages": user("x"), "repeat_last_n": -2}, 400, "repeat_last_n"},
		{object{"messages": user("x"), "top_logprobs": 3}, 400, "top_logprobs"},
		{object{"messages": user("x"), "response_format": object{"type": "xml"}}, 400, "response_format"},
		{object{"messages": user("x"), "tools": []object{{"type": "x"}}}, 400, "tools[0]"},
		{object{"messages": user("x"), "tool_choice": "required"}, 400, "tool_choice"},
		{object{"messages": user("x"), "grammar": "x ::= \"a\""}, 400, "root"},
		{object{"messages": user(strings.Repeat("word ", 2000))}, 400, "does not fit the context"},
		{object{"messages": []object{{"role": "user", "content": []object{{"type": "image_url"}}}}}, 400, "image_url"},
	}
	for _, c := range cases {
		status, out := post(t, chat, c.body)
		assert.Equal(t, c.status, status, "%.100v: %v", c.body, out)
		assert.Contains(t, dig(out, "error", "message"), c.want, "%.100v", c.body)
	}
	status, _ := post(t, chat, object{"messages": user("x"), "max_tokens": 1})
	assert.Equal(t, http.StatusOK, status, "the server goes on")
}

func TestTokenizerForClientsOfVLLM(t *testing.T) {
	h, _ := start(t, nil)
	_, ours := post(t, h.URL+"/tokenize", object{"content": "Once upon", "add_special": true})
	_, theirs := post(t, h.URL+"/tokenize", object{"prompt": "Once upon", "add_special_tokens": true})
	assert.NotEmpty(t, ours["tokens"])
	assert.Equal(t, ours["tokens"], theirs["tokens"])
	_, plain := post(t, h.URL+"/tokenize", object{"prompt": "Once upon"})
	_, text := post(t, h.URL+"/detokenize", object{"tokens": plain["tokens"]})
	assert.Equal(t, "Once upon", text["prompt"])
	resp, err := http.Get(h.URL + "/tokenizer_info")
	require.NoError(t, err)
	defer resp.Body.Close()
	var info object
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&info))
	assert.NotEmpty(t, info["eos_token"])
	assert.Contains(t, info["chat_template"], "message")
}

func TestKeysAndOrigins(t *testing.T) {
	h, _ := start(t, func(o *serve.Options) { o.APIKeys = []string{"k1", "k2"}; o.Origins = []string{"https://good.example"} })
	chat := h.URL + "/v1/chat/completions"
	body := object{"messages": user("x"), "max_tokens": 1}
	for _, header := range [][]string{nil, {"Authorization", "Bearer k"}, {"Authorization", "k1"}, {"X-Api-Key", ""}} {
		status, out := post(t, chat, body, header...)
		assert.Equal(t, http.StatusUnauthorized, status, "%v", header)
		assert.Equal(t, "authentication_error", dig(out, "error", "type"))
	}
	for _, header := range [][]string{{"Authorization", "Bearer k1"}, {"X-Api-Key", "k2"},
		{"X-Api-Key", "k2", "Origin", "https://good.example"}} {
		status, _ := post(t, chat, body, header...)
		assert.Equal(t, http.StatusOK, status, "%v", header)
	}
	for _, path := range []string{"/metrics", "/v1/models", "/props", "/api/tags"} {
		resp, err := http.Get(h.URL + path)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, http.StatusUnauthorized, resp.StatusCode, path)
	}
	status, _ := post(t, chat, body, "X-Api-Key", "k1", "Origin", "https://evil.example")
	assert.Equal(t, http.StatusForbidden, status)
	open, _ := start(t, nil)
	status, _ = post(t, open.URL+"/v1/chat/completions", body, "Origin", "http://evil.example")
	assert.Equal(t, http.StatusForbidden, status, "other pages of the browser may not use the server")
	req, err := http.NewRequest(http.MethodPost, open.URL+"/v1/chat/completions", strings.NewReader(`{}`))
	require.NoError(t, err)
	req.Host = "evil.example"
	req.Header.Set("Origin", "http://evil.example")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusForbidden, resp.StatusCode, "a name that its owner points here")
}

func TestNoPathReachesTheFileSystem(t *testing.T) {
	h, lib := start(t, nil)
	for _, path := range []string{"/../../etc/passwd", "/page/../server.go", "/%2e%2e/%2e%2e/etc/passwd",
		"/page.js/../../models.go", "/index.html/..", "/v1/models/../../../etc/passwd", "/.git/config"} {
		req, err := http.NewRequest(http.MethodGet, h.URL, nil)
		require.NoError(t, err)
		req.URL.Opaque = strings.TrimPrefix(h.URL, "http:") + path
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		assert.NotContains(t, string(text), "root:", path)
		assert.NotContains(t, string(text), "package serve", path)
	}
	for _, name := range []string{"../../etc/passwd", lib.path, "/etc/passwd", "tiny:a/../../x"} {
		status, _ := post(t, h.URL+"/v1/chat/completions", object{"model": name, "messages": user("x")})
		assert.Equal(t, http.StatusNotFound, status, name)
	}
}

func TestFullServerAsksToComeBack(t *testing.T) {
	h, _ := start(t, func(o *serve.Options) { o.Queue = 0 })
	body := object{"messages": user("x"), "max_tokens": 100, "ignore_eos": true, "temperature": 0}
	post(t, h.URL+"/v1/chat/completions", body) // loads the model
	text, err := json.Marshal(body)
	require.NoError(t, err)
	var answered, full atomic.Int32
	var group sync.WaitGroup
	for range 30 { // three run at a time
		group.Go(func() {
			resp, err := http.Post(h.URL+"/v1/chat/completions", "application/json", bytes.NewReader(text))
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusOK:
				answered.Add(1)
			case http.StatusServiceUnavailable:
				full.Add(1)
				assert.Equal(t, "1", resp.Header.Get("Retry-After"))
			default:
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	group.Wait()
	assert.GreaterOrEqual(t, answered.Load(), int32(3))
	assert.Positive(t, full.Load())
}

func TestModelsTakeTurns(t *testing.T) {
	h, lib := start(t, func(o *serve.Options) { o.Idle = 50 * time.Millisecond })
	for i, name := range []string{"tiny:a", "tiny:a", "tiny:b", "tiny:a"} {
		status, out := post(t, h.URL+"/v1/chat/completions", object{"model": name, "messages": user("x"), "max_tokens": 1})
		require.Equal(t, http.StatusOK, status, "%d %v", i, out)
		assert.Equal(t, name, out["model"])
	}
	assert.GreaterOrEqual(t, lib.closes.Load(), int32(2), "one model at a time")
	assert.Eventually(t, func() bool { return lib.closes.Load() == lib.loads.Load() }, 5*time.Second, 10*time.Millisecond,
		"unloaded when idle")
}

func TestHealthAndMetrics(t *testing.T) {
	h, _ := start(t, nil)
	post(t, h.URL+"/v1/chat/completions", object{"messages": user("x"), "max_tokens": 2})
	resp, err := http.Get(h.URL + "/metrics")
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	for _, want := range []string{`ellm_gpu_tokens_predicted_total{model="tiny:a"} 2`,
		"ellm_gpu_time_to_first_token_seconds_count", "ellm_gpu_kv_cache_pages{",
		`route="POST /v1/chat/completions",status="200"} 1`} {
		assert.Contains(t, string(text), want)
	}
	resp, err = http.Get(h.URL + "/health")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Regexp(t, "^req_", resp.Header.Get("X-Request-Id"))
}

func TestResponses(t *testing.T) {
	h, _ := start(t, nil)
	url := h.URL + "/v1/responses"
	body := object{"model": "tiny", "input": "Once upon", "instructions": "Tell.", "max_output_tokens": 6, "temperature": 0}
	status, out := post(t, url, body)
	require.Equal(t, http.StatusOK, status, "%v", out)
	text := dig(out, "output", 0, "content", 0, "text").(string)
	assert.Equal(t, "incomplete", out["status"])
	body["stream"] = true
	_, raw := postText(t, url, body)
	streamed, last := "", object{}
	for _, line := range strings.Split(string(raw), "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			last = object{}
			require.NoError(t, json.Unmarshal([]byte(data), &last))
			if d, ok := last["delta"].(string); ok {
				streamed += d
			}
		}
	}
	assert.Equal(t, text, streamed)
	assert.Equal(t, "response.incomplete", last["type"])
	assert.Equal(t, text, dig(last, "response", "output", 0, "content", 0, "text"))
	status, _ = post(t, url, object{"input": "x", "previous_response_id": "resp_1"})
	assert.Equal(t, http.StatusBadRequest, status)
}

func TestEmbeddings(t *testing.T) {
	h, _ := start(t, nil)
	_, out := post(t, h.URL+"/v1/embeddings", object{"input": []string{"Once upon a time", "Once upon a time", "func main() {"}})
	vector := func(i int) (v []float64) {
		for _, x := range dig(out, "data", i, "embedding").([]any) {
			v = append(v, x.(float64))
		}
		return v
	}
	a, b, c := vector(0), vector(1), vector(2)
	assert.Equal(t, a, b)
	dot := func(x, y []float64) (sum float64) {
		for i := range x {
			sum += x[i] * y[i]
		}
		return sum
	}
	assert.InDelta(t, 1, dot(a, a), 1e-4, "of length 1")
	assert.Less(t, dot(a, c), 0.999)
	_, packed := post(t, h.URL+"/v1/embeddings", object{"input": "Once upon a time", "encoding_format": "base64"})
	assert.Len(t, dig(packed, "data", 0, "embedding"), (4*len(a)+2)/3*4)
	_, out = post(t, h.URL+"/api/embed", object{"model": "tiny", "input": "x", "pooling": "last"})
	assert.Len(t, out["embeddings"], 1)
	status, _ := post(t, h.URL+"/v1/embeddings", object{"input": []string{}})
	assert.Equal(t, http.StatusBadRequest, status)
}

func TestACallThatMustComeFollowsItsSchema(t *testing.T) {
	h, _ := start(t, nil)
	tools := []object{
		{"type": "function", "function": object{"name": "weather", "parameters": object{"type": "object", "properties": object{
			"city": object{"enum": []string{"Rome", "Oslo"}}, "days": object{"type": "integer", "minimum": 1, "maximum": 7}},
			"required": []string{"city", "days"}, "additionalProperties": false}}},
		{"type": "function", "function": object{"name": "time"}},
	}
	body := object{"messages": user("x"), "tools": tools, "temperature": 1.5, "seed": 3,
		"tool_choice": object{"type": "function", "function": object{"name": "weather"}}}
	_, out := post(t, h.URL+"/v1/chat/completions", body)
	call := dig(out, "choices", 0, "message", "tool_calls", 0)
	assert.Equal(t, "tool_calls", dig(out, "choices", 0, "finish_reason"))
	assert.Equal(t, "weather", dig(call, "function", "name"))
	arguments := dig(call, "function", "arguments").(string)
	var v struct {
		City string
		Days int
	}
	require.NoError(t, json.Unmarshal([]byte(arguments), &v), arguments)
	assert.Contains(t, []string{"Rome", "Oslo"}, v.City)
	assert.True(t, v.Days >= 1 && v.Days <= 7)

	body["stream"] = true
	name, streamed := "", ""
	for _, e := range stream(t, h.URL+"/v1/chat/completions", body) {
		if f := dig(e, "choices", 0, "delta", "tool_calls", 0, "function"); f != nil {
			n, _ := dig(f, "name").(string)
			name += n
			streamed += dig(f, "arguments").(string)
		}
	}
	assert.Equal(t, "weather", name)
	assert.Equal(t, arguments, streamed, "the same seed gives the same call, piece by piece")
	_, out = post(t, h.URL+"/v1/messages", object{"max_tokens": 200, "messages": user("x"), "tool_choice": object{"type": "any"},
		"tools": []object{{"name": "time", "input_schema": object{"type": "object",
			"properties": object{"zone": object{"const": "UTC"}}, "required": []string{"zone"}, "additionalProperties": false}}}})
	assert.Equal(t, "tool_use", out["stop_reason"], "%v", out)
	assert.Equal(t, object{"zone": "UTC"}, dig(out, "content", 0, "input"))
}
