package serve_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/serve"
)

// listen runs the server as `serve` does, with its limits against slow clients, and returns its address.
func listen(t *testing.T) string {
	s := serve.New(serve.Options{Library: library(t), Version: "test", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Queue: 8,
		MaxBody: 1 << 20})
	h := s.HTTP()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	t.Cleanup(func() {
		assert.NoError(t, h.Close())
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
		assert.NoError(t, s.Close())
	})
	return l.Addr().String()
}

func connect(t *testing.T, address string) net.Conn {
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

// status reads the answer's status; 0 if the server closed the connection without one.
func status(t *testing.T, c net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		return 0
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}

// flood writes prefix and then part, up to n times, until the server has closed the connection.
func flood(c net.Conn, prefix, part string, n int) {
	_, err := io.WriteString(c, prefix)
	for range n {
		if err != nil {
			return
		}
		_, err = io.WriteString(c, part)
	}
}

// Headers and bodies without end are cut off, whatever their form, and take no memory.
func TestBombsAreCutOff(t *testing.T) {
	address := listen(t)
	post := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	chunked := post + "Transfer-Encoding: chunked\r\n\r\n"
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	long := strings.Repeat("a", 4096)
	tooLarge := []int{http.StatusRequestEntityTooLarge, 0}
	for _, c := range []struct {
		name, prefix, part string
		want               []int // 0: closed while the client was still writing
	}{
		{"header", "GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", long, []int{http.StatusRequestHeaderFieldsTooLarge, 0}},
		{"headers", "GET /health HTTP/1.1\r\nHost: x\r\n", "X-A: " + long + "\r\n", []int{http.StatusRequestHeaderFieldsTooLarge, 0}},
		{"path", "GET /", long, []int{http.StatusRequestHeaderFieldsTooLarge, 0}},
		{"text", chunked + chunk(`{"messages":[{"role":"user","content":"`), chunk(long), tooLarge},
		{"nesting", chunked + chunk(`{"messages":`), chunk(strings.Repeat("[", 4096)), append(tooLarge, http.StatusBadRequest)},
		{"fields", chunked + chunk("{"), chunk(`"a":0,` + `"` + long + `":0,`), tooLarge},
		{"promised", post + "Content-Length: 9223372036854775807\r\n\r\n" + `{"a":"`, long, tooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			conn := connect(t, address)
			go flood(conn, c.prefix, c.part, 16384) // 64 MiB
			assert.Contains(t, c.want, status(t, conn))
			runtime.ReadMemStats(&after)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(48<<20), "bytes allocated for 64 MiB sent")
		})
	}
	healthy(t, address)
}

// Clients that send a header byte by byte hold connections, not the server, and lose them after ten seconds.
func TestSlowHeadersAreGivenUp(t *testing.T) {
	t.Parallel()
	address := listen(t)
	var slow []net.Conn
	for range 100 {
		c := connect(t, address)
		_, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
		require.NoError(t, err)
		slow = append(slow, c)
	}
	healthy(t, address)
	began := time.Now()
	for i, c := range slow {
		go func() {
			for range 40 {
				time.Sleep(time.Second)
				if _, err := io.WriteString(c, "a"); err != nil {
					return
				}
			}
		}()
		if i < len(slow)-1 {
			continue
		}
		assert.Contains(t, []int{http.StatusRequestTimeout, 0}, status(t, c))
	}
	assert.Less(t, time.Since(began), 30*time.Second)
	healthy(t, address)
}

func healthy(t *testing.T, address string) {
	t.Helper()
	r, err := http.Get("http://" + address + "/health")
	require.NoError(t, err)
	defer r.Body.Close()
	assert.Equal(t, http.StatusOK, r.StatusCode)
}
