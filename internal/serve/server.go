// Package serve is the HTTP server: the interfaces of OpenAI, Anthropic, ollama and llama.cpp on one engine per model.
//
// A request passes through the handlers of wrap (server.go: identification, limits, authorization), is read by the file of its
// interface (openai_*.go, anthropic.go, ollama_*.go, llamacpp.go) into a job (job.go), which the engine computes, and goes back
// in that interface's form, whole or as a stream (stream.go).
package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Options are the settings of a Server.
type Options struct {
	Library  Library
	Version  string
	Log      *slog.Logger
	APIKeys  []string      // one of them must come with every request, except for /health; none: open
	Origins  []string      // web pages elsewhere that may ask: their origins, or "*"
	Loaded   int           // models in memory at once; 0: 1
	Idle     time.Duration // unload a model that was not used for so long; 0: never
	Queue    int           // requests that may wait for a model beside those it computes
	MaxBody  int64         // bytes of a request
	Timeout  time.Duration // of one request
	Pull     PullFunc      // for /api/pull; nil: refused
	MaxToken int           // tokens of an answer where the request names no limit; 0: until the context is full
}

// PullFunc downloads a model into the library, telling how far it is, from several goroutines.
type PullFunc func(ctx context.Context, name string, report func(PullProgress)) error

// PullProgress is how far a pull is, in the form of ollama's answers.
type PullProgress struct {
	Status string `json:"status"`           // what is being done
	Digest string `json:"digest,omitempty"` // of the file that is downloaded
	Total  int64  `json:"total,omitempty"`  // bytes, or units of other work
	Done   int64  `json:"completed,omitempty"`
}

// Server answers requests. It is an http.Handler.
type Server struct {
	opt     Options
	models  *models
	metrics *metrics
	handler http.Handler
	started time.Time
	drained atomic.Bool
	pulling chan struct{} // of capacity 1: one pull at a time
}

// New returns a server. Close ends it.
func New(opt Options) *Server {
	if opt.Loaded <= 0 {
		opt.Loaded = 1
	}
	if opt.MaxBody <= 0 {
		opt.MaxBody = 8 << 20
	}
	if opt.Timeout <= 0 {
		opt.Timeout = 10 * time.Minute
	}
	s := &Server{opt: opt, started: time.Now(), pulling: make(chan struct{}, 1)}
	s.models = newModels(opt.Library, opt.Loaded, opt.Idle, opt.Queue, opt.Log)
	s.metrics = newMetrics(s.models)
	s.handler = s.wrap(s.routes())
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Drain makes /health fail, so that load balancers send nothing more; requests are still answered.
func (s *Server) Drain() { s.drained.Store(true) }

// Preload loads a model before the first request asks for it.
func (s *Server) Preload(ctx context.Context, name string) error {
	l, err := s.models.acquire(ctx, name)
	if err == nil {
		l.release()
	}
	return err
}

// Close unloads all models once no request uses them.
func (s *Server) Close() error { return s.models.close() }

// HTTP returns an http.Server for s with limits against clients that are slow on purpose.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelWarn),
	}
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /health", s.health)
	m.HandleFunc("GET /v1/health", s.health)
	m.Handle("GET /metrics", s.metrics.handler())
	m.HandleFunc("POST /v1/chat/completions", s.chatCompletions)
	m.HandleFunc("POST /chat/completions", s.chatCompletions)
	m.HandleFunc("POST /v1/completions", s.completions)
	m.HandleFunc("GET /v1/models", s.listModels)
	m.HandleFunc("GET /v1/models/{name...}", s.oneModel)
	m.HandleFunc("POST /v1/responses", s.responses)
	m.HandleFunc("POST /v1/embeddings", s.embeddings)
	m.HandleFunc("POST /api/embed", s.ollamaEmbed)
	m.HandleFunc("POST /v1/messages", s.anthropicMessages)
	m.HandleFunc("POST /v1/messages/count_tokens", s.countTokens)
	s.ollamaRoutes(m)
	s.llamaCppRoutes(m)
	s.pageRoutes(m)
	return m
}

// wrap returns h behind what holds for all requests.
func (s *Server) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := requestID(r)
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				s.opt.Log.Error("panic", "request", id, "value", v, "stack", string(debug.Stack()))
				if rec.status == 0 {
					s.fail(rec, r, http.StatusInternalServerError, errors.New("internal error"))
				}
			}
			s.metrics.request(r, rec.status, time.Since(start))
			s.opt.Log.Info("request", "id", id, "method", r.Method, "path", r.URL.Path, "status", rec.status, "bytes", rec.bytes,
				"ms", time.Since(start).Milliseconds(), "remote", remoteHost(r))
		}()
		if s.crossOrigin(rec, r) {
			return
		}
		if !s.authorized(r) {
			rec.Header().Set("WWW-Authenticate", "Bearer")
			s.fail(rec, r, http.StatusUnauthorized, errors.New("a valid API key is needed (Authorization: Bearer KEY, or x-api-key)"))
			return
		}
		r.Body = http.MaxBytesReader(rec, r.Body, s.opt.MaxBody)
		h.ServeHTTP(rec, r)
	})
}

// requestID returns the client's id of a request if it is a plain one, or a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	plain := func(c rune) bool {
		return c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
	}
	if id != "" && len(id) <= 64 && !strings.ContainsFunc(id, func(c rune) bool { return !plain(c) }) {
		return id
	}
	return newID("req")
}

// newID returns prefix_ and 24 random hexadecimal digits.
func newID(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "_" + hex.EncodeToString(b[:])
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// crossOrigin handles requests of web pages of other origins, and refuses those that are not allowed. It reports whether it has
// answered. A browser on this machine would otherwise let any page use the server.
func (s *Server) crossOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || (origin == "http://"+r.Host || origin == "https://"+r.Host) && s.ownHost(r.Host) {
		return false
	}
	allowed := slices.Contains(s.opt.Origins, "*") || slices.Contains(s.opt.Origins, origin)
	if !allowed {
		s.fail(w, r, http.StatusForbidden, errors.New("web pages of other origins may not ask (--cors ORIGIN allows one)"))
		return true
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key, Anthropic-Version, Anthropic-Beta")
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return true
	}
	return false
}

// ownHost reports whether a page of this host may be the server's own. A name other than localhost could be one that its owner
// points to this machine, so that his pages become ours (DNS rebinding); an API key keeps those out.
func (s *Server) ownHost(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	return len(s.opt.APIKeys) > 0 || host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil
}

// authorized compares the request's key with the allowed ones in a time that does not depend on them.
func (s *Server) authorized(r *http.Request) bool {
	if len(s.opt.APIKeys) == 0 || r.URL.Path == "/health" || r.URL.Path == "/v1/health" || openPath(r) {
		return true
	}
	key := r.Header.Get("X-Api-Key")
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		key = bearer
	}
	sum, found := sha256.Sum256([]byte(key)), 0
	for _, k := range s.opt.APIKeys {
		want := sha256.Sum256([]byte(k))
		found |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return found == 1
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if s.drained.Load() {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "shutting down"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
}
