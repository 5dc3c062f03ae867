package eval

import (
	"context"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// GSM8KTask is a grade-school word problem with a worked solution (Cobbe et al., 2021, arXiv 2110.14168).
type GSM8KTask struct {
	Question string
	Solution string // without the last line and the calculator annotations
	Answer   string // the number, as it is written
}

var (
	annotations = regexp.MustCompile(`<<[^<>]*>>`)
	numbers     = regexp.MustCompile(`-?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)`)
)

// ReadGSM8K reads tasks in the published JSONL form: question, and answer with a last line "#### NUMBER"; name is for messages.
func ReadGSM8K(r io.Reader, name string) ([]GSM8KTask, error) {
	type line struct {
		Question string `json:"question"`
		Answer   string `json:"answer"`
	}
	var tasks []GSM8KTask
	err := readLines(r, name, func(l *line) error {
		solution, answer, ok := strings.Cut(l.Answer, "####")
		if l.Question == "" || !ok {
			return fmt.Errorf("expected \"question\", and \"answer\" that ends in \"#### NUMBER\"")
		}
		t := GSM8KTask{Question: strings.TrimSpace(l.Question),
			Solution: strings.TrimSpace(annotations.ReplaceAllString(solution, "")), Answer: strings.TrimSpace(answer)}
		if lastNumber(t.Answer) == "" {
			return fmt.Errorf("answer %q: expected a number after ####", t.Answer)
		}
		tasks = append(tasks, t)
		return nil
	})
	return tasks, err
}

// lastNumber returns the last number in s in lowest terms, "" if there is none.
func lastNumber(s string) string {
	found := numbers.FindAllString(s, -1)
	if len(found) == 0 {
		return ""
	}
	v, ok := new(big.Rat).SetString(strings.NewReplacer("$", "", ",", "").Replace(found[len(found)-1]))
	if !ok {
		return ""
	}
	return v.RatString()
}

// GSM8KResult is the share of tasks that were answered with the right number.
type GSM8KResult struct {
	Tasks    int      `json:"tasks"`
	Shots    int      `json:"shots"`
	Accuracy Estimate `json:"accuracy"`
	NoNumber int      `json:"no_number"` // answers without any number
}

// gsm8kOutcome is what State keeps of a task.
type gsm8kOutcome struct {
	Text   string `json:"text"`
	Answer string `json:"answer"`
	Right  bool   `json:"right"`
}

// DefaultAnswerTokens is how many tokens an answer to a GSM8K task usually may have.
const DefaultAnswerTokens = 256

// GSM8K has the model answer tasks greedily, each after the same worked examples (chain of thought, Wei et al., 2022), and
// takes the last number of its text as the answer.
func GSM8K(ctx context.Context, s *engine.Engine, shots, tasks []GSM8KTask, opt TaskOptions) (GSM8KResult, error) {
	var prefix strings.Builder
	for _, t := range shots {
		fmt.Fprintf(&prefix, "Q: %s\nA: %s The answer is %s.\n\n", t.Question, t.Solution, t.Answer)
	}
	r := GSM8KResult{Shots: len(shots)}
	right := 0
	err := runTasks(len(tasks), opt, func(i int) (gsm8kOutcome, error) {
		return answer(ctx, s, prefix.String()+"Q: "+tasks[i].Question+"\nA:", tasks[i].Answer, opt.MaxTokens)
	}, func(o gsm8kOutcome) float64 {
		r.Tasks++
		right += count(o.Right)
		r.NoNumber += count(o.Answer == "")
		return float64(right) / float64(r.Tasks)
	})
	r.Accuracy = share(right, r.Tasks)
	return r, err
}

func answer(ctx context.Context, s *engine.Engine, prompt, want string, maxTokens int) (gsm8kOutcome, error) {
	r, err := s.Generate(ctx, engine.Request{
		Prompt: promptTokens(s, prompt), MaxTokens: maxTokens,
		Sampler: sample.New(sample.Options{}), Stop: []string{"Q:", "\n\n\n"},
	})
	if err != nil {
		return gsm8kOutcome{}, err
	}
	if r.StopReason == engine.StopCancelled {
		return gsm8kOutcome{}, context.Cause(ctx)
	}
	o := gsm8kOutcome{Text: r.Text, Answer: lastNumber(r.Text)}
	o.Right = o.Answer == lastNumber(want)
	return o, nil
}
