//go:build cuda

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// The tests of this file run on a driver library that runs the kernel emulator (cuda/emu/driver.h): make test-driver.

const (
	nano     = "cc=53 version=10020 sms=1 unified=1 name=Nano"
	orin     = "cc=87 version=11040 sms=8 unified=1"
	hopper   = "cc=90 version=12080"
	nextYear = "cc=120 version=13000"
)

// emulate configures the driver for the next device that is opened, and returns the file that tells what contexts left.
func emulate(t *testing.T, options string) (report string) {
	t.Helper()
	if os.Getenv("ELLM_LIBCUDA") == "" {
		t.Skip("SKIPPED: no emulated driver; make test-driver runs this")
	}
	report = filepath.Join(t.TempDir(), "report")
	t.Setenv("ELLM_EMU_DRIVER", options+" report="+report)
	return report
}

var kernelNames = []string{"probe_device", "copy_words"}

// cubin is as much of machine code as the emulated driver reads: what it is for, and names.
func cubin(cc int, kernels ...string) string {
	const flags, sections = 48, 40
	text := "\x7fELF" + strings.Repeat("\x00", 60) + strings.Join(kernels, "\x00")
	b := []byte(text)
	binary.LittleEndian.PutUint64(b[sections:], uint64(len(b)))
	b[flags] = byte(cc)
	return string(b)
}

func ptx(cc int, version string, kernels ...string) string {
	s := fmt.Sprintf("//\n.version %s\n.target sm_%d\n.address_size 64\n\n", version, cc)
	for _, k := range kernels {
		s += fmt.Sprintf(".visible .entry %s(\n\t.param .u64 a\n)\n.maxntid 64, 1, 1\n{\n\t{ ret; }\n}\n", k)
	}
	return s
}

func folder(images map[string]string) fstest.MapFS {
	files := fstest.MapFS{}
	for name, data := range images {
		files["kernels/"+name] = &fstest.MapFile{Data: []byte(data)}
	}
	return files
}

func openImages(t *testing.T, images map[string]string) (*Device, error) {
	t.Helper()
	d, err := openWith(0, folder(images), Options{})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return d.(*Device), nil
}

// both are images for a device of any compute capability.
func both(cc int) map[string]string {
	return map[string]string{fmt.Sprintf("sm_%d.cubin", cc): cubin(cc, kernelNames...),
		"compute_53.ptx": ptx(53, "6.5", kernelNames...)}
}

// Every image is tried until one runs a kernel correctly; what loads but does not run is found when the device is opened.
func TestImagesAreTriedUntilOneRuns(t *testing.T) {
	ptx53, ptx80 := ptx(53, "6.5", kernelNames...), ptx(80, "7.8", kernelNames...)
	sm := func(cc int) string { return cubin(cc, kernelNames...) }
	for name, c := range map[string]struct {
		device string
		images map[string]string
		want   string // the image; empty: none
		says   string
	}{
		"machine code":               {nano, both(53), "sm_53.cubin", ""},
		"the driver refuses it":      {nano + " load=cubin:209", both(53), "compute_53.ptx", ""},
		"the driver cannot parse it": {nano + " load=cubin:300", both(53), "compute_53.ptx", ""},
		"it faults":                  {nano + " launch=cubin:719", both(53), "compute_53.ptx", ""},
		"it does nothing":            {nano + " idle=cubin", both(53), "compute_53.ptx", ""},
		"nothing runs": {nano + " idle=cubin launch=ptx:719", both(53), "",
			"word 0 of its result is 0x0, expected 0x48804405"},
		"PTX is newer than the driver": {nano + " load=cubin:209",
			map[string]string{"sm_53.cubin": sm(53), "compute_53.ptx": ptx(53, "7.8", kernelNames...)}, "", "222"},
		"the compiler's words": {nano + " load=ptx:218", map[string]string{"compute_53.ptx": ptx53}, "",
			"the compiler's words about result 218"},
		"a desktop's cubin on Orin": {orin, map[string]string{"sm_86.cubin": sm(86), "compute_53.ptx": ptx53},
			"compute_53.ptx", ""},
		"Orin's own": {orin, map[string]string{"sm_86.cubin": sm(86), "sm_87.cubin": sm(87),
			"compute_53.ptx": ptx53}, "sm_87.cubin", ""},
		"a GPU of next year takes newer PTX": {nextYear, map[string]string{"sm_90.cubin": sm(90), "compute_53.ptx": ptx53,
			"compute_80.ptx": ptx80}, "compute_80.ptx", ""},
		"a kernel is missing": {hopper, map[string]string{"sm_90.cubin": cubin(90, "copy_words")}, "", "probe_device"},
		"other device":        {nano, map[string]string{"sm_90.cubin": sm(90)}, "", "CC 5.3"},
		"none":                {nano, map[string]string{".keep": ""}, "", "make kernels"},
	} {
		t.Run(name, func(t *testing.T) {
			report := emulate(t, c.device)
			d, err := openImages(t, c.images)
			if c.want == "" {
				require.Error(t, err)
				assert.ErrorContains(t, err, c.says)
				if name != "none" {
					assert.ErrorIs(t, err, driver.ErrKernelImage)
				}
				return
			}
			require.NoError(t, err)
			info, err := d.Info()
			require.NoError(t, err)
			assert.Equal(t, c.want, info.Image)
			if !strings.Contains(c.device, "launch=") && !strings.Contains(c.device, "idle=") {
				return
			}
			left, err := os.ReadFile(report)
			require.NoError(t, err, "the context of the image that failed is gone")
			if strings.Contains(c.device, "idle=") { // after a fault nothing can be given back but the context
				assert.Contains(t, string(left), " 0 pinned, 0 streams, 0 events, 0 modules")
			}
		})
	}
}

