package eval

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

func TestReadHellaSwag(t *testing.T) {
	tasks, err := ReadHellaSwag(strings.NewReader(`
{"activity_label": "Washing", "ctx_a": "A man [header] stands.", "ctx_b": "the Dog", "ctx": "unused", "endings": [" barks. ", "sits [step] down", "x [title] y", "z"], "label": "2"}

{"ctx": "A cat  sleeps", "endings": ["a", "b"], "label": 1}
{"activity_label": "Cooking", "ctx_a": "She stirs.", "ctx_b": "", "endings": ["a", "b"], "label": 0}
`), "x")
	require.NoError(t, err)
	assert.Equal(t, []HellaSwagTask{
		{"Washing: A man stands. The dog", []string{"barks.", "sits down", "x. y", "z"}, 2},
		{"A cat sleeps", []string{"a", "b"}, 1},
		{"Cooking: She stirs.", []string{"a", "b"}, 0},
	}, tasks)

	for line, says := range map[string]string{
		``:                                      "no tasks",
		`{`:                                     "line 1",
		`[]`:                                    "line 1",
		`{"endings":["a","b"],"label":0}`:       `"ctx" is missing`,
		`{"ctx":"c","endings":["a"],"label":0}`: "1 texts",
		`{"ctx":"c","endings":["a","[x]"],"label":0}`:              "ending 1 is empty",
		`{"ctx":"c","endings":["a","b"],"label":""}`:               "test split",
		`{"ctx":"c","endings":["a","b"]}`:                          `"label"`,
		`{"ctx":"c","endings":["a","b"],"label":2}`:                "0 to 1",
		`{"ctx":"c","endings":["a","b"],"label":-1}`:               "0 to 1",
		`{"ctx":"` + strings.Repeat("c", maxTaskLine+1):            "one JSON value per line",
		`{"ctx":7,"endings":["a","b"],"label":0}`:                  "line 1",
		`{"ctx":"c","endings":["a","b"],"label":[0,1]}`:            `"label"`,
		"{\"ctx\":\"c\",\"endings\":[\"a\",\"b\"],\"label\":0}\nx": "line 2",
	} {
		_, err := ReadHellaSwag(strings.NewReader(line), "tasks.jsonl")
		assert.ErrorContains(t, err, says)
		assert.ErrorContains(t, err, "tasks.jsonl")
	}
}

// The endings are passages of the held-out text: the model was trained on such text, so that the true one is likely.
func hellaSwagTasks(n int) (tasks []HellaSwagTask) {
	words := strings.Fields(testmodel.HeldOut())
	at := func(i, n int) string { return strings.Join(words[i:i+n], " ") }
	for i := range n {
		t := HellaSwagTask{Context: at(100*i, 20), Gold: i % 4}
		for e := range 4 {
			t.Endings = append(t.Endings, at(100*i+23+7*e, 4+e))
		}
		t.Endings[t.Gold] = at(100*i+20, 5)
		tasks = append(tasks, t)
	}
	return tasks
}

func TestHellaSwag(t *testing.T) {
	s, b := session(t, "F16", 64)
	tasks := hellaSwagTasks(12)
	path := filepath.Join(t.TempDir(), "state")
	run := func(n int) HellaSwagResult {
		state, err := OpenState(path, 1)
		require.NoError(t, err)
		defer state.Close()
		r, err := HellaSwag(context.Background(), s, tasks[:2], tasks[2:2+n], TaskOptions{State: state})
		require.NoError(t, err)
		return r
	}
	run(7)
	r := run(10)
	assert.Equal(t, 10, r.Tasks)
	assert.Equal(t, 2, r.Shots)
	assert.Greater(t, r.Accuracy.Value+r.AccuracyNorm.Value, 2*0.3, "chance is 0.25")
	b.calls = 0
	assert.Equal(t, r, run(10), "everything is known")
	assert.Zero(t, b.calls)

	// Nothing shared is left from the task before: the same numbers with an empty cache.
	solver := hellaSwagSolver{s: s, prefix: "Some words. ", softmax: newSoftmax()}
	first, err := solver.solve(context.Background(), &tasks[3])
	require.NoError(t, err)
	s.Reset()
	second, err := solver.solve(context.Background(), &tasks[3])
	require.NoError(t, err)
	assert.InDeltaSlice(t, first.LogProbs, second.LogProbs, 1e-3)
}

