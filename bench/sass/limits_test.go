package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limits.json: architecture → kernel → instructions per weight (and token) of its main loop, at most.
func readLimits(t *testing.T) map[string]map[string]float64 {
	t.Helper()
	b, err := os.ReadFile("limits.json")
	require.NoError(t, err)
	var limits map[string]map[string]float64
	require.NoError(t, json.Unmarshal(b, &limits))
	return limits
}

var launchBounds = regexp.MustCompile(`__launch_bounds__\((\d+)(?:, *\d+)?\) (\w+)\(`)

// Lines that stand for kernels of one vector and, if there is a number, of up to that many (cuda/gemv_task.cuh).
var gemvKernels = regexp.MustCompile(`(?m)^GEMV_KERNEL(?:S_([248]))?\(\d, (\w+),`)

const gemvThreads = 256

// blockSizes returns the threads of every kernel's block, from the sources.
func blockSizes(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob("../../cuda/*.cu")
	require.NoError(t, err)
	sizes := map[string]int{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range launchBounds.FindAllStringSubmatch(string(b), -1) {
			sizes[m[2]], err = strconv.Atoi(m[1])
			require.NoError(t, err)
		}
	}
	require.NotEmpty(t, sizes)
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range gemvKernels.FindAllStringSubmatch(string(b), -1) {
			sizes[m[2]] = gemvThreads
			for _, n := range []string{"2", "4", "8"} {
				if n <= m[1] {
					sizes[m[2]+"_x"+n] = gemvThreads
				}
			}
		}
	}
	return sizes
}

// Disassembling takes so long that the tests of compiled kernels share it.
func TestCompiledKernels(t *testing.T) {
	dir, limits := compiledKernels(t), readLimits(t)
	var archs []string
	for arch := range limits {
		if _, err := os.Stat(filepath.Join(dir, arch+".cubin")); err != nil {
			t.Logf("SKIPPED: %v", err)
			continue
		}
		archs = append(archs, arch)
	}
	slices.Sort(archs)
	require.NotEmpty(t, archs, "no compiled kernels of an architecture in limits.json in %s", dir)
	modules, err := readModules(dir, archs)
	require.NoError(t, err)
	sizes := blockSizes(t)
	for i := range modules {
		m := &modules[i]
		t.Run(m.arch+" stays within its limits", func(t *testing.T) { checkLimits(t, m, sizes, limits[m.arch]) })
		if m.arch == "sm_53" {
			t.Run("several vectors are cheap", func(t *testing.T) { checkVectors(t, m) })
		}
	}
	t.Run("committed counts are up to date", func(t *testing.T) { checkCounts(t, modules) })
}

// compiledKernels returns the folder ELLM_KERNELS with the compiled kernels. Compiling takes NVIDIA's compiler, which `make
// test-go` does without; `make test-kernels` (part of `make test` where there is nvcc, as in CI) sets the variable.
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

// Compiled kernels stay within what a Jetson Nano can launch, keep everything in registers, and get no slower than the limits.
func checkLimits(t *testing.T, m *module, sizes map[string]int, limits map[string]float64) {
	found := map[string]bool{}
	for _, k := range m.kernels {
		checkKernel(t, m.arch, k, m.resources[k.name], sizes[k.name], limits)
		found[k.name] = true
	}
	for name := range limits {
		assert.True(t, found[name], "%s: limits.json names %s, which does not exist", m.arch, name)
	}
}

func checkKernel(t *testing.T, arch string, k kernel, r usage, threads int, limits map[string]float64) {
	const registersPerBlock, sharedPerBlock = 32768, 48 << 10
	assert.Zero(t, r.local, "%s %s: bytes in local memory (spilled registers, or an array)", arch, k.name)
	assert.NotZero(t, threads, "%s: no __launch_bounds__", k.name)
	assert.LessOrEqual(t, (r.registers+7)/8*8*threads, registersPerBlock, "%s %s: registers of a block", arch, k.name)
	assert.LessOrEqual(t, r.shared, sharedPerBlock, "%s %s: bytes of shared memory", arch, k.name)
	asynchronous := strings.HasPrefix(k.name, "gemm_wide_") || strings.HasPrefix(k.name, "attention_tiles_")
	if !multiplies(k.name) || asynchronous && arch < "sm_80" { // where they trap
		return
	}
	body, weights := mainLoop(k)
	if !assert.Positive(t, weights, "%s %s: no main loop found", arch, k.name) {
		return
	}
	limit, ok := limits[k.name]
	if assert.True(t, ok, "%s %s: no limit in limits.json", arch, k.name) {
		assert.LessOrEqual(t, float64(len(body))/float64(weights), limit, "%s %s: instructions per weight: %d / %d", arch, k.name,
			len(body), weights)
	}
}

