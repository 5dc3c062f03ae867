//go:build cuda

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"gorgonia.org/cu"
)

// Options of Open.
type Options struct {
	// Notice is told what takes long, in a sentence; nil = nobody is.
	Notice func(string)
}

// Open opens device `ordinal` with the first of the embedded kernel images that works there: each is tried in a context of its
// own with a kernel that uses what all others rest on. ELLM_KERNELS names a folder, itself called "kernels", whose images are
// used instead: kernels compiled on the machine that runs them. ELLM_IMAGE, part of a file's name ("ptx", "sm_86"), leaves out
// all others.
func Open(ordinal int, o Options) (driver.Device, error) {
	dir := os.Getenv("ELLM_KERNELS")
	if dir == "" {
		return openWith(ordinal, images, o)
	}
	kernels, ok := os.DirFS(filepath.Dir(filepath.Clean(dir))).(fs.ReadDirFS)
	if !ok || filepath.Base(filepath.Clean(dir)) != "kernels" {
		return nil, &driver.Error{Op: "cuda: open", Kind: driver.ErrKernelImage, Msg: "ELLM_KERNELS: expected a folder called kernels"}
	}
	return openWith(ordinal, kernels, o)
}

// openWith is Open with other kernels, for tests.
func openWith(ordinal int, kernels fs.ReadDirFS, o Options) (driver.Device, error) {
	n, err := Count()
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= n {
		return nil, &driver.Error{Op: "cuda: open", Detail: fmt.Sprintf("device %d", ordinal), Kind: driver.ErrNoDevice,
			Msg: fmt.Sprintf("there are %d", n)}
	}
	d := &Device{work: make(chan func()), stopped: make(chan struct{})}
	go d.thread()
	if err := d.Do(func() error { return d.open(ordinal, kernels, o) }); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Device) open(ordinal int, kernels fs.ReadDirFS, o Options) error {
	d.tid = syscall.Gettid()
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return wrap(err, "open", fmt.Sprintf("device %d", ordinal))
	}
	d.dev = dev
	if err := d.readInfo(); err != nil {
		return err
	}
	all, err := listImages(kernels)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &driver.Error{Op: "cuda: load kernels", Kind: driver.ErrNotBuilt,
			Msg: "none are embedded; run `make kernels` and `make build-cuda`"}
	}
	return d.tryImages(kernels, all, o)
}

// tryImages opens the device with the first image that works. After a fault a context is of no use, so each image has its own.
func (d *Device) tryImages(kernels fs.ReadDirFS, all []image, o Options) error {
	only, refusals := os.Getenv("ELLM_IMAGE"), ""
	for _, im := range candidates(all, d.info.CCMajor, d.info.CCMinor) {
		if !strings.Contains(im.name(), only) {
			continue
		}
		if im.ptx && o.Notice != nil {
			o.Notice(fmt.Sprintf("the driver compiles kernels for this GPU (CC %d.%d) from %s as they are first used; it keeps them in "+
				"~/.nv/ComputeCache",
				d.info.CCMajor, d.info.CCMinor, im.name()))
		}
		err := d.tryImage(kernels, im)
		if err == nil {
			d.info.Image, d.info.Build = im.name(), d.modules.hash
			return nil
		}
		d.release() // what the failure left may not even be destroyed
		if errors.Is(err, driver.ErrOutOfMemory) || errors.Is(err, driver.ErrNoDevice) {
			return err // another image would not help
		}
		refusals += fmt.Sprintf("; %s: %v", im.name(), err)
	}
	if only != "" {
		refusals += fmt.Sprintf(" (ELLM_IMAGE=%s leaves out other images)", only)
	}
	return &driver.Error{Op: "cuda: load kernels", Kind: driver.ErrKernelImage,
		Msg: fmt.Sprintf("the device has CC %d.%d%s", d.info.CCMajor, d.info.CCMinor, refusals)}
}

