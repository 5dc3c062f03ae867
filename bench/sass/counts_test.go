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

// compiledKernels returns the folder ELLM_KERNELS with the compiled kernels. Compiling takes NVIDIA's compiler, which `make test-go` does without;
// `make test-kernels` (part of `make test` where there is nvcc, as in CI) sets the variable.
func compiledKernels(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("ELLM_KERNELS")
	if dir == "" {
		t.Skip("SKIPPED: ELLM_KERNELS names no compiled kernels; make test-kernels compiles them with nvcc and runs this, also in CI")
	}
	if _, err := exec.LookPath("cuobjdump"); err != nil {
		t.Skip("SKIPPED: cuobjdump, which reads compiled kernels, is not installed; CI has it from make nvcc")
	}
	return dir
}

// The committed counts are those of the kernels.
func TestCountsAreUpToDate(t *testing.T) {
	dir := compiledKernels(t)
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
