package main

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
)

func TestMedian(t *testing.T) {
	require.Equal(t, 2.0, median([]float64{9, 1, 2}))
	require.Equal(t, 1.5, median([]float64{1, 2}))
	require.True(t, math.IsNaN(median(nil)))
	require.Equal(t, 3.0, medianRatio([]float64{2, 30, 9}, []float64{1, 10, 3}))
}

func TestRatesTakesTurns(t *testing.T) {
	var order []int
	var works []work
	for i := range 2 {
		works = append(works, work{1000, func() error {
			order = append(order, i)
			time.Sleep(time.Millisecond)
			return nil
		}})
	}
	got, err := rates(works, 3, time.Microsecond)
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 0, 1, 0, 1, 0, 1}, order, "a round to warm up and three more")
	for _, r := range got {
		require.Len(t, r, 3)
		require.Less(t, r[0], 1e6, "1000 in at least a millisecond")
	}
	_, err = rates([]work{{1, func() error { return os.ErrInvalid }}}, 1, time.Microsecond)
	require.ErrorIs(t, err, os.ErrInvalid)
}

func TestPrint(t *testing.T) {
	r := report{Machine: machine{Processor: "abacus", Cores: 2}, Date: "today"}
	r.add(row{What: "a", Unit: "G/s", Ours: []float64{8, 6}, Peer: []float64{2, 2}, PeerName: "b", Limit: 14, LimitName: "c"})
	r.add(row{What: "d", Unit: "MB", Ours: []float64{1234.5}, Lower: true})
	var out bytes.Buffer
	r.print(&out)
	require.Contains(t, out.String(), "| a | G/s | 7 | 2 (b) | 3.50 | 14 (c) | 50 % |\n")
	require.Contains(t, out.String(), "| d | MB (less is better) | 1234 |  |  |  |  |\n")
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-model", "a,b", "-peer", "dir", "-peer-model", "c,d"})
	require.NoError(t, err)
	require.Equal(t, []model{{"a", "c"}, {"b", "d"}}, o.models)
	o, err = parse([]string{"-model", "a", "-peer-model", "c"})
	require.NoError(t, err)
	require.Equal(t, []model{{ours: "a"}}, o.models, "without a peer its files are not used")
	_, err = parse([]string{"-model", "a,b", "-peer", "dir", "-peer-model", "c"})
	require.ErrorContains(t, err, "-peer-model")
	_, err = parse([]string{"-rounds", "0"})
	require.ErrorContains(t, err, "positive")
}

// TestModels runs scripts in place of the programs.
func TestModels(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell")
	}
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return path
	}
	script("llama-bench", `echo '[{"avg_ts": 20}]'`)
	program := script("ellm", `case $1 in
bench) sleep 0.1; echo '[{"avg_ts": 30}]';;
plan) echo '[{"plan": "resident", "weights": 1000100000}, {"plan": "fused", "weights": 500100000}]';;
run) echo Hi;;
esac`)
	ours := writeModel(t, dir, "m.ellm", "token_embd.weight", "output.weight")
	o := &options{program: program, peer: dir, rounds: 2, nPrompt: 512, nGen: 128, models: []model{{ours: ours, peer: "m.gguf"}}}
	mem := newBandwidth(1 << 16)
	var r report
	o.each = time.Microsecond
	require.NoError(t, benchModels(o, &r, mem))
	require.Len(t, mem.samples[1], 4, "two rounds of two measurements")
	for i := range mem.samples {
		mem.samples[i] = []float64{2e10, 4e10, 3e10}
	}
	r.finish(mem)
	require.Equal(t, "memory: read, one core", r.Rows[0].What)
	r.Rows = r.Rows[4:]
	if runtime.GOOS != "linux" {
		return
	}
	require.Len(t, r.Rows, 7)
	require.InDelta(t, 2, r.Rows[1].Ours[0], 1.99, "MB of a shell")
	first := r.Rows[0]
	require.Equal(t, "m.ellm: tg128, resident", first.What)
	require.Equal(t, 1.5, medianRatio(first.Ours, first.Peer))
	require.Equal(t, 40.0, first.Limit)
	fused := r.Rows[2]
	require.Equal(t, "m.ellm: tg32, fused", fused.What)
	require.Equal(t, first.Peer, fused.Peer)
	require.Equal(t, 80.0, fused.Limit)
	require.Equal(t, "m.ellm: pp512, resident", r.Rows[4].What)
	o.program = script("broken", "echo nonsense")
	require.Error(t, benchModels(o, &r, mem))
	o.program = script("failing", "echo why >&2; exit 3")
	require.ErrorContains(t, benchModels(o, &r, mem), "why")
}

// writeModel writes a file with matrices of 100,000 bytes.
func writeModel(t *testing.T, dir, name string, tensors ...string) string {
	path := filepath.Join(dir, name)
	w, err := format.Create(path)
	require.NoError(t, err)
	defer w.Abort()
	for _, n := range tensors {
		require.NoError(t, w.Raw(n, &format.Raw{Rows: 1000, Cols: 25, DType: format.F32, Data: make([]byte, 100_000)}))
	}
	_, err = w.Finish(&format.Meta{Config: []byte("{}")}, nil)
	require.NoError(t, err)
	return path
}

func TestEmbeddingBytes(t *testing.T) {
	dir := t.TempDir()
	got, err := embeddingBytes(writeModel(t, dir, "own.ellm", "token_embd.weight", "output.weight"))
	require.NoError(t, err)
	require.Equal(t, 100_000.0, got)
	got, err = embeddingBytes(writeModel(t, dir, "tied.ellm", "token_embd.weight"))
	require.NoError(t, err)
	require.Zero(t, got, "the output matrix is read for every token")
	_, err = embeddingBytes(filepath.Join(dir, "missing.ellm"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