func (d *Device) tryImage(kernels fs.ReadDirFS, im image) error {
	var err error
	if d.ctx, err = d.dev.MakeContext(cu.SchedAuto); err != nil {
		return wrap(err, "create context", d.info.Name)
	}
	for i := range d.staging {
		s := &d.staging[i]
		if s.buf, err = newHostBuffer(stagingBytes); err != nil {
			return err
		}
		if s.done, err = cu.MakeEvent(cu.DefaultEvent); err != nil {
			return wrap(err, "create event", "")
		}
	}
	if d.modules, err = loadImage(kernels, im); err != nil {
		return err
	}
	return d.probe()
}

// probe runs a kernel that uses what all others rest on, so that an image that loads but does not run is found here and not in
// the middle of a text.
func (d *Device) probe() (err error) {
	const block, words = 64, 128
	k, err := d.Kernel("probe_device", 3)
	if err != nil {
		return err
	}
	p, err := d.Alloc(4 * (2*words + 2))
	if err != nil {
		return err
	}
	defer func() {
		if ferr := d.Free(p); err == nil {
			err = ferr
		}
	}()
	x, y, done := p, p+4*words, p+4*(2*words+1)
	in := make([]byte, 4*(2*words+2))
	for i := range words {
		binary.LittleEndian.PutUint32(in[4*i:], 0x44004200) // 3, 4 in half precision
	}
	if err := d.CopyHtoD(p, in); err != nil {
		return err
	}
	c := driver.LaunchConfig{Grid: driver.D1(words / block), Block: driver.D1(block), SharedBytes: 4 * block}
	if err := d.Launch(k, c, uint64(x), uint64(y), uint64(done)); err != nil {
		return err
	}
	got := make([]byte, 4*(words+2))
	if err := d.CopyDtoH(got, y); err != nil {
		return err
	}
	sum := uint32(0)
	for i := uint32(0); i <= words; i++ {
		want := 0x48804400 + (i ^ 5) // 3·1 + 1, 4·2 + 1
		if i == words {
			want = sum
		}
		if v := binary.LittleEndian.Uint32(got[4*i:]); v != want {
			return &driver.Error{Op: "cuda: probe kernel", Kind: driver.ErrKernelImage,
				Msg: fmt.Sprintf("it ran, but word %d of its result is %#x, expected %#x", i, v, want)}
		}
		sum += want
	}
	return nil
}

func (d *Device) readInfo() error {
	var err error
	if d.info.Name, err = d.dev.Name(); err != nil {
		return wrap(err, "device name", "")
	}
	if d.info.MemTotal, err = d.dev.TotalMem(); err != nil {
		return wrap(err, "device memory", "")
	}
	d.info.Backend = "cuda"
	version := cu.Version()
	d.info.Driver = fmt.Sprintf("%d.%d", version/1000, version%1000/10)
	var kHz, integrated int
	for _, a := range []struct {
		attr cu.DeviceAttribute
		dst  *int
	}{
		{cu.ComputeCapabilityMajor, &d.info.CCMajor}, {cu.ComputeCapabilityMinor, &d.info.CCMinor},
		{cu.MultiprocessorCount, &d.info.SMs}, {cu.ClockRate, &kHz}, {cu.Integrated, &integrated},
		{cu.MaxSharedMemoryPerBlock, &d.info.SharedPerBlock},
	} {
		if *a.dst, err = d.dev.Attribute(a.attr); err != nil {
			return wrap(err, "device attribute", fmt.Sprint(int(a.attr)))
		}
	}
	d.info.ClockMHz, d.unified = kHz/1000, integrated != 0
	d.info.MemReserve = reserve(d.info.MemTotal, d.unified)
	return nil
}

// reserve returns how much of a device's memory plans leave alone. A driver refuses the last bytes, and needs some for graphs and
// page tables. Where the GPU shares the machine's memory, the program itself, its staging buffers and the page cache live there,
// too.
func reserve(total int64, unified bool) int64 {
	if unified {
		return max(384<<20, total/10)
	}
	return max(256<<20, int64(math.Round(0.03*float64(total))))
}

// name is the file's, without its folder and compression.
func (im image) name() string {
	return strings.TrimSuffix(im.path[strings.LastIndexByte(im.path, '/')+1:], ".gz")
}