// A fused product decodes its weights once for all its vectors: four cost at most 1.7 times as many instructions for a weight as
// one, eight 2.6 times.
func checkVectors(t *testing.T, m *module) {
	limits := map[string]float64{"_x2": 1.25, "_x4": 1.7, "_x8": 2.6}
	cost := map[string]float64{}
	for _, k := range m.kernels {
		if body, weights := mainLoop(k); weights > 0 {
			cost[k.name] = float64(len(body)) / float64(weights)
		}
	}
	checked := 0
	for name, c := range cost {
		for suffix, most := range limits {
			one, ok := strings.CutSuffix(name, suffix)
			if !ok || !strings.HasPrefix(name, "gemv_fused_") {
				continue
			}
			require.Positive(t, cost[one], one)
			assert.LessOrEqual(t, c/cost[one], most, "%s: %.2f instructions per weight, %s %.2f", name, c, one, cost[one])
			checked++
		}
	}
	assert.GreaterOrEqual(t, checked, 30)
}

// The committed counts are those of the kernels. Where the compiler cannot run at fixed addresses (cuda/kernels.cmake), its
// choice of registers moves by a few, and some instructions with it; sameCounts has how much is allowed.
func checkCounts(t *testing.T, modules []module) {
	text, err := os.ReadFile("../../internal/predict/kernels.json")
	require.NoError(t, err)
	var want countFile
	require.NoError(t, json.Unmarshal(text, &want))
	var kept []module
	for _, arch := range []string{"sm_53", "sm_86", "sm_90"} {
		i := slices.IndexFunc(modules, func(m module) bool { return m.arch == arch })
		require.NotEqual(t, -1, i, "%s is not compiled", arch)
		kept = append(kept, modules[i])
	}
	got, err := countAll(kept)
	require.NoError(t, err)
	if want.Compiler != got.Compiler {
		t.Skipf("SKIPPED: the counts are not from nvcc %s; CI has the version that they are from", got.Compiler)
	}
	require.Len(t, got.Kernels, len(want.Kernels), "run make kernel-counts")
	for i, w := range want.Kernels {
		assert.True(t, sameCounts(w, got.Kernels[i]), "run make kernel-counts: committed\n%+v\nfound\n%+v", w, got.Kernels[i])
	}
}

// sameCounts says whether two counts are of the same code: registers within one step of their allocation (8), and of each class
// of instructions at most 5 % or 3 more or fewer. Any change of a kernel's work is larger, or is none that a prediction notices.
func sameCounts(a, b kernelCount) bool {
	near := func(x, y map[string]int) bool {
		for class := range classes {
			if d := max(x[class], y[class]) - min(x[class], y[class]); d > max(3, x[class]/20) {
				return false
			}
		}
		d := max(x["int"], y["int"]) - min(x["int"], y["int"])
		return d <= max(3, x["int"]/20)
	}
	return a.Kernel == b.Kernel && a.Arch == b.Arch && a.Shared == b.Shared && a.Weights == b.Weights &&
		max(a.Registers, b.Registers)-min(a.Registers, b.Registers) <= 8 && near(a.Counts, b.Counts) && near(a.Around, b.Around)
}

func TestSameCounts(t *testing.T) {
	count := func(registers, weights, half, integer int) kernelCount {
		counts := map[string]int{"half": half, "int": integer}
		return kernelCount{Kernel: "k", Arch: "sm_86", Registers: registers, Weights: weights, Counts: counts}
	}
	a := count(126, 64, 128, 90)
	assert.True(t, sameCounts(a, count(125, 64, 128, 93)))
	assert.False(t, sameCounts(a, count(112, 64, 128, 90)))
	assert.False(t, sameCounts(a, count(126, 32, 128, 90)))
	assert.False(t, sameCounts(a, count(126, 64, 144, 90)))
	assert.False(t, sameCounts(a, count(126, 64, 128, 97)))
	a.Arch = "sm_90"
	assert.False(t, sameCounts(a, count(126, 64, 128, 90)))
}
