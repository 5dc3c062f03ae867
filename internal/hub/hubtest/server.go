// Package hubtest is a server on loopback that behaves like the Hugging Face hub, faults included. For tests.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Server holds one repository. Large files are served by a second host, as the hub's are.
type Server struct {
	Repo, Commit string
	Files        map[string][]byte
	Token        string // needed if set

	// Fault, if set, is called before every answer to a request for a file's bytes; it reports whether it has answered.
	Fault func(w http.ResponseWriter, r *http.Request, content []byte) bool

	hub, store *httptest.Server
	mu         sync.Mutex
	requests   int
	leaked     []string
}

// Start starts the two hosts until the test ends.
func (s *Server) Start(t testing.TB) *Server {
	s.hub = httptest.NewServer(http.HandlerFunc(s.serveHub))
	s.store = httptest.NewServer(http.HandlerFunc(s.serveStore))
	t.Cleanup(s.hub.Close)
	t.Cleanup(s.store.Close)
	return s
}

// URL is the hub's address.
func (s *Server) URL() string { return s.hub.URL }

// Requests returns how many requests for bytes of files were made.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Leaked returns the tokens that the second host was sent.
func (s *Server) Leaked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaked
}

func (s *Server) serveHub(w http.ResponseWriter, r *http.Request) {
	if s.Token != "" && r.Header.Get("Authorization") != "Bearer "+s.Token {
		status := http.StatusUnauthorized
		if r.Header.Get("Authorization") != "" {
			status = http.StatusForbidden
		}
		http.Error(w, "{}", status)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/models/"+s.Repo+"/revision/") {
		s.list(w)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/"+s.Repo+"/resolve/"+s.Commit+"/")
	content, known := s.Files[name]
	switch {
	case !ok || !known:
		http.NotFound(w, r)
	case large(name):
		http.Redirect(w, r, strings.Replace(s.store.URL, "127.0.0.1", "localhost", 1)+"/"+name, http.StatusFound)
	default:
		s.content(w, r, name, content)
	}
}

func large(name string) bool {
	return strings.HasSuffix(name, ".gguf") || strings.HasSuffix(name, ".safetensors")
}

func (s *Server) list(w http.ResponseWriter) {
	type lfs struct {
		SHA256 string `json:"sha256"`
		Size   int    `json:"size"`
	}
	type file struct {
		Name string `json:"rfilename"`
		Size int    `json:"size"`
		Blob string `json:"blobId"`
		LFS  *lfs   `json:"lfs,omitempty"`
	}
	files := []file{}
	for name, content := range s.Files {
		sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...))
		f := file{Name: name, Size: len(content), Blob: hex.EncodeToString(sum[:])}
		if large(name) {
			sum := sha256.Sum256(content)
			f.LFS = &lfs{hex.EncodeToString(sum[:]), len(content)}
		}
		files = append(files, f)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"sha": s.Commit, "siblings": files})
}

func (s *Server) serveStore(w http.ResponseWriter, r *http.Request) {
	if token := r.Header.Get("Authorization"); token != "" {
		s.mu.Lock()
		s.leaked = append(s.leaked, token)
		s.mu.Unlock()
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	s.content(w, r, name, s.Files[name])
}

func (s *Server) content(w http.ResponseWriter, r *http.Request, name string, content []byte) {
	s.mu.Lock()
	s.requests++
	s.mu.Unlock()
	if s.Fault != nil && s.Fault(w, r, content) {
		return
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
}

// Drop answers with the bytes asked for, but ends the connection after n of them.
func Drop(w http.ResponseWriter, r *http.Request, content []byte, n int) {
	var from, to int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		to = len(content) - 1
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(content)))
	w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = io.CopyN(w, bytes.NewReader(content[from:]), int64(min(n, to-from+1)))
	panic(http.ErrAbortHandler)
}
