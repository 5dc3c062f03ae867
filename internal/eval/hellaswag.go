package eval

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// HellaSwagTask is a text with four possible endings (Zellers et al., 2019, arXiv 1905.07830).
type HellaSwagTask struct {
	Context string
	Endings []string
	Gold    int // index of the right ending
}

// hellaSwagLine is a line of the published files.
type hellaSwagLine struct {
	Activity string          `json:"activity_label"`
	Ctx      string          `json:"ctx"`
	CtxA     *string         `json:"ctx_a"`
	CtxB     string          `json:"ctx_b"`
	Endings  []string        `json:"endings"`
	Label    json.RawMessage `json:"label"` // number, or string with a number
}

// ReadHellaSwag reads tasks in the published JSONL form: ctx_a and ctx_b, or ctx; activity_label if there is one;
// endings; label. The texts are cleaned as lm-evaluation-harness does it; name is for messages.
func ReadHellaSwag(r io.Reader, name string) ([]HellaSwagTask, error) {
	var tasks []HellaSwagTask
	err := readLines(r, name, func(l *hellaSwagLine) error {
		t, err := l.task()
		tasks = append(tasks, t)
		return err
	})
	return tasks, err
}

const maxEndings = 64

func (l *hellaSwagLine) task() (HellaSwagTask, error) {
	text := l.Ctx
	if l.CtxA != nil {
		text = *l.CtxA + " " + capitalize(l.CtxB)
	}
	if l.Activity != "" {
		text = l.Activity + ": " + text
	}
	t := HellaSwagTask{Context: clean(text)}
	if t.Context == "" {
		return t, fmt.Errorf("\"ctx\" is missing")
	}
	if len(l.Endings) < 2 || len(l.Endings) > maxEndings {
		return t, fmt.Errorf("\"endings\" has %d texts, expected 2 to %d", len(l.Endings), maxEndings)
	}
	for i, e := range l.Endings {
		t.Endings = append(t.Endings, clean(e))
		if t.Endings[i] == "" {
			return t, fmt.Errorf("ending %d is empty", i)
		}
	}
	gold, err := strconv.Atoi(strings.Trim(string(l.Label), `" `))
	if err != nil || gold < 0 || gold >= len(t.Endings) {
		return t, fmt.Errorf("\"label\" is %s, expected a number from 0 to %d (the test split has no labels: use the "+
			"validation split)", l.Label, len(t.Endings)-1)
	}
	t.Gold = gold
	return t, nil
}

var brackets = regexp.MustCompile(`\[.*?\]`)

// clean removes what WikiHow's markup left in the texts.
func clean(s string) string {
	s = strings.TrimSpace(s)
	s = strings.ReplaceAll(s, " [title]", ". ")
	s = brackets.ReplaceAllString(s, "")
	return strings.ReplaceAll(s, "  ", " ")
}

// capitalize makes the first letter upper case and the others lower case, as Python's str.capitalize.
func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToTitle(r)) + strings.ToLower(s[n:])
}

// HellaSwagResult is the share of tasks whose right ending is the most probable one.
type HellaSwagResult struct {
	Tasks        int      `json:"tasks"`
	Shots        int      `json:"shots"`
	Accuracy     Estimate `json:"accuracy"`
	AccuracyNorm Estimate `json:"accuracy_norm"` // log-probabilities divided by the endings' lengths in characters
}

// hellaSwagOutcome is what State keeps of a task.
type hellaSwagOutcome struct {
	LogProbs []float64 `json:"log_probs"` // of the endings
	Right    bool      `json:"right"`
	RightN   bool      `json:"right_norm"`
}

// HellaSwag solves tasks, each after the same solved examples.
func HellaSwag(ctx context.Context, s *engine.Engine, shots, tasks []HellaSwagTask, opt TaskOptions) (HellaSwagResult, error) {
	var prefix strings.Builder
	for _, t := range shots {
		prefix.WriteString(t.Context + " " + t.Endings[t.Gold] + "\n\n")
	}
	solver := hellaSwagSolver{s: s, prefix: prefix.String(), softmax: newSoftmax()}
	r := HellaSwagResult{Shots: len(shots)}
	right, rightNorm := 0, 0
	err := runTasks(len(tasks), opt, func(i int) (hellaSwagOutcome, error) {
		return solver.solve(ctx, &tasks[i])
	}, func(o hellaSwagOutcome) float64 {
		r.Tasks++
		right += count(o.Right)
		rightNorm += count(o.RightN)
		return float64(rightNorm) / float64(r.Tasks)
	})
	r.Accuracy, r.AccuracyNorm = share(right, r.Tasks), share(rightNorm, r.Tasks)
	return r, err
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

type hellaSwagSolver struct {
	s       *engine.Engine
	prefix  string
	softmax *softmax
	terms   []float64
}

func (h *hellaSwagSolver) solve(ctx context.Context, t *HellaSwagTask) (hellaSwagOutcome, error) {
	var o hellaSwagOutcome
	best, bestNorm := 0, 0
	norm := make([]float64, len(t.Endings))
	for i, e := range t.Endings {
		lp, err := h.logProb(ctx, h.prefix+t.Context, " "+e)
		if err != nil {
			return o, err
		}
		o.LogProbs = append(o.LogProbs, lp)
		norm[i] = lp / float64(utf8.RuneCountInString(e))
		if lp > o.LogProbs[best] {
			best = i
		}
		if norm[i] > norm[bestNorm] {
			bestNorm = i
		}
	}
	o.Right, o.RightN = best == t.Gold, bestNorm == t.Gold
	return o, nil
}

// logProb returns the log-probability of a continuation: of those tokens of the whole text that follow as many tokens as
// the context has alone.
func (h *hellaSwagSolver) logProb(ctx context.Context, text, continuation string) (float64, error) {
	tokens := promptTokens(h.s, text+continuation)
	first := min(len(promptTokens(h.s, text)), len(tokens)-1)
	if first < 1 {
		return 0, fmt.Errorf("the text before the ending has no tokens")
	}
	if len(tokens) > h.s.NCtx() {
		return 0, fmt.Errorf("%w: %d tokens, context of %d (use a larger --ctx or fewer --shots)", engine.ErrPromptTooLong,
			len(tokens), h.s.NCtx())
	}
	sum, nVocab := 0.0, h.s.NVocab()
	err := h.s.EvaluateCached(ctx, tokens[:len(tokens)-1], first-1, func(pos int, logits []float32) error {
		h.terms = append(h.terms[:0], make([]float64, len(logits)/nVocab)...)
		parallel.Do(len(h.terms), func(i int) {
			h.terms[i] = h.softmax.negLogProb(logits[i*nVocab:][:nVocab], tokens[pos+i+1])
		})
		for i, v := range h.terms {
			if !finite(v) {
				return notFinite(pos + i)
			}
			sum -= v
		}
		return nil
	})
	return sum, err
}
