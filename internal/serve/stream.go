package serve

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

// writeTimeout is how long a client may take for one event before it is given up.
const writeTimeout = 30 * time.Second

// events writes server-sent events (or lines of JSON, for ollama's clients) as they come.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	lines   bool   // one JSON value per line instead of events
	cancel  func() // ends the generation when the client has gone
	started bool
	err     error
}

func newEvents(w http.ResponseWriter, lines bool, cancel func()) *events {
	return &events{w: w, control: http.NewResponseController(w), lines: lines, cancel: cancel}
}

// start sends the header, so that clients know that the request was accepted.
func (e *events) start() {
	if e.started {
		return
	}
	e.started = true
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	if e.lines {
		h.Set("Content-Type", "application/x-ndjson")
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	e.w.WriteHeader(http.StatusOK)
}

// send writes one value. name is the event's, if it has one.
func (e *events) send(name string, v any) {
	if e.err != nil {
		return
	}
	e.start()
	var b bytes.Buffer
	if !e.lines {
		if name != "" {
			b.WriteString("event: " + name + "\n")
		}
		b.WriteString("data: ")
	}
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if e.err = enc.Encode(v); e.err != nil {
		return
	}
	if !e.lines {
		b.WriteByte('\n')
	}
	e.write(b.Bytes())
}

// done writes the mark by which OpenAI's streams end.
func (e *events) done() { e.write([]byte("data: [DONE]\n\n")) }

func (e *events) write(b []byte) {
	if e.err != nil {
		return
	}
	_ = e.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // unsupported by tests' recorders
	if _, e.err = e.w.Write(b); e.err == nil {
		e.err = e.control.Flush()
	}
	if e.err != nil {
		e.cancel()
	}
}