// A driver without devices is an error, so that nobody takes the first of none.
func TestNoDevices(t *testing.T) {
	emulate(t, "devices=0")
	_, err := Count()
	assert.ErrorIs(t, err, driver.ErrNoDevice)
	_, err = openWith(0, folder(both(90)), Options{})
	assert.ErrorIs(t, err, driver.ErrNoDevice)
}

func TestOneImageCanBeChosen(t *testing.T) {
	emulate(t, nano)
	t.Setenv("ELLM_IMAGE", "ptx")
	d, err := openImages(t, both(53))
	require.NoError(t, err)
	info, err := d.Info()
	require.NoError(t, err)
	assert.Equal(t, "compute_53.ptx", info.Image)
	t.Setenv("ELLM_IMAGE", "sm_99")
	_, err = openImages(t, both(53))
	assert.ErrorContains(t, err, "ELLM_IMAGE=sm_99")
}

// What takes long is announced; machine code does not.
func TestCompilingIsAnnounced(t *testing.T) {
	for options, want := range map[string]int{nano: 0, nano + " load=cubin:209": 1} {
		emulate(t, options)
		var said []string
		d, err := openWith(0, folder(both(53)), Options{Notice: func(s string) { said = append(said, s) }})
		require.NoError(t, err)
		require.NoError(t, d.Close())
		require.Len(t, said, want)
		if want > 0 {
			assert.Contains(t, said[0], "compiles kernels for this GPU (CC 5.3) from compute_53.ptx")
		}
	}
}

// Of PTX only what is launched is compiled.
func TestUnusedKernelsAreNotCompiled(t *testing.T) {
	emulate(t, nano+" load=cubin:209")
	d, err := openImages(t, both(53))
	require.NoError(t, err)
	require.NoError(t, d.Do(func() error {
		assert.Len(t, d.modules.loaded, 1, "the probe")
		k, err := d.Kernel("copy_words", 3)
		require.NoError(t, err)
		assert.Len(t, d.modules.loaded, 1)
		p, err := d.Alloc(64)
		require.NoError(t, err)
		for range 2 {
			c := driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256)}
			require.NoError(t, d.Memset(p, 0, 64))
			require.NoError(t, d.Launch(k, c, uint64(p)+4, uint64(p), 1))
			assert.Len(t, d.modules.loaded, 2)
		}
		_, err = d.Kernel("gone", 1)
		assert.ErrorIs(t, err, driver.ErrKernelImage)
		return d.Synchronize()
	}))
}

func copyWord(d driver.Device, s driver.Stream, p driver.DevicePtr, i int) error { // word i to word i + 1
	k, err := d.Kernel("copy_words", 3)
	if err != nil {
		return err
	}
	c := driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256), Stream: s}
	return d.Launch(k, c, uint64(p)+4*uint64(i)+4, uint64(p)+4*uint64(i), 1)
}

// Graphs of old drivers are tried before they are used: those that fail, or do something else, are not used.
func TestOldGraphsAreTried(t *testing.T) {
	for options, works := range map[string]bool{nano: true, nano + " order=newest": true, nano + " lazy_graphs=1": false,
		nano + " fail=cuStreamBeginCapture_v2:1:900": false, nano + " fail=cuGraphInstantiate:1:801": false,
		nano + " fail=cuGraphLaunch:1:999": false, "cc=53 version=10000": false} {
		report := emulate(t, options)
		d, err := openWith(0, folder(both(53)), Options{})
		require.NoError(t, err)
		require.NoError(t, d.Do(func() error {
			p, err := d.Alloc(64)
			require.NoError(t, err)
			s, err := d.NewStream()
			require.NoError(t, err)
			for range 2 { // what has failed is not tried again
				g, err := d.Capture(s, func() error { return copyWord(d, s, p, 0) })
				if !works {
					assert.ErrorIs(t, err, driver.ErrNoGraphs, options)
					continue
				}
				require.NoError(t, err, options)
				require.NoError(t, errors.Join(g.Launch(s), s.Synchronize(), g.Destroy()))
			}
			return errors.Join(s.Destroy(), d.Free(p))
		}))
		require.NoError(t, d.Close())
		b, err := os.ReadFile(report)
		require.NoError(t, err)
		assert.Contains(t, string(b), " 0 allocations, 0 pinned, 0 streams, 0 events, 0 modules, 0 graphs left", options)
	}
}

