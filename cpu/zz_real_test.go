package cpu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func TestZZReal(t *testing.T) {
	path := os.Getenv("REAL")
	if path == "" {
		t.Skip()
	}
	f, err := format.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var cfg model.Config
	json.Unmarshal(f.Meta().Config, &cfg)
	p, err := model.Build(&cfg, func(n string) bool { _, ok := f.Tensor(n); return ok })
	if err != nil {
		t.Fatal(err)
	}
	b := New().(*Backend)
	t0 := time.Now()
	var n, pp int
	fmt.Sscan(os.Getenv("N"), &n)
	fmt.Sscan(os.Getenv("PP"), &pp)
	if err := b.Load(context.Background(), f, p, engine.LoadOptions{Plan: engine.Plan(os.Getenv("PLAN")), NCtx: 1024, Announce: func(p engine.MemoryPlan) { fmt.Printf("%+v link %v\n", p, time.Since(t0)) }}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("load", time.Since(t0), b.Describe())
	tok := prompt(pp, cfg.NVocab)
	t0 = time.Now()
	if pp > 0 {
		b.Forward(context.Background(), tok, 0, 1)
		fmt.Printf("prefill %.1f t/s %v\n", float64(pp)/time.Since(t0).Seconds(), b.Profile())
		b.profile = profile{}
	}
	t0 = time.Now()
	for i := range n {
		b.Forward(context.Background(), tok[:1], pp+i, 1)
	}
	fmt.Printf("decode %.1f t/s %v\n", float64(n)/time.Since(t0).Seconds(), b.Profile())
}
