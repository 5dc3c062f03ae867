package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	return sizes
}

// Compiled kernels stay within what a Jetson Nano can launch, keep everything in registers, and get no slower than the limits.
func TestKernelsStayWithinTheirLimits(t *testing.T) {
	dir := compiledKernels(t)
	sizes, checked := blockSizes(t), 0
	for arch, limits := range readLimits(t) {
		path := filepath.Join(dir, arch+".cubin")
		if _, err := os.Stat(path); err != nil {
			t.Logf("SKIPPED: %v", err)
			continue
		}
		checked++
		code, err := output("cuobjdump", "-sass", path)
		require.NoError(t, err)
		text, err := output("cuobjdump", "-res-usage", path)
		require.NoError(t, err)
		resources := parseUsage(text)
		found := map[string]bool{}
		for _, k := range parseCode(code) {
			checkKernel(t, arch, k, resources[k.name], sizes[k.name], limits)
			found[k.name] = true
		}
		for name := range limits {
			assert.True(t, found[name], "%s: limits.json names %s, which does not exist", arch, name)
		}
	}
	assert.Positive(t, checked, "no compiled kernels of an architecture in limits.json in %s", dir)
}

func checkKernel(t *testing.T, arch string, k kernel, r usage, threads int, limits map[string]float64) {
	const registersPerBlock, sharedPerBlock = 32768, 48 << 10
	assert.Zero(t, r.local, "%s %s: bytes in local memory (spilled registers, or an array)", arch, k.name)
	assert.NotZero(t, threads, "%s: no __launch_bounds__", k.name)
	assert.LessOrEqual(t, (r.registers+7)/8*8*threads, registersPerBlock, "%s %s: registers of a block", arch, k.name)
	assert.LessOrEqual(t, r.shared, sharedPerBlock, "%s %s: bytes of shared memory", arch, k.name)
	if !multiplies(k.name) {
		return
	}
	body, weights := mainLoop(k)
	if !assert.Positive(t, weights, "%s %s: no main loop found", arch, k.name) {
		return
	}
	limit, ok := limits[k.name]
	if assert.True(t, ok, "%s %s: no limit in limits.json", arch, k.name) {
		assert.LessOrEqual(t, float64(len(body))/float64(weights), limit, "%s %s: instructions per weight: %d / %d", arch, k.name, len(body), weights)
	}
}

// The instructions of a loop are those between its first one and the branch back.
func TestMainLoop(t *testing.T) {
	sass := []byte(`
	Function : gemm_half_u8
        /*0000*/                   MOV R1, c[0x0][0x20] ;
        /*0008*/                   LDG.E.128 R0, [R2] ;
        /*0010*/                   HFMA2 R4, R0, R1, R4 ;
        /*0018*/                   HFMA2 R4, R0, R1, R4 ;
        /*0020*/              @P0  BRA 0x8 ;
        /*0028*/                   EXIT ;
`)
	k := parseCode(sass)
	require.Len(t, k, 1)
	body, weights := mainLoop(k[0])
	assert.Len(t, body, 4)
	assert.Equal(t, 4, weights)
	assert.Equal(t, "4 / 4 = 1.00", costText(k[0]))
}

// What surrounds the main loop is counted from its end to its next beginning, by the shortest way.
func TestBetweenLoops(t *testing.T) {
	sass := []byte(`
	Function : gemv_fused_g2
        /*0000*/                   MOV R1, c[0x0][0x20] ;
        /*0008*/                   SSY 0x48 ;
        /*0010*/                   LDS.U.32 R0, [R2] ;
        /*0018*/                   SHF.R.W R3, R0, R1, R4 ;
        /*0020*/                   HFMA2 R4, R0, R1, R4 ;
        /*0028*/              @!P0 BRA 0x10 ;
        /*0030*/               @P1 SYNC ;
        /*0038*/                   MOV R3, R4 ;
        /*0040*/                   SYNC ;
        /*0048*/                   SHFL.BFLY PT, R3, R4, 0x10, 0x1f ;
        /*0050*/               @P2 BRA 0x8 ;
        /*0058*/                   EXIT ;
`)
	k := parseCode(sass)
	require.Len(t, k, 1)
	at, body, weights := findMainLoop(k[0])
	assert.Len(t, body, 4)
	assert.Equal(t, 2, weights)
	var ops []string
	for _, in := range betweenLoops(k[0].code, at) {
		ops = append(ops, in.op)
	}
	assert.ElementsMatch(t, []string{"SYNC", "SHFL.BFLY", "BRA", "SSY"}, ops)
	assert.Nil(t, betweenLoops(k[0].code[:10], at), "no loop around it")
}
