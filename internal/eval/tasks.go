package eval

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// TaskOptions controls HellaSwag and GSM8K.
type TaskOptions struct {
	State     *State // of earlier runs; may be nil
	MaxTokens int    // of one answer, for GSM8K
	// Progress, if set, is called after every task with the accuracy so far.
	Progress func(done, total int, accuracy float64)
}

const (
	maxTaskLine = 1 << 20
	maxTasks    = 1 << 20
)

// readLines decodes JSON lines and hands each to add.
func readLines[T any](r io.Reader, name string, add func(*T) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxTaskLine)
	n := 0
	for line := 1; sc.Scan(); line++ {
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		var v T
		err := json.Unmarshal(sc.Bytes(), &v)
		if err == nil {
			err = add(&v)
		}
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, line, err)
		}
		if n++; n > maxTasks {
			return fmt.Errorf("%s: more than %d tasks", name, maxTasks)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%s: %w (one JSON value per line is expected)", name, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: no tasks in it", name)
	}
	return nil
}

// runTasks computes the result of each of n tasks, or takes it from an earlier run. add counts a result and
// returns the accuracy so far.
func runTasks[R any](n int, opt TaskOptions, compute func(i int) (R, error), add func(R) float64) error {
	for i := range n {
		var r R
		known, err := opt.State.get(i, &r)
		if err == nil && !known {
			if r, err = compute(i); err == nil {
				err = opt.State.put(i, r)
			}
		}
		if err != nil {
			return fmt.Errorf("task %d of %d: %w", i+1, n, err)
		}
		accuracy := add(r)
		if opt.Progress != nil {
			opt.Progress(i+1, n, accuracy)
		}
	}
	return nil
}

// promptTokens returns the tokens of a text as models are trained to see its beginning.
func promptTokens(s *engine.Engine, text string) []int32 {
	tokens := s.Tokenizer().Encode(text, false, false)
	if bos, ok := s.AddsBOS(); ok {
		tokens = append([]int32{bos}, tokens...)
	}
	return tokens
}
