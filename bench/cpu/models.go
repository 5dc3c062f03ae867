package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// test is one measurement of both programs: of prefill (nPrompt tokens) or of decoding (nGen tokens).
type test struct {
	plan          string
	nPrompt, nGen int
}

func (t test) name() string {
	if t.nGen > 0 {
		return fmt.Sprintf("tg%d, %s", t.nGen, t.plan)
	}
	return fmt.Sprintf("pp%d, %s", t.nPrompt, t.plan)
}

func (t test) args() []string {
	return []string{"-p", strconv.Itoa(t.nPrompt), "-n", strconv.Itoa(t.nGen), "-r", "1"}
}

// measured is one run of a program: tokens per second and the most memory it had.
type measured struct {
	rate  float64
	bytes float64
}

// firstPrompt has about 20 tokens.
const firstPrompt = "Explain in two sentences why bell-shaped numbers can be stored in fewer bits than uniform ones."

// benchModels measures whole models against the peer.
func benchModels(o *options, r *report, mem *bandwidth) error {
	for _, m := range o.models {
		for _, tests := range [][]test{{{"resident", 0, o.nGen}, {"fused", 0, o.nGen / 4}},
			{{"resident", o.nPrompt, 0}, {"fused", o.nPrompt, 0}}} {
			if err := benchTests(o, r, m, tests); err != nil {
				return err
			}
			if err := mem.measure(o); err != nil {
				return err
			}
		}
		if err := benchFirstToken(o, r, m); err != nil {
			return err
		}
	}
	return nil
}

// benchTests measures our plans in turn with the peer, which runs the first test.
func benchTests(o *options, r *report, m model, tests []test) error {
	ours, peer := make([]samples, len(tests)), samples{}
	for range o.rounds {
		for i, t := range tests {
			if err := ours[i].add(runOurs(o, m, t)); err != nil {
				return err
			}
			if i > 0 || m.peer == "" {
				continue
			}
			if err := peer.add(runPeer(o, m, t)); err != nil {
				return err
			}
		}
	}
	name := filepath.Base(m.ours)
	for i, t := range tests {
		x := row{What: name + ": " + t.name(), Unit: "tokens/s", Ours: ours[i].rates, Peer: peer.rates, PeerName: filepath.Base(m.peer)}
		if t.nGen > 0 {
			weights, err := weightBytes(o, m, t.plan)
			if err != nil {
				return err
			}
			x.Bytes, x.AllCores, x.LimitName = weights, true, fmt.Sprintf("reading %.0f MB", weights/1e6)
		}
		r.add(x)
		if t.nGen > 0 && slices.Max(ours[i].memory) > 0 {
			r.add(row{What: name + ": memory, " + t.plan, Unit: "MB resident", Ours: ours[i].memory, Peer: peer.memory,
				PeerName: filepath.Base(m.peer), Lower: true})
		}
	}
	return nil
}

// samples are measurements in the order of the rounds.
type samples struct {
	rates  []float64 // tokens per second
	memory []float64 // MB
}

func (s *samples) add(m measured, err error) error {
	s.rates, s.memory = append(s.rates, m.rate), append(s.memory, m.bytes/1e6)
	return err
}

// runOurs runs the program's own benchmark.
func runOurs(o *options, m model, t test) (measured, error) {
	return runBench(exec.Command(o.program, append([]string{"bench", m.ours, "--device", "cpu", "--plan", t.plan, "--json"},
		t.args()...)...))
}

// runPeer runs llama-bench, which knows one plan.
func runPeer(o *options, m model, t test) (measured, error) {
	args := append([]string{"-m", m.peer, "-t", strconv.Itoa(runtime.GOMAXPROCS(0)), "-o", "json"}, t.args()...)
	return runBench(exec.Command(filepath.Join(o.peer, "llama-bench"), args...))
}

// runBench runs a program that prints llama-bench's JSON.
func runBench(c *exec.Cmd) (measured, error) {
	var out, log bytes.Buffer
	c.Stdout, c.Stderr = &out, &log
	memory, err := runWatched(c)
	if err != nil {
		return measured{}, fmt.Errorf("%s: %w\n%s", c, err, tail(log.Bytes()))
	}
	var results []struct {
		AvgTS float64 `json:"avg_ts"`
	}
	if err := json.Unmarshal(out.Bytes(), &results); err != nil {
		return measured{}, fmt.Errorf("%s: %w", c, err)
	}
	if len(results) != 1 || results[0].AvgTS <= 0 {
		return measured{}, fmt.Errorf("%s: printed %q, expected one result with a rate", c, tail(out.Bytes()))
	}
	return measured{results[0].AvgTS, memory}, nil
}

// runWatched runs a program and returns the most memory it had, mapped files included as far as they were read; 0 where the
// system does not tell. (What wait4 reports counts this process's memory, too: that of the child before it became the program.)
func runWatched(c *exec.Cmd) (bytes float64, err error) {
	if err := c.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	path := fmt.Sprintf("/proc/%d/status", c.Process.Pid)
	for {
		select {
		case err := <-ended:
			return bytes, err
		case <-time.After(20 * time.Millisecond):
			if b, err := os.ReadFile(path); err == nil {
				bytes = max(bytes, highWater(string(b)))
			}
		}
	}
}

// highWater finds VmHWM in Linux's description of a process.
func highWater(status string) float64 {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 64)
			if err == nil {
				return 1024 * kb
			}
		}
	}
	return 0
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// weightBytes returns what a token reads: all weights as the plan keeps them, but for an embedding table of its own, which stays
// coded.
func weightBytes(o *options, m model, plan string) (float64, error) {
	c := exec.Command(o.program, "plan", m.ours, "--device", "cpu", "--plan", plan, "--json")
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}
	var plans []struct {
		Plan    string  `json:"plan"`
		Weights float64 `json:"weights"`
	}
	if err := json.Unmarshal(out, &plans); err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}
	for _, p := range plans {
		if p.Plan != plan || p.Weights <= 0 {
			continue
		}
		embedding, err := embeddingBytes(m.ours)
		return p.Weights - embedding, err
	}
	return 0, fmt.Errorf("%s: no plan %q in %s", c, plan, out)
}

// embeddingBytes returns the size of a model's embedding table, if that is not the output matrix as well.
func embeddingBytes(path string) (float64, error) {
	f, err := format.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	t, ok := f.Tensor("token_embd.weight")
	if _, own := f.Tensor("output.weight"); !own || !ok {
		return 0, nil
	}
	return float64(t.Bytes), nil
}

// benchFirstToken measures the time from the start of the process to the first token of an answer.
func benchFirstToken(o *options, r *report, m model) error {
	var times []float64
	for range o.rounds {
		c := exec.Command(o.program, "run", m.ours, "--device", "cpu", "--temp", "0", "-n", "1", "-p", firstPrompt)
		var log bytes.Buffer
		c.Stderr = &log
		start := time.Now()
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", c, err, tail(log.Bytes()))
		}
		if len(bytes.TrimSpace(out)) == 0 {
			return fmt.Errorf("%s: printed nothing, expected a token", c)
		}
		times = append(times, time.Since(start).Seconds())
	}
	r.add(row{What: filepath.Base(m.ours) + ": first token, from process start, 20-token prompt", Unit: "s", Ours: times,
		Lower: true})
	return nil
}
