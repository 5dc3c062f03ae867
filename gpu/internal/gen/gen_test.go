package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGeneratedFileIsCurrent(t *testing.T) {
	want, err := generate("../../../cuda")
	require.NoError(t, err)
	have, err := os.ReadFile("../../kernels/kernels_gen.go")
	require.NoError(t, err)
	assert.Equal(t, string(want), string(have), "run `go generate ./gpu/kernels`")
}

func TestParseKernels(t *testing.T) {
	ks, err := parseKernels(`// extern "C" __global__ void gone(int n)
extern "C" __global__ void __launch_bounds__(64, 4) scale_rows(const float* __restrict__ x, // [n]
    uint16_t* y, int32_t n, int64_t m, float eps) {}`)
	require.NoError(t, err)
	require.Len(t, ks, 1)
	assert.Equal(t, kernel{name: "scale_rows", block: 64, params: []field{
		{"x", "driver.DevicePtr"}, {"y", "driver.DevicePtr"}, {"n", "int32"}, {"m", "int64"}, {"eps", "float32"}}}, ks[0])
}

func TestParseKernelsRefuses(t *testing.T) {
	for name, src := range map[string]string{
		"struct by value":  `extern "C" __global__ void __launch_bounds__(64) k(matrix m) {}`,
		"int":              `extern "C" __global__ void __launch_bounds__(64) k(int n) {}`,
		"no launch bounds": `extern "C" __global__ void k(int32_t n) {}`,
		"C++ linkage":      `__global__ void __launch_bounds__(64) k(int32_t n) {}`,
		"no name":          `extern "C" __global__ void __launch_bounds__(64) k(float*) {}`,
	} {
		_, err := parseKernels(src)
		assert.Error(t, err, name)
	}
}

func TestParseHeader(t *testing.T) {
	structs, consts, err := parseHeader(`enum { A_B = 2, C = 7 };
struct pair { const void* data; int32_t rows, cols; float unit; };`)
	require.NoError(t, err)
	assert.Equal(t, []constant{{"A_B", 2}, {"C", 7}}, consts)
	assert.Equal(t, []structDef{{"pair", "", []field{{"data", "driver.DevicePtr"}, {"rows", "int32"}, {"cols", "int32"},
		{"unit", "float32"}}}}, structs)

	_, _, err = parseHeader(`struct pair { double x; };`)
	assert.ErrorContains(t, err, "double")
	_, _, err = parseHeader(`enum { A, B };`)
	assert.Error(t, err)
}
