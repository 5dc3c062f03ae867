package main

import (
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
		t.Skip("SKIPPED: ELLM_EMU names no emulator, which takes a C++ compiler to build; make test builds it and runs this, also in CI")
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

func TestRates(t *testing.T) {
	r := &result{Rows: 1000, Cols: 1000, Tokens: 1, Bits: 4, MeasuredUS: 10, issueUS: 5}
	r.rate(&report{CopyGBps: 100, CuBLAS: []cublasTime{{1000, 1000, 20}}})
	assert.InDelta(t, 50, r.GBps, 1e-9)
	assert.InDelta(t, 100, r.GWeights, 1e-9)
	assert.InDelta(t, 0.5, r.OfCopy, 1e-9)
	assert.InDelta(t, 0.5, r.OfIssue, 1e-9)
	assert.InDelta(t, 2, r.OfCuBLAS, 1e-9)
}
