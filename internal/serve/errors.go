package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// requestError is a mistake in a request. param is the field it is in.
type requestError struct {
	param string
	err   error
}

func (e *requestError) Error() string { return e.err.Error() }
func (e *requestError) Unwrap() error { return e.err }

func badRequest(param, format string, args ...any) error {
	return &requestError{param, fmt.Errorf(format, args...)}
}

// statusOf returns the HTTP status that tells of an error.
func statusOf(err error) int {
	var mistake *requestError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNoModel):
		return http.StatusNotFound
	case errors.Is(err, ErrFull):
		return http.StatusServiceUnavailable
	case errors.As(err, &mistake), errors.Is(err, engine.ErrPromptTooLong):
		return http.StatusBadRequest
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return 499 // the client has gone: as nginx logs it
	}
	return http.StatusInternalServerError
}

// errorType is OpenAI's word for a kind of failure.
func errorType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusNotFound:
		return "not_found_error"
	case status == http.StatusServiceUnavailable:
		return "overloaded_error"
	case status < 500:
		return "invalid_request_error"
	}
	return "server_error"
}

// failWith answers with err in the form of the interface that was asked.
func (s *Server) failWith(w http.ResponseWriter, r *http.Request, err error) {
	s.fail(w, r, statusOf(err), err)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, errorBody(r.URL.Path, status, err))
}

// errorBody is an error as the interface that owns the path has it.
func errorBody(path string, status int, err error) any {
	switch {
	case strings.HasPrefix(path, "/api/"):
		return map[string]any{"error": err.Error()}
	case strings.HasPrefix(path, "/v1/messages"):
		return map[string]any{"type": "error", "error": map[string]any{"type": errorType(status), "message": err.Error()}}
	}
	var param, code any
	var mistake *requestError
	if errors.As(err, &mistake) && mistake.param != "" {
		param = mistake.param
	}
	if errors.Is(err, engine.ErrPromptTooLong) {
		code = "context_length_exceeded"
	}
	if errors.Is(err, ErrNoModel) {
		code = "model_not_found"
	}
	return map[string]any{"error": map[string]any{"message": err.Error(), "type": errorType(status), "param": param, "code": code}}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client may have gone
}

// maxNesting bounds the nesting of a request, for which decoding takes stack.
const maxNesting = 200

// readJSON reads a request's body into v.
func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return fmt.Errorf("the request has more than %d bytes: %w", large.Limit, err)
		}
		return badRequest("", "the body could not be read: %w", err)
	}
	if depth(body) > maxNesting {
		return badRequest("", "the body is nested more than %d deep", maxNesting)
	}
	if err := json.Unmarshal(body, v); err != nil {
		var field *json.UnmarshalTypeError
		if errors.As(err, &field) {
			return badRequest(field.Field, "%s: a %s where %s is expected", field.Field, field.Value, field.Type)
		}
		if mistake := new(requestError); errors.As(err, &mistake) {
			return mistake
		}
		return badRequest("", "the body is not the JSON that is expected: %w", err)
	}
	return nil
}

// depth returns how deep brackets are nested, those within strings left out.
func depth(b []byte) int {
	most, now, inString := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '{' || c == '['):
			now++
			most = max(most, now)
		case !inString && (c == '}' || c == ']'):
			now--
		}
	}
	return most
}