// Launches are noted and repeated. With PTX nothing is compiled during the capture.
func TestGraph(t *testing.T) {
	for _, options := range []string{hopper, hopper + " order=newest", hopper + " load=cubin:209", "cc=90 version=11000", nano} {
		emulate(t, options)
		d, err := openImages(t, both(90-37*strings.Count(options, "cc=53")))
		require.NoError(t, err)
		require.NoError(t, d.Do(func() error {
			p, err := d.Alloc(64)
			require.NoError(t, err)
			s, err := d.NewStream()
			require.NoError(t, err)
			g, err := d.Capture(s, func() error { return errors.Join(copyWord(d, s, p, 0), copyWord(d, s, p, 1)) })
			require.NoError(t, err, options)
			for _, first := range []byte{7, 9} {
				require.NoError(t, d.CopyHtoD(p, []byte{first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
				var got [12]byte
				require.NoError(t, d.CopyDtoH(got[:], p))
				assert.Zero(t, got[8], "nothing has run yet")
				require.NoError(t, g.Launch(s))
				require.NoError(t, d.CopyDtoH(got[:], p))
				assert.Equal(t, [12]byte{first, 0, 0, 0, first, 0, 0, 0, first}, got)
			}
			_, err = d.Capture(s, func() error { return os.ErrInvalid })
			assert.ErrorIs(t, err, os.ErrInvalid)
			_, err = d.Capture(nil, func() error { return nil })
			assert.Error(t, err, "the default stream cannot be captured")
			calls := 0
			_, err = d.Capture(s, func() error {
				if calls++; calls == 1 { // the rehearsal
					return nil
				}
				_, err := d.Alloc(64)
				return err
			})
			assert.Error(t, err, "allocating is not allowed")
			require.NoError(t, copyWord(d, s, p, 0), "the stream is of use after that")
			return errors.Join(g.Destroy(), d.Synchronize())
		}))
	}
}

func TestEmulatedDevice(t *testing.T) {
	emulate(t, nano+" devices=2 clock=921 memory=64")
	d, err := openWith(1, folder(both(53)), Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, d.Close()) }()
	var info driver.Info
	err = d.Do(func() (err error) { // as from anywhere else
		info, err = d.Info()
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, driver.Info{Backend: "cuda", Name: "Nano 1", CCMajor: 5, CCMinor: 3, SMs: 1, ClockMHz: 921, MemTotal: 64 << 20,
		MemFree: info.MemFree, MemReserve: 384 << 20, SharedPerBlock: 48 << 10, Image: "sm_53.cubin",
		Build: info.Build, Driver: "10.2"}, info)
	assert.Len(t, info.Build, 64, "the hash of the image")
	_, err = openWith(2, images, Options{})
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
		require.NoError(t, d.CopyHtoD(src, want))
		got := make([]byte, len(want))
		require.NoError(t, d.CopyDtoH(got, src))
		assert.Equal(t, want, got)
		s, err := d.NewStream()
		require.NoError(t, err)
		require.NoError(t, copyWord(d, s, src, 0))
		require.NoError(t, d.CopyDtoH(got[:8], src))
		assert.Equal(t, got[:4], got[4:8])
		require.NoError(t, d.Memset(src, 9, 4))
		require.NoError(t, d.CopyDtoH(got[:8], src))
		assert.Equal(t, []byte{9, 9, 9, 9}, got[:4])
		assert.Equal(t, want[:4], got[4:8])

		a, err := d.NewEvent()
		require.NoError(t, err)
		b, err := d.NewEvent()
		require.NoError(t, err)
		require.NoError(t, errors.Join(a.Record(nil), s.Wait(a), b.Record(s)))
		dt, err := b.Since(a)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, dt.Nanoseconds(), int64(0))
		return errors.Join(a.Destroy(), b.Destroy(), s.Destroy(), d.Free(src), d.Synchronize())
	}))
}

