package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const committed = "../../internal/predict/kernels.json"

func TestClassOf(t *testing.T) {
	for op, class := range map[string]string{
		"HFMA2.MMA": "half", "FFMA": "fp32", "LOP3.LUT": "int", "SHF.R.W": "shift", "IMAD.WIDE.U32": "mul", "F2F.F32.F16": "convert", "MUFU.EX2": "special",
		"LDS": "shared", "LDS.U.128": "shared_wide", "LDG.E.128.CONSTANT": "global", "BRA": "control", "ULDC.64": "control",
	} {
		assert.Equal(t, class, classOf(op), op)
	}
}

// The committed counts are those of the kernels. ELLM_KERNELS is the folder with the compiled ones (make test-kernels).
func TestCountsAreUpToDate(t *testing.T) {
	dir := os.Getenv("ELLM_KERNELS")
	if dir == "" {
		t.Skip("SKIPPED: ELLM_KERNELS is not set; make test-kernels compiles the kernels and runs this")
	}
	if _, err := exec.LookPath("cuobjdump"); err != nil {
		t.Skip("SKIPPED: no cuobjdump")
	}
	want, err := os.ReadFile(committed)
	require.NoError(t, err)
	f, err := count(dir, []string{"sm_53", "sm_86", "sm_90"})
	require.NoError(t, err)
	if !strings.Contains(string(want), `"compiler": "`+f.Compiler+`"`) {
		t.Skipf("SKIPPED: the counts are not from nvcc %s", f.Compiler)
	}
	got, err := f.encode()
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), "run make kernel-counts")
}
