package main

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
)

// Go's spelling of what stands in loops besides machine words, and the manual's.
var spellings = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`^WORD \S+ // `), ""},
	{regexp.MustCompile(`^(ADD|SUBS) \$(\d+), R(\d+)$`), "$1 x$3, x$3, #$2"},
	{regexp.MustCompile(`^(ADD|SUBS) \$(\d+), R(\d+), R(\d+)$`), "$1 x$4, x$3, #$2"},
	{regexp.MustCompile(`^ADD R(\d+), R(\d+)$`), "add x$2, x$2, x$1"},
	{regexp.MustCompile(`^BNE (\w+)$`), "b.ne $1"},
}

// innerLoop returns the instructions of a function's loop "step", in the manual's spelling.
func innerLoop(f *function) []string {
	_, body, _ := strings.Cut(f.body.String(), "step:\n")
	body, _, _ = strings.Cut(body, "\tBNE step\n")
	var list []string
	for _, line := range strings.Split(body+"\tBNE step", "\n") {
		line = strings.TrimSpace(line)
		for _, s := range spellings {
			line = s.from.ReplaceAllString(line, s.to)
		}
		list = append(list, line)
	}
	return list
}

const mcaRounds = 200

var totalCycles = regexp.MustCompile(`Total Cycles:\s+(\d+)`)

// predict returns the cycles of a loop by LLVM's model of a processor, 0 if llvm-mca is not installed.
func predict(loop []string, processor string) (float64, error) {
	mca, err := exec.LookPath("llvm-mca")
	if err != nil {
		return 0, nil
	}
	cmd := exec.Command(mca, "-mtriple=aarch64", "-mcpu="+processor, fmt.Sprintf("-iterations=%d", mcaRounds))
	cmd.Stdin = strings.NewReader("step:\n" + strings.Join(loop, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("llvm-mca: %w", err)
	}
	cycles := 0
	if m := totalCycles.FindSubmatch(out); m != nil {
		fmt.Sscan(string(m[1]), &cycles)
	}
	return float64(cycles) / mcaRounds, nil
}

// count prints how many instructions each inner loop has, and how many cycles a Cortex-A57 is predicted to take for it.
func count(w io.Writer) error {
	fmt.Fprintln(w, "| kernel | instructions per round | cycles, Cortex-A57 (predicted) |\n|---|---|---|")
	for _, what := range files {
		functions, _, err := generate(what)
		if err != nil {
			return err
		}
		for _, f := range functions {
			loop := innerLoop(f)
			cycles, err := predict(loop, "cortex-a57")
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			text := "llvm-mca was not found"
			if cycles > 0 {
				text = fmt.Sprintf("%.1f", cycles)
			}
			fmt.Fprintf(w, "| %s | %d | %s |\n", f.name, len(loop), text)
		}
	}
	return nil
}
