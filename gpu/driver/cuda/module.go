//go:build cuda

package cuda

import (
	"embed"
	"fmt"
	"io/fs"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"gorgonia.org/cu"
)

// images are the compiled kernels; `make kernels` puts them there. Without them the folder holds only .keep.
//
//go:embed kernels/*
var images embed.FS

// loadKernels loads the first image that a device accepts: cubin, then PTX.
func loadKernels(files fs.ReadDirFS, major, minor int) (cu.Module, error) {
	all, err := listImages(files)
	if err != nil {
		return cu.Module{}, err
	}
	if len(all) == 0 {
		return cu.Module{}, &driver.Error{Op: "cuda: load kernels", Kind: driver.ErrNotBuilt, Msg: "none are embedded; run `make kernels` and `make build-cuda`"}
	}
	refusals := ""
	for _, im := range candidates(all, major, minor) {
		data, err := fs.ReadFile(files, im.path)
		if err != nil {
			return cu.Module{}, fmt.Errorf("embedded kernels: %w", err)
		}
		mod, err := cu.LoadData(string(data))
		if err == nil {
			return mod, nil
		}
		refusals += fmt.Sprintf("; %s: %v", im.path, wrap(err, "load", ""))
		if im.ptx {
			refusals += " " + ptxLog(string(data))
		}
		if !tryNext(resultCode(err)) {
			break
		}
	}
	return cu.Module{}, &driver.Error{Op: "cuda: load kernels", Kind: driver.ErrKernelImage,
		Msg: fmt.Sprintf("the device has CC %d.%d%s", major, minor, refusals)}
}

// tryNext tells whether a result says that the image is of the wrong kind, rather than that something else is broken.
func tryNext(code int) bool {
	switch code {
	case int(cu.NoBinaryForGpu), int(cu.InvalidImage), int(cu.InvalidPtx), unsupportedPTXVersion:
		return true
	}
	return false
}

type kernel struct {
	name  string
	nargs int
	fn    cu.Function
}

func (k *kernel) Name() string { return k.name }

// Kernel implements driver.Device.
func (d *Device) Kernel(name string, nargs int) (driver.Kernel, error) {
	fn, err := d.module.Function(name)
	if err == nil {
		return &kernel{name, nargs, fn}, nil
	}
	if resultCode(err) != int(cu.NotFound) {
		return nil, wrap(err, "find kernel", name)
	}
	return nil, &driver.Error{Op: "cuda: find kernel", Detail: name, Kind: driver.ErrKernelImage, Msg: "not among the embedded kernels"}
}

// Launch implements driver.Device.
func (d *Device) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	kn, ok := k.(*kernel)
	if !ok || kn.nargs != len(args) {
		return &driver.Error{Op: "cuda: launch", Msg: fmt.Sprintf("%d arguments for a kernel of another device or signature", len(args))}
	}
	s, err := raw(c.Stream)
	if err != nil {
		return err
	}
	params := make([]unsafe.Pointer, len(args))
	for i := range args {
		params[i] = unsafe.Pointer(&args[i])
	}
	err = kn.fn.Launch(c.Grid.X, c.Grid.Y, c.Grid.Z, c.Block.X, c.Block.Y, c.Block.Z, c.SharedBytes, s, params)
	if err != nil {
		return wrap(err, "launch", fmt.Sprintf("%s grid %v block %v shared %d", kn.name, c.Grid, c.Block, c.SharedBytes))
	}
	return nil
}
