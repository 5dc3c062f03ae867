// Command cpu measures this project on the processor it runs on and prints one table: ours, another program, the limit that the
// machine sets, and their ratios. What is compared runs alternately, and ratios are formed round by round, so that a machine that
// is busy at times does not favour either.
//
//	go run ./bench/cpu -json bench/results/cpu.json
//	go run ./bench/cpu -program bin/ellm-gpu -model qwen.ellm -peer llama.cpp/build/bin -peer-model Qwen.gguf
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// options are the command line.
type options struct {
	program, peer string
	models        []model
	rounds        int
	each          time.Duration
	out           string
	only          string
	profile       string
	nPrompt, nGen int
}

// model is a file of ours and, for the same model, one of the peer's.
type model struct{ ours, peer string }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench/cpu:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.profile != "" {
		if len(o.models) == 0 {
			return errors.New("-profile needs -model")
		}
		return profileModel(o.models[0].ours, o.profile)
	}
	r := report{Machine: describe(), Date: time.Now().UTC().Format(time.RFC3339), Commit: commit()}
	mem := newBandwidth(memoryBytes)
	steps := []struct {
		name string
		run  func(*options, *report, *bandwidth) error
	}{{"coding", benchCoding}, {"products", benchProducts}, {"shapes", benchShapes}, {"models", benchModels}}
	for _, s := range steps {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+s.name+",") {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", s.name)
		if err := mem.measure(o); err != nil {
			return err
		}
		if err := s.run(o, &r, mem); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := mem.measure(o); err != nil {
		return err
	}
	r.finish(mem)
	r.print(os.Stdout)
	if o.out == "" {
		return nil
	}
	b, err := json.MarshalIndent(&r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out+".part", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(o.out+".part", o.out)
}

func parse(args []string) (*options, error) {
	o := &options{}
	var models, peers string
	f := flag.NewFlagSet("cpu", flag.ContinueOnError)
	f.StringVar(&o.program, "program", "bin/ellm-gpu", "the program that runs the models")
	f.StringVar(&models, "model", "", "models to run, separated by commas")
	f.StringVar(&o.peer, "peer", "", "directory with llama-bench")
	f.StringVar(&peers, "peer-model", "", "the peer's file for each model, separated by commas")
	f.IntVar(&o.rounds, "rounds", 5, "how often everything is measured, alternately")
	f.DurationVar(&o.each, "each", 100*time.Millisecond, "time of one measurement of an inner loop")
	f.StringVar(&o.out, "json", "", "file for the results")
	f.IntVar(&o.nPrompt, "n-prompt", 512, "tokens of the prefill tests")
	f.IntVar(&o.nGen, "n-gen", 128, "tokens of the decoding tests; a quarter of it with plan fused")
	f.StringVar(&o.profile, "profile", "", "instead of measuring, write profiles of the first model's hot loops to this directory")
	f.StringVar(&o.only, "only", "", "some of coding,products,shapes,models")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	ours, theirs := split(models), split(peers)
	if o.peer == "" {
		theirs = nil
	}
	if o.peer != "" && len(theirs) != len(ours) {
		return nil, errors.New("-peer-model must name a file for each of -model")
	}
	for i, m := range ours {
		o.models = append(o.models, model{ours: m})
		if theirs != nil {
			o.models[i].peer = theirs[i]
		}
	}
	if o.rounds < 1 || o.each <= 0 || o.nPrompt < 1 || o.nGen < 4 {
		return nil, errors.New("-rounds, -each and -n-prompt must be positive, -n-gen at least 4")
	}
	return o, nil
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
