package serve

import (
	"net/http"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
)

// llamaCppRoutes are the paths of llama.cpp's server that its users' scripts ask.
func (s *Server) llamaCppRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /props", s.props)
	m.HandleFunc("POST /tokenize", s.tokenize)
	m.HandleFunc("POST /detokenize", s.detokenize)
	m.HandleFunc("POST /apply-template", s.applyTemplate)
	m.HandleFunc("GET /tokenizer_info", s.tokenizerInfo)
}

func (s *Server) props(w http.ResponseWriter, r *http.Request) {
	l, _, done, err := s.lease(r, r.URL.Query().Get("model"))
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	e := l.model.Engine
	bos, _ := e.AddsBOS()
	writeJSON(w, http.StatusOK, map[string]any{
		"model_path": l.name, "model_alias": l.name, "total_slots": l.model.Parallel, "chat_template": l.model.Template,
		"bos_token": e.Tokenizer().Piece(bos), "eos_token": e.Tokenizer().Piece(e.Tokenizer().EOS()), "build_info": s.opt.Version,
		"default_generation_settings": map[string]any{"n_ctx": e.NCtx()}, "device": e.Device(),
		"modalities": map[string]bool{"vision": false, "audio": false},
	})
}

// tokenizerInfo is vLLM's, for clients that need no tokenizer of their own then (lm_eval's tokenizer_backend=remote).
func (s *Server) tokenizerInfo(w http.ResponseWriter, r *http.Request) {
	l, _, done, err := s.lease(r, r.URL.Query().Get("model"))
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	t := l.model.Engine.Tokenizer()
	info := map[string]any{"eos_token": t.Piece(t.EOS()), "chat_template": l.model.Template}
	if bos, _ := l.model.Engine.AddsBOS(); bos >= 0 {
		info["bos_token"] = t.Piece(bos)
	}
	writeJSON(w, http.StatusOK, info)
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model        string `json:"model"`
		Content      string `json:"content"`
		Prompt       string `json:"prompt"` // vLLM's name for it
		AddSpecial   bool   `json:"add_special"`
		AddSpecials  bool   `json:"add_special_tokens"` // likewise
		ParseSpecial *bool  `json:"parse_special"`
		WithPieces   bool   `json:"with_pieces"`
	}
	l, done, ok := s.small(w, r, &req, &req.Model)
	if !ok {
		return
	}
	defer done()
	t := l.model.Engine.Tokenizer()
	ids := t.Encode(req.Content+req.Prompt, req.AddSpecial || req.AddSpecials, req.ParseSpecial == nil || *req.ParseSpecial)
	if !req.WithPieces {
		if ids == nil {
			ids = []int32{}
		}
		writeJSON(w, http.StatusOK, map[string]any{"tokens": ids})
		return
	}
	pieces := []map[string]any{}
	for _, id := range ids {
		pieces = append(pieces, map[string]any{"id": id, "piece": strings.ToValidUTF8(t.Piece(id), "\uFFFD")})
	}
	writeJSON(w, http.StatusOK, map[string]any{"tokens": pieces})
}

func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model  string  `json:"model"`
		Tokens []int32 `json:"tokens"`
	}
	l, done, ok := s.small(w, r, &req, &req.Model)
	if !ok {
		return
	}
	defer done()
	text := l.model.Engine.Tokenizer().Decode(req.Tokens)
	writeJSON(w, http.StatusOK, map[string]any{"content": text, "prompt": text})
}

func (s *Server) applyTemplate(w http.ResponseWriter, r *http.Request) {
	var req chatRequest
	l, done, ok := s.small(w, r, &req, &req.Model)
	if !ok {
		return
	}
	defer done()
	messages, err := conversation(req.Messages)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	text, err := l.model.Engine.ChatText(r.Context(), chat.Conversation{Messages: messages, Tools: req.Tools,
		Options: req.TemplateArguments, GenerationPrompt: true})
	if err != nil {
		s.failWith(w, r, &requestError{"messages", err})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"prompt": text})
}

// small reads the body of a request that computes nothing, and acquires its model. It reports whether it has not answered.
func (s *Server) small(w http.ResponseWriter, r *http.Request, body any, model *string) (*lease, func(), bool) {
	if err := readJSON(r, body); err != nil {
		s.failWith(w, r, err)
		return nil, nil, false
	}
	l, _, done, err := s.lease(r, *model)
	if err != nil {
		s.failWith(w, r, err)
		return nil, nil, false
	}
	return l, done, true
}