// A kernel's fault is reported with the kernel's name, where it is noticed, and the device can be closed.
func TestFaultOfAKernel(t *testing.T) {
	emulate(t, hopper)
	d, err := openWith(0, folder(both(90)), Options{})
	require.NoError(t, err)
	require.NoError(t, d.Do(func() error {
		k, err := d.Kernel("copy_words", 3)
		require.NoError(t, err)
		c := driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(512)}
		err = d.Launch(k, c, 16, 16, 1)
		assert.ErrorContains(t, err, "copy_words")
		assert.ErrorContains(t, err, "invalid argument", "512 threads are more than its launch bounds")
		assert.Error(t, d.Launch(k, c, 1), "too few arguments")
		c.Block = driver.D1(256)
		assert.Error(t, errors.Join(d.Launch(k, c, 16, 16, 1), d.Synchronize()), "address 16")
		assert.ErrorContains(t, d.Synchronize(), "CUDA result 719", "every later call fails, too")
		return nil
	}))
	assert.Equal(t, 1, strings.Count(d.Close().Error(), "CUDA result"), "one error, not one for every thing that is given back")
}

func TestHostFloats(t *testing.T) {
	for _, options := range []string{nano, hopper} {
		emulate(t, options)
		d, err := openImages(t, both(90-37*strings.Count(options, "cc=53")))
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
			return d.Free(p)
		}))
	}
}

// everything does all that a device can. The error is of the call that failed, or of Close.
func everything(t *testing.T) (opened bool, err error) {
	d, err := openWith(0, folder(map[string]string{"sm_90.cubin": cubin(90, kernelNames...)}), Options{})
	if err != nil {
		return false, err
	}
	work := func() error {
		if _, err := d.Info(); err != nil {
			return err
		}
		p, err := d.Alloc(1 << 20)
		if err != nil {
			return err
		}
		if _, err := d.HostFloats(8); err != nil {
			return err
		}
		s, err := d.NewStream()
		if err != nil {
			return err
		}
		e, err := d.NewEvent()
		if err != nil {
			return err
		}
		if err := errors.Join(d.CopyHtoDOn(s, p, make([]byte, 1<<20)), e.Record(s), e.Synchronize()); err != nil {
			return err
		}
		g, err := d.Capture(s, func() error { return copyWord(d, s, p, 0) })
		if err != nil {
			return err
		}
		if err := errors.Join(g.Launch(s), d.CopyDtoH(make([]byte, 8), p), d.Synchronize()); err != nil {
			return err
		}
		return errors.Join(g.Destroy(), e.Destroy(), s.Destroy(), d.Free(p))
	}
	err = d.Do(work)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return true, err
}

// Whatever call of the driver fails, once or from then on: the error says which, and contexts and page-locked memory are given
// back.
func TestEveryCallMayFail(t *testing.T) {
	report := emulate(t, hopper)
	_, err := everything(t)
	require.NoError(t, err)
	b, err := os.ReadFile(report)
	require.NoError(t, err)
	m := regexp.MustCompile(`context \d+: 0 allocations, 0 pinned, 0 streams, 0 events, 0 modules, 0 graphs left; ` +
		`(\d+) calls`).FindSubmatch(b)
	require.NotNil(t, m, string(b))
	var calls int
	fmt.Sscan(string(m[1]), &calls)
	require.Greater(t, calls, 40)
	for n := 1; n <= calls; n++ {
		for _, later := range []string{"", "+"} {
			report := emulate(t, fmt.Sprintf("%s fail=any:%d%s:999", hopper, n, later))
			opened, err := everything(t)
			require.Error(t, err, "call %d%s", n, later)
			var e *driver.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Op)
			require.ErrorContains(t, err, "999", "call %d%s", n, later)
			b, _ := os.ReadFile(report)
			if opened && later == "" && !strings.Contains(err.Error(), "destroy context") {
				require.Contains(t, string(b), " 0 pinned", "call %d: %v", n, err)
				require.Contains(t, string(b), " 0 modules", "call %d: %v", n, err)
			}
		}
	}
}

// The library is found by each of the names that drivers and containers give it.
func TestLibraryNames(t *testing.T) {
	emulate(t, nano)
	lib, err := filepath.Abs(os.Getenv("ELLM_LIBCUDA"))
	require.NoError(t, err)
	for _, name := range []string{"libcuda.so.1", "libcuda.so", "none"} {
		dir := t.TempDir()
		require.NoError(t, os.Symlink(lib, filepath.Join(dir, name)))
		cmd := exec.Command(os.Args[0], "-test.run=^TestCount$", "-test.v")
		cmd.Env = append(os.Environ(), "ELLM_LIBCUDA=", "LD_LIBRARY_PATH="+dir, "ELLM_TEST_COUNT=1")
		out, err := cmd.CombinedOutput()
		if name == "none" {
			assert.Error(t, err)
			assert.Contains(t, string(out), driver.ErrNoDevice.Error())
			continue
		}
		assert.NoError(t, err, "%s: %s", name, out)
	}
}

func TestCount(t *testing.T) {
	if os.Getenv("ELLM_TEST_COUNT") == "" {
		t.Skip("SKIPPED: TestLibraryNames runs this, in a process of its own")
	}
	n, err := Count()
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}
