package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

func (p *program) hellaSwagCommand() *cli.Command {
	return &cli.Command{
		Name:      "hellaswag",
		Usage:     "accuracy in choosing the right one of four endings (HellaSwag)",
		ArgsUsage: "MODEL.ellm -f TASKS.jsonl",
		Flags:     taskFlags(5),
		Action: func(c *cli.Context) error {
			return runTaskEval(p, c, taskEval[eval.HellaSwagTask, eval.HellaSwagResult]{read: eval.ReadHellaSwag, run: eval.HellaSwag,
				print: printHellaSwag})
		},
	}
}

func (p *program) gsm8kCommand() *cli.Command {
	return &cli.Command{
		Name:      "gsm8k",
		Usage:     "accuracy in solving word problems by reasoning (GSM8K)",
		ArgsUsage: "MODEL.ellm -f TASKS.jsonl",
		Flags: append(taskFlags(8),
			&cli.IntFlag{Name: "max-tokens", Aliases: []string{"n"}, Value: eval.DefaultAnswerTokens,
				Usage: "most `TOKENS` of one answer"}),
		Action: func(c *cli.Context) error {
			return runTaskEval(p, c, taskEval[eval.GSM8KTask, eval.GSM8KResult]{read: eval.ReadGSM8K, run: eval.GSM8K, print: printGSM8K})
		},
	}
}

func taskFlags(shots int) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the tasks, one JSON value per line"},
		&cli.StringFlag{Name: "train", Usage: "take the solved examples from the first lines of this `FILE`; default: of the tasks, " +
			"which then are not scored"},
		&cli.IntFlag{Name: "shots", Value: shots, Usage: "solved examples before each task"},
		&cli.IntFlag{Name: "tasks", Usage: "score this many tasks only; 0 = all"},
		stateFlag(), ctxFlag(), jsonFlag(),
	}, deviceFlags()...)
}

// taskEval is an evaluation of tasks T with result R.
type taskEval[T, R any] struct {
	read  func(r io.Reader, name string) ([]T, error)
	run   func(ctx context.Context, s *engine.Engine, shots, tasks []T, opt eval.TaskOptions) (R, error)
	print func(w io.Writer, r R)
}

// taskJSON is what eval hellaswag and eval gsm8k print with --json.
type taskJSON[R any] struct {
	Result  R           `json:"result"`
	Device  string      `json:"device"`
	Plan    engine.Plan `json:"plan"`
	Seconds float64     `json:"seconds"`
}

// taskState is on what the result of a task depends.
type taskState struct {
	evalState
	Tasks     string `json:"tasks"` // digests of the files
	Train     string `json:"train"`
	Shots     int    `json:"shots"`
	MaxTokens int    `json:"max_tokens,omitempty"`
}

func runTaskEval[T, R any](p *program, c *cli.Context, e taskEval[T, R]) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	if err := checkTaskFlags(c); err != nil {
		return err
	}
	opt, err := loadOptions(c)
	if err != nil {
		return err
	}
	settings := taskState{Shots: c.Int("shots"), MaxTokens: c.Int("max-tokens")}
	shots, tasks, err := readTasks(c, e.read, &settings)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := p.load(ctx, path, c.String("device"), opt)
	if err != nil {
		return err
	}
	defer m.close()
	settings.evalState = stateOf(c.Command.Name, m)
	o := eval.TaskOptions{MaxTokens: settings.MaxTokens}
	if o.State, err = p.openState(c, settings); err != nil {
		return err
	}
	defer o.State.Close()
	start := time.Now()
	bar := p.newProgress(c.Command.Name)
	o.Progress = func(done, total int, accuracy float64) {
		bar.updateNote(int64(done), int64(total), fmt.Sprintf("%.2f %%", 100*accuracy))
	}
	r, err := e.run(ctx, m.Engine, shots, tasks, o)
	bar.finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(taskJSON[R]{r, m.Device(), m.Memory().Plan, time.Since(start).Seconds()})
	}
	e.print(p.Out, r)
	return nil
}

func checkTaskFlags(c *cli.Context) error {
	if c.String("file") == "" {
		return usagef("eval %s: the tasks are missing (-f TASKS.jsonl)", c.Command.Name)
	}
	return nil
}

// readTasks reads the solved examples and the tasks to score.
func readTasks[T any](c *cli.Context, read func(io.Reader, string) ([]T, error), settings *taskState) (shots, tasks []T,
	err error) {
	tasks, settings.Tasks, err = readTaskFile(c.String("file"), read)
	if err != nil {
		return nil, nil, err
	}
	n, source := c.Int("shots"), tasks
	if train := c.String("train"); train != "" {
		if source, settings.Train, err = readTaskFile(train, read); err != nil {
			return nil, nil, err
		}
		if len(source) < n {
			return nil, nil, fmt.Errorf("%s: %d tasks, but --shots is %d", train, len(source), n)
		}
	} else {
		if len(tasks) <= n {
			return nil, nil, fmt.Errorf("%s: %d tasks, of which --shots takes %d: none is left (use --train FILE or fewer --shots)",
				c.String("file"), len(tasks), n)
		}
		tasks = tasks[n:]
	}
	if limit := c.Int("tasks"); limit > 0 {
		tasks = tasks[:min(limit, len(tasks))]
	}
	return source[:n], tasks, nil
}

func readTaskFile[T any](path string, read func(io.Reader, string) ([]T, error)) (tasks []T, digest string, err error) {
	if err := checkInput(path); err != nil {
		return nil, "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	if len(b) > maxText {
		return nil, "", fmt.Errorf("%s: more than %s of tasks", path, bytesText(maxText))
	}
	sum := sha256.Sum256(b)
	tasks, err = read(bytes.NewReader(b), path)
	return tasks, hex.EncodeToString(sum[:16]), err
}

func printHellaSwag(w io.Writer, r eval.HellaSwagResult) {
	fmt.Fprintf(w, "accuracy %.2f ± %.2f %%, with length normalization %.2f ± %.2f %% (%d tasks, %d shots)\n",
		100*r.Accuracy.Value, 100*r.Accuracy.StdErr, 100*r.AccuracyNorm.Value, 100*r.AccuracyNorm.StdErr, r.Tasks, r.Shots)
}

func printGSM8K(w io.Writer, r eval.GSM8KResult) {
	fmt.Fprintf(w, "accuracy %.2f ± %.2f %% (%d tasks, %d shots; %d answers without a number)\n",
		100*r.Accuracy.Value, 100*r.Accuracy.StdErr, r.Tasks, r.Shots, r.NoNumber)
}
