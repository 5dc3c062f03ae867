//go:build cuda

package cuda

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// TestWithFakeDriver runs the TestFake… below in a process whose libcuda.so.1 is testdata/fake_libcuda.c.
func TestWithFakeDriver(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("SKIPPED: no C compiler for the fake driver")
	}
	dir := t.TempDir()
	out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-o", filepath.Join(dir, "libcuda.so.1"), "testdata/fake_libcuda.c").CombinedOutput()
	require.NoError(t, err, string(out))
	for _, version := range []string{"11080", jetPack} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFake", "-test.v")
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+dir, "FAKE_LIBCUDA=1", "FAKE_DEVICES=2", "FAKE_VERSION="+version)
		out, err = cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		assert.NotContains(t, string(out), "SKIP")
	}
}

const jetPack = "10020" // CUDA of JetPack 4.6

// Launches are noted and repeated; the driver of CUDA 10.2 cannot.
func TestFakeGraph(t *testing.T) {
	d, err := openFake(t, map[string]string{"sm_53.cubin": "fine"})
	require.NoError(t, err)
	require.NoError(t, d.Do(func() error {
		k, err := d.Kernel("copy_words", 3)
		require.NoError(t, err)
		p, err := d.Alloc(64)
		require.NoError(t, err)
		s, err := d.NewStream()
		require.NoError(t, err)
		step := func(i int) error { // copies word i to word i + 1
			return d.Launch(k, driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256), Stream: s}, uint64(p)+4*uint64(i)+4, uint64(p)+4*uint64(i), 1)
		}
		g, err := d.Capture(s, func() error { return errors.Join(step(0), step(1)) })
		if os.Getenv("FAKE_VERSION") == jetPack {
			assert.ErrorIs(t, err, driver.ErrNoGraphs)
			return nil
		}
		require.NoError(t, err)
		for _, first := range []byte{7, 9} {
			require.NoError(t, d.CopyHtoD(p, []byte{first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
			var got [12]byte
			require.NoError(t, d.CopyDtoH(got[:], p))
			assert.Zero(t, got[8], "nothing has run yet")
			require.NoError(t, g.Launch(s))
			require.NoError(t, d.CopyDtoH(got[:], p))
			assert.Equal(t, [12]byte{first, 0, 0, 0, first, 0, 0, 0, first}, got)
		}
		e, err := d.NewEvent()
		require.NoError(t, err)
		require.NoError(t, e.Record(nil))
		require.NoError(t, s.Wait(e))
		_, err = d.Capture(s, func() error { return os.ErrInvalid })
		assert.ErrorIs(t, err, os.ErrInvalid)
		_, err = d.Capture(nil, func() error { return nil })
		assert.Error(t, err, "the default stream cannot be captured")
		return g.Destroy()
	}))
}

func needFake(t *testing.T) {
	if os.Getenv("FAKE_LIBCUDA") == "" {
		t.Skip("run by TestWithFakeDriver")
	}
}

func openFake(t *testing.T, images map[string]string) (driver.Device, error) {
	needFake(t)
	files := fstest.MapFS{}
	for name, text := range images {
		files["kernels/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	d, err := openWith(1, files)
	if err == nil {
		t.Cleanup(func() { assert.NoError(t, d.Close()) })
	}
	return d, err
}

func TestFakeImages(t *testing.T) {
	for name, c := range map[string]struct {
		images map[string]string
		err    error
		says   string
	}{
		"cubin":             {images: map[string]string{"sm_53.cubin": "fine"}},
		"PTX after a cubin": {images: map[string]string{"sm_53.cubin": "result 209", "compute_53.ptx": "fine"}},
		"corrupt cubin":     {images: map[string]string{"sm_53.cubin": "result 200", "compute_53.ptx": "fine"}},
		"PTX too new":       {images: map[string]string{"sm_53.cubin": "result 209", "compute_53.ptx": "result 222"}, err: driver.ErrKernelImage, says: "the compiler's words"},
		"other failure":     {images: map[string]string{"sm_53.cubin": "result 2", "compute_53.ptx": "fine"}, err: driver.ErrKernelImage, says: "CUDA result 2"},
		"other device":      {images: map[string]string{"sm_90.cubin": "fine"}, err: driver.ErrKernelImage, says: "CC 5.3"},
		"none":              {images: map[string]string{".keep": ""}, err: driver.ErrNotBuilt, says: "make kernels"},
	} {
		_, err := openFake(t, c.images)
		if c.err == nil {
			assert.NoError(t, err, name)
			continue
		}
		assert.ErrorIs(t, err, c.err, name)
		assert.ErrorContains(t, err, c.says, name)
	}
}

func TestFakeDevice(t *testing.T) {
	d, err := openFake(t, map[string]string{"sm_53.cubin": "fine"})
	require.NoError(t, err)
	var info driver.Info
	err = d.Do(func() (err error) { // as from anywhere else
		info, err = d.Info()
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, driver.Info{Backend: "cuda", Name: "Fake 1", CCMajor: 5, CCMinor: 3, SMs: 1, ClockMHz: 921, MemTotal: 64 << 20,
		MemFree: info.MemFree, SharedPerBlock: 48 << 10}, info)
	_, err = openWith(2, images)
	assert.ErrorIs(t, err, driver.ErrNoDevice)

	require.NoError(t, d.Do(func() error {
		_, err := d.Alloc(65 << 20)
		assert.ErrorIs(t, err, driver.ErrOutOfMemory)
		// Larger than both staging buffers together, and not a multiple of them.
		want := make([]byte, 3*stagingBytes+12)
		for i := range want {
			want[i] = byte(i*31 + i>>16)
		}
		src, err := d.Alloc(int64(len(want)))
		require.NoError(t, err)
		dst, err := d.Reserve(int64(len(want)))
		require.NoError(t, err)
		require.NoError(t, d.CopyHtoD(src, want))
		k, err := d.Kernel("copy_words", 3)
		require.NoError(t, err)
		s, err := d.NewStream()
		require.NoError(t, err)
		launch := driver.LaunchConfig{Grid: driver.D1(3), Block: driver.D1(256), Stream: s}
		require.NoError(t, d.Launch(k, launch, uint64(dst), uint64(src), uint64(len(want)/4)))
		got := make([]byte, len(want))
		require.NoError(t, d.CopyDtoH(got, dst))
		assert.Equal(t, want, got)

		launch.SharedBytes = 1
		err = d.Launch(k, launch, uint64(dst), uint64(src), 1)
		assert.ErrorContains(t, err, "copy_words")
		assert.ErrorContains(t, err, "launch failed")
		assert.ErrorContains(t, err, "719")
		assert.Error(t, d.Launch(k, launch, 1), "too few arguments")
		_, err = d.Kernel("gone", 1)
		assert.ErrorIs(t, err, driver.ErrKernelImage)

		a, err := d.NewEvent()
		require.NoError(t, err)
		b, err := d.NewEvent()
		require.NoError(t, err)
		require.NoError(t, a.Record(nil))
		require.NoError(t, b.Record(s))
		dt, err := b.Since(a)
		require.NoError(t, err)
		assert.Equal(t, 1500*time.Microsecond, dt)
		require.NoError(t, a.Destroy())
		require.NoError(t, s.Destroy())
		require.NoError(t, d.Memset(dst, 9, 4))
		require.NoError(t, d.CopyDtoH(got[:8], dst))
		assert.Equal(t, byte(9), got[3])
		assert.Equal(t, want[4:8], got[4:8])
		require.NoError(t, d.Free(src))
		return d.Synchronize()
	}))
}

func TestFakeHostFloats(t *testing.T) {
	d, err := openFake(t, map[string]string{"sm_53.cubin": "fine"})
	require.NoError(t, err)
	require.NoError(t, d.Do(func() error {
		for _, n := range []int{0, 5} {
			f, err := d.HostFloats(n)
			require.NoError(t, err)
			require.Len(t, f, n)
		}
		f, err := d.HostFloats(1)
		require.NoError(t, err)
		p, err := d.Alloc(4)
		require.NoError(t, err)
		require.NoError(t, d.CopyHtoD(p, []byte{0, 0, 0x80, 0x3f}))
		require.NoError(t, d.CopyDtoH(unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4), p))
		assert.Equal(t, float32(1), f[0])
		return nil
	}))
}
