package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	sampling "github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// profileModel runs a model in this process and writes a profile of each of the hot loops to a directory, for "go tool pprof
// -top".
func profileModel(path, dir string) error {
	for _, l := range []struct {
		name string
		test
	}{{"prefill", test{"resident", 512, 0}}, {"decode", test{"resident", 0, 64}}, {"fused", test{"fused", 0, 16}}} {
		f, err := format.Open(path)
		if err != nil {
			return err
		}
		rate, err := profileLoop(f, filepath.Join(dir, l.name+".pprof"), l.test)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		fmt.Printf("%s: %.1f tokens/s\n", l.test.name(), rate)
	}
	return nil
}

// profileLoop repeats a test for some seconds, the first time without the profiler.
func profileLoop(f *format.Reader, path string, t test) (float64, error) {
	ctx := context.Background()
	b := cpu.New()
	defer b.Close()
	s, err := engine.New(ctx, f, b, engine.LoadOptions{Plan: engine.Plan(t.plan), NCtx: t.nPrompt + t.nGen + 2})
	if err != nil {
		return 0, err
	}
	if _, err := once(ctx, s, t); err != nil {
		return 0, err
	}
	out, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return 0, err
	}
	defer pprof.StopCPUProfile()
	n, took := 0, time.Duration(0)
	for start := time.Now(); time.Since(start) < 4*time.Second; n += t.nPrompt + t.nGen {
		d, err := once(ctx, s, t)
		if err != nil {
			return 0, err
		}
		took += d
	}
	return float64(n) / took.Seconds(), nil
}

func once(ctx context.Context, s *engine.Engine, t test) (time.Duration, error) {
	s.Reset()
	tokens := make([]int32, max(t.nPrompt, 1))
	for i := range tokens {
		tokens[i] = int32((i*7919 + 13) % s.NVocab())
	}
	start := time.Now()
	if t.nGen == 0 {
		err := s.Evaluate(ctx, tokens, t.nPrompt-1, func(int, []float32) error { return nil })
		return time.Since(start), err
	}
	r, err := s.Generate(ctx, engine.Request{Prompt: tokens, MaxTokens: t.nGen + 1, IgnoreEnd: true,
		Sampler: sampling.New(sampling.Options{})})
	if err != nil {
		return 0, err
	}
	return r.DecodeTime, nil
}
