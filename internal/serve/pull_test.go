package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/serve"
)

func jsonLines(t *testing.T, text []byte) (out []object) {
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var o object
		require.NoError(t, json.Unmarshal([]byte(line), &o), "%s", line)
		out = append(out, o)
	}
	return out
}

func TestPullsAreStreamedAsOllamaDoes(t *testing.T) {
	running, most := 0, 0
	var mu sync.Mutex
	h, _ := start(t, func(o *serve.Options) {
		o.Pull = func(_ context.Context, name string, report func(serve.PullProgress)) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			defer func() { mu.Lock(); running--; mu.Unlock() }()
			switch name {
			case "":
				return errors.New("no name")
			case "late":
				report(serve.PullProgress{Status: "pulling manifest"})
				return errors.New("the disk is full")
			}
			report(serve.PullProgress{Status: "pulling manifest"})
			var group sync.WaitGroup // ranges come in parallel
			for i := range 8 {
				group.Go(func() {
					for n := int64(0); n <= 1000; n += 50 {
						report(serve.PullProgress{Status: "pulling abc", Digest: "sha256:abc", Done: n + int64(i), Total: 1010})
					}
				})
			}
			group.Wait()
			report(serve.PullProgress{Status: "pulling abc", Digest: "sha256:abc", Done: 1010, Total: 1010})
			return nil
		}
	})
	_, text := postText(t, h.URL+"/api/pull", object{"model": "org/name"})
	lines := jsonLines(t, text)
	assert.Equal(t, object{"status": "pulling manifest"}, lines[0])
	assert.Equal(t, object{"status": "success"}, lines[len(lines)-1])
	assert.Equal(t, object{"status": "pulling abc", "digest": "sha256:abc", "completed": 1010., "total": 1010.}, lines[len(lines)-2])
	before := -1.
	for _, l := range lines[1 : len(lines)-1] {
		done, _ := l["completed"].(float64)
		assert.Greater(t, done, before)
		before = done
	}
	status, out := post(t, h.URL+"/api/pull", object{"name": "org/name", "stream": false})
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, object{"status": "success"}, out)
	status, out = post(t, h.URL+"/api/pull", object{})
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Equal(t, "no name", out["error"])
	status, _ = post(t, h.URL+"/api/pull", object{"name": "late", "stream": false})
	assert.Equal(t, http.StatusBadRequest, status)
	_, text = postText(t, h.URL+"/api/pull", object{"name": "late"})
	lines = jsonLines(t, text)
	assert.Equal(t, "the disk is full", lines[len(lines)-1]["error"])

	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { postText(t, h.URL+"/api/pull", object{"model": "org/name"}) })
	}
	group.Wait()
	assert.Equal(t, 1, most, "one pull at a time")

	closed, _ := start(t, nil)
	status, _ = post(t, closed.URL+"/api/pull", object{"model": "org/name"})
	assert.Equal(t, http.StatusForbidden, status)
}
