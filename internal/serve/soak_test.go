package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/serve"
)

const soakClients = 32

// soakTime is ELLM_SOAK, or short enough for every run of the tests.
func soakTime(t *testing.T) time.Duration {
	text := os.Getenv("ELLM_SOAK")
	if text == "" {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// Many clients stream at once, and some vanish: every answer that is read to its end is the one that a lone client gets, and
// nothing is left behind.
func TestManyClientsAtOnce(t *testing.T) {
	h, _ := start(t, func(o *serve.Options) { o.Queue = soakClients })
	url := h.URL + "/v1/chat/completions"
	bodies, want := make([]object, 12), make([]string, 12)
	for i := range bodies {
		bodies[i] = object{"messages": user(fmt.Sprint("Once upon a time there were ", i)), "max_tokens": 20 + i, "temperature": 0,
			"stream": true}
		want[i] = strings.Join(texts(t, context.Background(), url, bodies[i], 1<<30), "")
		require.NotEmpty(t, want[i])
	}
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	end := time.Now().Add(soakTime(t))
	var whole, cut atomic.Int64
	var group sync.WaitGroup
	for client := range soakClients {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			for time.Now().Before(end) && !t.Failed() {
				i, limit := rng.IntN(len(bodies)), 1<<30
				if rng.IntN(4) == 0 {
					limit = rng.IntN(6) // vanish after this many pieces
				}
				ctx, cancel := context.WithCancel(context.Background())
				got := texts(t, ctx, url, bodies[i], limit)
				cancel()
				if limit == 1<<30 {
					assert.Equal(t, want[i], strings.Join(got, ""))
					whole.Add(1)
				} else {
					assert.True(t, strings.HasPrefix(want[i], strings.Join(got, "")))
					cut.Add(1)
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d answers read to their end, %d abandoned, none differs", whole.Load(), cut.Load())
	assert.Positive(t, whole.Load())
	http.DefaultClient.CloseIdleConnections()
	assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, 10*time.Second, 20*time.Millisecond,
		"goroutines are left")
	assert.Eventually(t, func() bool {
		_, text := getText(t, h.URL+"/metrics")
		return strings.Contains(text, `ellm_gpu_kv_cache_pages_used{model="tiny:a"} 0`) &&
			strings.Contains(text, `ellm_gpu_requests_processing{model="tiny:a"} 0`)
	}, 10*time.Second, 20*time.Millisecond, "pages are left")
}

func getText(t *testing.T, url string) (int, string) {
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, b.String()
}

// texts reads a streamed answer's pieces, at most limit of them.
func texts(t *testing.T, ctx context.Context, url string, body object, limit int) (out []string) {
	b, err := json.Marshal(body)
	if !assert.NoError(t, err) {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if !assert.NoError(t, err) {
		return nil
	}
	resp, err := http.DefaultClient.Do(req)
	if !assert.NoError(t, err) {
		return nil
	}
	defer resp.Body.Close()
	if !assert.Equal(t, http.StatusOK, resp.StatusCode) {
		return nil
	}
	for s := bufio.NewScanner(resp.Body); len(out) < limit && s.Scan(); {
		data, ok := strings.CutPrefix(s.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var o object
		if !assert.NoError(t, json.Unmarshal([]byte(data), &o)) {
			return nil
		}
		if c, ok := dig(o, "choices", 0, "delta", "content").(string); ok {
			out = append(out, c)
		}
	}
	return out
}
