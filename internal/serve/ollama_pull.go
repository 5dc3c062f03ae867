package serve

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// pullEvery is the least time between two reports of the same work.
const pullEvery = 100 * time.Millisecond

// ollamaPull downloads a model into the store, one at a time. Names are those of a hub, never paths.
func (s *Server) ollamaPull(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Model  string `json:"model"`
		Name   string `json:"name"`
		Stream *bool  `json:"stream"`
	}
	if err := readJSON(r, &q); err != nil {
		s.failWith(w, r, err)
		return
	}
	if q.Model == "" {
		q.Model = q.Name
	}
	if s.opt.Pull == nil {
		s.fail(w, r, http.StatusForbidden, errors.New("this server does not pull models: it serves those of its command line"))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p := &pullStream{ev: newEvents(w, true, cancel)}
	report := p.report
	if q.Stream != nil && !*q.Stream {
		report = func(PullProgress) {}
	}
	select {
	case s.pulling <- struct{}{}:
		defer func() { <-s.pulling }()
	case <-ctx.Done():
		return // the client has gone
	}
	err := s.opt.Pull(ctx, q.Model, report)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && !p.ev.started:
		s.fail(w, r, statusOfPull(err), err)
	case err != nil:
		p.ev.send("", map[string]any{"error": err.Error()})
	case p.ev.started:
		p.ev.send("", PullProgress{Status: "success"})
	default:
		writeJSON(w, http.StatusOK, PullProgress{Status: "success"})
	}
}

func statusOfPull(err error) int {
	if errors.Is(err, context.Canceled) {
		return statusOf(err)
	}
	return http.StatusBadRequest
}

// pullStream sends what a pull reports as it comes.
type pullStream struct {
	mu   sync.Mutex
	ev   *events
	last PullProgress
	sent time.Time
}

func (p *pullStream) report(v PullProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := v.Status == p.last.Status && v.Digest == p.last.Digest
	if same && (v.Done <= p.last.Done || v.Done < v.Total && time.Since(p.sent) < pullEvery) {
		return
	}
	p.last, p.sent = v, time.Now()
	p.ev.send("", v)
}
