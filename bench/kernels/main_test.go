package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// On the emulator every case is computed and agrees with the host; no time is reported.
func TestOnTheEmulator(t *testing.T) {
	if _, err := os.Stat(os.Getenv("ELLM_EMU")); err != nil {
		if os.Getenv("ELLM_REQUIRE_EMU") != "" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED: ELLM_EMU names no emulator, which takes a C++ compiler to build; make test builds it and runs this, " +
			"also in CI")
	}
	dir := t.TempDir()
	o := &options{device: "emu", json: filepath.Join(dir, "kernels.json"), markdown: filepath.Join(dir, "kernels.md")}
	require.NoError(t, o.run())
	js, err := os.ReadFile(o.json)
	require.NoError(t, err)
	assert.NotContains(t, string(js), "measured_us")
	assert.NotContains(t, string(js), "gb_s")
	for _, form := range []string{"coded", "gemv_fused", "gemm_"} {
		assert.Contains(t, string(js), form)
	}
	md, err := os.ReadFile(o.markdown)
	require.NoError(t, err)
	assert.Contains(t, string(md), "nothing was timed")
}

// Every rate that descriptions assume is measured; on the emulator the numbers mean nothing, but every kernel runs.
func TestAllRatesAreMeasured(t *testing.T) {
	if _, err := os.Stat(os.Getenv("ELLM_EMU")); err != nil {
		t.Skip("SKIPPED: ELLM_EMU names no emulator; make test builds it and runs this")
	}
	path := filepath.Join(t.TempDir(), "rates.json")
	require.NoError(t, (&options{device: "emu", rates: path}).run())
	js, err := os.ReadFile(path)
	require.NoError(t, err)
	var rep ratesReport
	require.NoError(t, json.Unmarshal(js, &rep))
	assert.Empty(t, rep.Missing)
	got := map[string]float64{}
	for _, r := range rep.Rates {
		got[r.Name] = r.Value
	}
	for _, name := range []string{"launch_us", "kernel_us", "read_gbps", "latency_ns", "table_conflict", "issue_g", "copy_us"} {
		assert.Positive(t, got[name], name)
	}
}

// Where memory is short, matrices are measured one by one.
func TestGroupsFitTheMemory(t *testing.T) {
	settings := (&options{}).settings()
	large := &bench{}
	large.info.MemFree = 80 << 30
	assert.Len(t, large.groups(shape{"", 14336, 4096}, settings), len(codings))
	small := &bench{}
	small.info.MemFree = 3 << 30
	groups := small.groups(shape{"", 14336, 4096}, settings)
	n := 0
	for _, g := range groups {
		n += len(g)
		assert.LessOrEqual(t, len(g)*14336*4096*2, max(3<<29, 14336*4096*2))
	}
	assert.Equal(t, len(settings), n)
}

func TestRates(t *testing.T) {
	r := &result{Rows: 1000, Cols: 1000, Tokens: 1, Bits: 4, MeasuredUS: 10, issueUS: 5}
	r.rate(&report{CopyGBps: 100, CuBLAS: []cublasTime{{1000, 1000, 20}}})
	assert.InDelta(t, 50, r.GBps, 1e-9)
	assert.InDelta(t, 100, r.GWeights, 1e-9)
	assert.InDelta(t, 0.5, r.OfCopy, 1e-9)
	assert.InDelta(t, 0.5, r.OfIssue, 1e-9)
	assert.InDelta(t, 2, r.OfCuBLAS, 1e-9)
}