func TestHellaSwagLogProbIsTheSumOverItsTokens(t *testing.T) {
	s, _ := session(t, "F16", 64)
	solver := hellaSwagSolver{s: s, softmax: newSoftmax()}
	got, err := solver.logProb(context.Background(), "// Reset resets the", " buffer to be empty")
	require.NoError(t, err)
	tokens := promptTokens(s, "// Reset resets the buffer to be empty")
	first := len(promptTokens(s, "// Reset resets the"))
	want := 0.0
	for i := first; i < len(tokens); i++ {
		require.NoError(t, s.Evaluate(context.Background(), tokens[:i], i-1, func(_ int, logits []float32) error {
			want -= newSoftmax().negLogProb(logits, tokens[i])
			return nil
		}))
	}
	assert.Greater(t, len(tokens)-first, 2)
	assert.InEpsilon(t, want, got, 1e-4)

	_, err = solver.logProb(context.Background(), strings.Repeat("word ", 600), "end")
	assert.ErrorIs(t, err, engine.ErrPromptTooLong)
	assert.ErrorContains(t, err, "--shots")
}

func TestLastNumber(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		"no number":                  "",
		"The answer is 18.":          "18",
		"5 apples and $1,234.50":     "2469/2",
		"She earns $1,000, a month":  "1000",
		"18.00":                      "18",
		"1, 2,3":                     "3",
		"-7 degrees":                 "-7",
		"it costs -$3":               "-3",
		".5":                         "1/2",
		"= 072":                      "72",
		"1,234,567 people":           "1234567",
		"$ 20":                       "20",
		"The answer is 4 (2 + 2 = 4": "4",
	} {
		assert.Equal(t, want, lastNumber(text), text)
	}
}

func TestReadGSM8K(t *testing.T) {
	tasks, err := ReadGSM8K(strings.NewReader(`{"question": " How many? ",`+
		` "answer": "48/2 = <<48/2=24>>24 clips.\nThat is 24.\n#### 1,024"}`), "x")
	require.NoError(t, err)
	assert.Equal(t, []GSM8KTask{{"How many?", "48/2 = 24 clips.\nThat is 24.", "1,024"}}, tasks)
	for line, says := range map[string]string{
		``:                                 "no tasks",
		`{"answer": "#### 1"}`:             `expected "question"`,
		`{"question": "q", "answer": "1"}`: "#### NUMBER",
		`{"question": "q", "answer": "#### none"}`: "none",
	} {
		_, err := ReadGSM8K(strings.NewReader(line), "tasks.jsonl")
		assert.ErrorContains(t, err, says)
		assert.ErrorContains(t, err, "tasks.jsonl")
	}
}

func TestGSM8K(t *testing.T) {
	b := &scripted{}
	s, err := engine.New(context.Background(), container(t, "F16"), b, engine.LoadOptions{NCtx: 1024})
	require.NoError(t, err)
	// The answer ends before the next question: what follows must not count.
	b.script = s.Tokenizer().Encode(" 3 + 4 = 7. The answer is $7.00.\n\nQ: Are 9 enough? 9", false, false)
	task := func(answer string) GSM8KTask { return GSM8KTask{"What is 3 + 4?", "3 + 4 = 7.", answer} }
	path := filepath.Join(t.TempDir(), "state")
	run := func(maxTokens int) GSM8KResult {
		state, err := OpenState(path, maxTokens)
		require.NoError(t, err)
		defer state.Close()
		r, err := GSM8K(context.Background(), s, []GSM8KTask{task("7")}, []GSM8KTask{task("7"), task("8"), task("7.0")},
			TaskOptions{MaxTokens: maxTokens, State: state})
		require.NoError(t, err)
		return r
	}
	r := run(len(b.script))
	assert.Equal(t, GSM8KResult{Tasks: 3, Shots: 1, Accuracy: share(2, 3)}, r)
	assert.Equal(t, r, run(len(b.script)))
	assert.Equal(t, 3, run(1).NoNumber, "too few tokens for a number")
}

func TestGSM8KInterrupted(t *testing.T) {
	s, b := session(t, "F16", 64)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.after = cancel, 3
	tasks := []GSM8KTask{{"q", "s", "1"}, {"q", "s", "1"}}
	_, err := GSM8K(ctx, s, nil, tasks, TaskOptions{MaxTokens: 50})
	assert.ErrorIs(t, err, context.Canceled, "an answer that was cut off is no answer")
}
