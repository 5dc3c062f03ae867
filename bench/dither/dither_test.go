package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func values(t *testing.T, f *gguf.File, i int) []float32 {
	t.Helper()
	x := make([]float32, f.Tensors[i].Rows()*f.Tensors[i].Cols())
	b, err := f.Rows(&f.Tensors[i], 0, f.Tensors[i].Rows())
	require.NoError(t, err)
	require.NoError(t, gguf.Dequantize(f.Tensors[i].Type, b, x))
	return x
}

func TestDither(t *testing.T) {
	for _, typ := range []string{"Q8_0", "Q4_1"} {
		dir := t.TempDir()
		in, err := testmodel.WriteGGUF(dir, testmodel.Variant{Type: typ})
		require.NoError(t, err)
		out := filepath.Join(dir, "out.gguf")
		require.NoError(t, dither(in, out, 7))
		a, b := open(t, in), open(t, out)
		require.Equal(t, len(a.Tensors), len(b.Tensors))
		for i := range a.Tensors {
			x, y := values(t, a, i), values(t, b, i)
			require.Equal(t, a.Tensors[i].Name, b.Tensors[i].Name)
			if a.Tensors[i].Type == gguf.F32 {
				require.Equal(t, x, y)
				continue
			}
			require.Equal(t, gguf.F16, b.Tensors[i].Type)
			checkCells(t, a, i, x, y)
		}
		kind, err := b.Int("general.file_type")
		require.NoError(t, err)
		require.Equal(t, int(mostlyF16), kind)
		arch, err := b.String("general.architecture")
		require.NoError(t, err)
		require.Equal(t, "llama", arch)
	}
}

// checkCells compares the moves y − x with a uniform distribution over cells: bounds, mean, variance.
func checkCells(t *testing.T, f *gguf.File, i int, x, y []float32) {
	t.Helper()
	raw, err := f.Rows(&f.Tensors[i], 0, f.Tensors[i].Rows())
	require.NoError(t, err)
	var b gguf.Blocks
	require.NoError(t, gguf.Unpack(f.Tensors[i].Type, raw, len(x), &b))
	sum, squares, n := 0.0, 0.0, 0.0
	for k := range x {
		d := math.Abs(float64(gguf.F16ToFloat(b.D[k/32])))
		if d == 0 {
			require.Equal(t, x[k], y[k])
			continue
		}
		rounding := math.Abs(float64(y[k]))/2048 + 6e-8
		move := float64(y[k]) - float64(x[k])
		require.LessOrEqual(t, math.Abs(move), d/2+rounding, "%s, weight %d", f.Tensors[i].Name, k)
		sum, squares, n = sum+move/d, squares+move/d*move/d, n+1
	}
	require.Less(t, math.Abs(sum/n), 4*math.Sqrt(1.0/12/n))
	// F16 adds some noise of its own where the cell is narrow.
	require.InDelta(t, 1.0/12, squares/n, 4*math.Sqrt(1.0/180/n)+0.002)
}

func TestSeedDecides(t *testing.T) {
	dir := t.TempDir()
	in, err := testmodel.WriteGGUF(dir, testmodel.Variant{Type: "Q4_1"})
	require.NoError(t, err)
	var files [3][]byte
	for i, seed := range []uint64{1, 1, 2} {
		out := filepath.Join(dir, "out.gguf")
		require.NoError(t, dither(in, out, seed))
		files[i], err = os.ReadFile(out)
		require.NoError(t, err)
	}
	require.Equal(t, files[0], files[1])
	require.NotEqual(t, files[0], files[2])
}

func TestCellsOfUnevenValues(t *testing.T) {
	low, width := cells(&gguf.Layout{Codes: 4, Values: []int16{-10, -4, 0, 2}})
	require.Equal(t, []float32{-3, -3, -2, -1}, low[:4])
	require.Equal(t, []float32{6, 5, 3, 2}, width[:4])
	low, width = cells(&gguf.Layout{Codes: 4, Zero: -2})
	require.Equal(t, []float32{-0.5, -0.5, -0.5, -0.5}, low[:4])
	require.Equal(t, []float32{1, 1, 1, 1}, width[:4])
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out.gguf")
	require.Error(t, dither(filepath.Join(dir, "none.gguf"), out, 1))
	_, err := os.Stat(out)
	require.ErrorIs(t, err, os.ErrNotExist)
}
