//go:build cuda

package cuda

import (
	"debug/elf"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// A program with CUDA support must start on a machine without a driver: no libcuda among what the loader wants.
func TestNoLibcudaDependency(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	f, err := elf.Open(exe)
	require.NoError(t, err)
	defer f.Close()
	libs, err := f.ImportedLibraries()
	require.NoError(t, err)
	for _, l := range libs {
		assert.NotContains(t, l, "libcuda", "a function is missing in libcuda/functions.h (see nm -D --undefined-only)")
	}
}

func TestOpen(t *testing.T) {
	n, err := Count()
	if err != nil {
		assert.ErrorIs(t, err, driver.ErrNoDevice)
		_, err = Open(0, Options{})
		require.ErrorIs(t, err, driver.ErrNoDevice)
		t.Logf("no device here: %v", err)
		return
	}
	_, err = Open(n, Options{})
	assert.ErrorIs(t, err, driver.ErrNoDevice)
	d, err := Open(0, Options{})
	require.NoError(t, err)
	info, err := d.Info()
	require.NoError(t, err)
	t.Log(info)
	require.NoError(t, d.Close())
}
