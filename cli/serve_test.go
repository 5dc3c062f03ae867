package cli

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serving runs "serve" until the test ends, and returns its address.
func serving(t *testing.T, args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	lines, errs := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Main(ctx, "test", append([]string{"ellm-gpu", "serve", "--port", "0"}, args...),
			Streams{In: strings.NewReader(""), Out: io.Discard, Err: errs})
		errs.Close()
	}()
	address := make(chan string, 1)
	go func() {
		for s := bufio.NewScanner(lines); s.Scan(); {
			if a, ok := strings.CutPrefix(s.Text(), "listening on "); ok {
				address <- a
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		assert.Equal(t, exitOK, <-ended)
	})
	select {
	case a := <-address:
		return a
	case code := <-ended:
		t.Fatalf("serve ended with %d", code)
	case <-time.After(time.Minute):
		t.Fatal("serve does not listen")
	}
	return ""
}

func postBody(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestServerPullsIntoItsStore(t *testing.T) {
	hubWithTestModel(t)
	url := serving(t, "--device", "cpu", "--ctx", "256")
	for _, name := range []string{"../secret", "/etc/passwd", "org/tiny-GGUF:../x.gguf", "org/../x", ""} {
		status, text := postBody(t, url+"/api/pull", `{"stream":false,"model":"`+name+`"}`)
		assert.Equal(t, http.StatusBadRequest, status, "%s: %s", name, text)
	}
	status, text := postBody(t, url+"/api/pull", `{"model":"org/tiny-GGUF:F16"}`)
	assert.Equal(t, http.StatusOK, status)
	for _, want := range []string{`{"status":"pulling manifest"}`, `"digest":"sha256:`, `"status":"compressing: `,
		`{"status":"writing manifest"}`} {
		assert.Contains(t, text, want)
	}
	assert.True(t, strings.HasSuffix(text, "{\"status\":\"success\"}\n"), text)
	_, text = postBody(t, url+"/api/generate", `{"model":"org/tiny-GGUF:F16","prompt":"Once","stream":false,`+
		`"options":{"num_predict":4,"mirostat":2,"repeat_last_n":-1}}`)
	assert.Contains(t, text, `"done_reason":"length"`)
}

func TestServerOfNamedModelsPullsNone(t *testing.T) {
	hubWithTestModel(t)
	url := serving(t, compressed(t, "--lossless"), "--device", "cpu", "--ctx", "256")
	status, text := postBody(t, url+"/api/pull", `{"model":"org/tiny-GGUF:F16"}`)
	assert.Equal(t, http.StatusForbidden, status)
	assert.Contains(t, text, "does not pull models")
}
