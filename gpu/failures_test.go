package gpu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// ran is how loadAndRun went: the first error, that of Close, and whether the driver's graphs were used.
type ran struct {
	err, closing error
	graphs       bool
}

// loadAndRun loads a model on GPU 0 and runs a prompt and a token.
func loadAndRun(t *testing.T, m *tinyModel) (r ran) {
	t.Helper()
	dev, err := cuda.Open(0, cuda.Options{})
	if err != nil {
		return ran{err: err}
	}
	b := New(dev)
	err = b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanResident, NCtx: 48, MaxBatch: 12})
	for pos, n := 0, 5; err == nil && pos < 7; pos, n = pos+n, 1 {
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(n), pos, 1))
	}
	graphs := b.pass != nil && !b.pass.noGraph
	return ran{err, b.Close(), graphs}
}

// gives are operations that give something back, and leave it when they fail.
var gives = regexp.MustCompile("destroy|free|unload")

// Whatever call of the driver fails while a model is loaded and runs: the error says which, and what the driver lent is given
// back. Runs on the emulated driver (make test-driver).
func TestCallsOfTheDriverMayFail(t *testing.T) {
	options := os.Getenv("ELLM_EMU_DRIVER")
	if os.Getenv("ELLM_LIBCUDA") == "" || options == "" {
		t.Skip("SKIPPED: no emulated driver; make test-driver runs this")
	}
	m := newTinyModel(t, "llama")
	dir := t.TempDir()
	run := func(i int, more string) (left string, r ran) {
		path := filepath.Join(dir, strconv.Itoa(i))
		t.Setenv("ELLM_EMU_DRIVER", options+more+" report="+path)
		r = loadAndRun(t, m)
		b, _ := os.ReadFile(path)
		return string(b), r
	}
	left, whole := run(0, "")
	require.NoError(t, whole.err)
	require.NoError(t, whole.closing)
	found := regexp.MustCompile(`0 allocations, 0 pinned, 0 streams, 0 events, 0 modules, 0 graphs left; ` +
		`(\d+) calls`).FindStringSubmatch(left)
	require.NotNil(t, found, left)
	calls, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	require.Greater(t, calls, 100)
	const samples = 40
	for i := 1; i <= samples; i++ {
		n := i * calls / (samples + 1)
		left, r := run(i, fmt.Sprintf(" fail=any:%d:999", n))
		err, closing := r.err, r.closing
		if err == nil { // it is one of those that give back
			err, closing = closing, nil
		}
		if err == nil && whole.graphs && !r.graphs { // one of those that try an old driver's graphs, which then are not used
			assert.Contains(t, left, "0 allocations, 0 pinned, 0 streams, 0 events, 0 modules, 0 graphs left", "call %d", n)
			continue
		}
		require.Error(t, err, "call %d of %d", n, calls)
		var e *driver.Error
		require.ErrorAs(t, err, &e, "call %d of %d", n, calls)
		assert.NotEmpty(t, e.Op)
		assert.Contains(t, err.Error(), "999", "call %d of %d", n, calls)
		assert.NoError(t, closing, "call %d of %d failed once: %v", n, calls, err)
		if left != "" && !gives.MatchString(e.Op) { // empty: there was no context yet
			assert.Contains(t, left, "0 allocations, 0 pinned, 0 streams, 0 events, 0 modules, 0 graphs left", "call %d of %d: %v", n,
				calls, err)
		}
	}
}
