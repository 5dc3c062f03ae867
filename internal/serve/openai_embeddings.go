package serve

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// embeddingRequest is the body of /v1/embeddings.
type embeddingRequest struct {
	Model          string         `json:"model"`
	Input          prompts        `json:"input"`
	EncodingFormat string         `json:"encoding_format"`
	Dimensions     *int           `json:"dimensions"`
	Pooling        engine.Pooling `json:"pooling"` // mean (the default) or last; not OpenAI's
}

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) {
	var req embeddingRequest
	if err := readJSON(r, &req); err != nil {
		s.failWith(w, r, err)
		return
	}
	if err := req.check(); err != nil {
		s.failWith(w, r, err)
		return
	}
	l, ctx, done, err := s.lease(r, req.Model)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	vectors, tokens, err := embedAll(ctx, l, req.Input, req.Pooling)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	data := []map[string]any{}
	for i, v := range vectors {
		out := map[string]any{"object": "embedding", "index": i, "embedding": v}
		if req.EncodingFormat == "base64" {
			out["embedding"] = base64Floats(v)
		}
		data = append(data, out)
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "model": l.name, "data": data,
		"usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens}})
}

func (q *embeddingRequest) check() error {
	switch {
	case len(q.Input) == 0 || len(q.Input) > 2048:
		return badRequest("input", "input: %d texts, expected 1 to 2048", len(q.Input))
	case q.EncodingFormat != "" && q.EncodingFormat != "float" && q.EncodingFormat != "base64":
		return badRequest("encoding_format", "encoding_format %q: expected float or base64", q.EncodingFormat)
	case q.Dimensions != nil:
		return badRequest("dimensions", "dimensions is not supported: vectors have the model's width")
	case q.Pooling == "":
		q.Pooling = engine.PoolMean
	case q.Pooling != engine.PoolMean && q.Pooling != engine.PoolLast:
		return badRequest("pooling", "pooling %q: expected %s or %s", q.Pooling, engine.PoolMean, engine.PoolLast)
	}
	return nil
}

// embedAll returns a vector per input and the number of their tokens.
func embedAll(ctx context.Context, l *lease, inputs prompts, pool engine.Pooling) (vectors [][]float32, tokens int, err error) {
	e := l.model.Engine
	for _, in := range inputs {
		ids := in.tokens
		if ids == nil {
			ids = e.RawTokens(in.text)
		}
		if len(ids) == 0 {
			return nil, 0, badRequest("input", "input: an empty text has no embedding")
		}
		if len(ids) > e.NCtx() {
			return nil, 0, badRequest("input", "input: %d tokens do not fit a context of %d", len(ids), e.NCtx())
		}
		v, err := e.Embed(ctx, ids, pool)
		if err != nil {
			return nil, 0, err
		}
		vectors, tokens = append(vectors, v), tokens+len(ids)
	}
	return vectors, tokens, nil
}

// base64Floats is OpenAI's compact form: little-endian float32.
func base64Floats(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// ollamaEmbed answers /api/embed.
func (s *Server) ollamaEmbed(w http.ResponseWriter, r *http.Request) {
	var req embeddingRequest
	l, done, ok := s.small(w, r, &req, &req.Model)
	if !ok {
		return
	}
	defer done()
	if err := req.check(); err != nil {
		s.failWith(w, r, err)
		return
	}
	vectors, tokens, err := embedAll(r.Context(), l, req.Input, req.Pooling)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"model": l.name, "embeddings": vectors, "prompt_eval_count": tokens})
}
