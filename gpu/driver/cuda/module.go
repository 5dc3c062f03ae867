//go:build cuda

package cuda

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"gorgonia.org/cu"
)

// images are the compiled kernels, each compressed: a program of a board carries those of every GPU. `make kernels` puts them
// there. Without them the folder holds only .keep.
//
//go:embed kernels/*
var images embed.FS

// modules are the kernels of one image. Machine code is one module, loaded when the device is opened. Of PTX every kernel is a
// module, compiled when it is used first.
type modules struct {
	image  image
	hash   string // of the image
	ptx    ptxModule
	loaded []cu.Module
	found  map[string]cu.Function
}

// loadImage reads an image; machine code is loaded at once.
func loadImage(files fs.ReadDirFS, im image) (*modules, error) {
	data, err := im.read(files)
	if err != nil {
		return nil, fmt.Errorf("embedded kernels: %w", err)
	}
	m := &modules{image: im, hash: fmt.Sprintf("%x", sha256.Sum256(data)), found: map[string]cu.Function{}}
	if im.ptx {
		m.ptx = splitPTX(string(data))
		return m, nil
	}
	return m, m.load(string(data))
}

func (m *modules) load(data string) error {
	mod, err := cu.LoadData(data)
	if err != nil {
		words := ""
		if m.image.ptx {
			words = ptxLog(data)
		}
		return wrap(err, "load", strings.TrimSpace(m.image.name()+" "+words))
	}
	m.loaded = append(m.loaded, mod)
	return nil
}

// has tells whether the image has a kernel, where that is known without compiling it.
func (m *modules) has(name string) bool {
	_, ok := m.ptx.kernels[name]
	return ok || !m.image.ptx
}

// function finds a kernel. Of PTX it is compiled if it is new.
func (m *modules) function(name string) (cu.Function, error) {
	if fn, ok := m.found[name]; ok {
		return fn, nil
	}
	missing := &driver.Error{Op: "cuda: find kernel", Detail: name, Kind: driver.ErrKernelImage,
		Msg: "not among the kernels of " + m.image.name()}
	if !m.has(name) {
		return cu.Function{}, missing
	}
	if m.image.ptx {
		if err := m.load(m.ptx.module(name)); err != nil {
			return cu.Function{}, err
		}
	}
	fn, err := m.loaded[len(m.loaded)-1].Function(name)
	switch {
	case err == nil:
		m.found[name] = fn
		return fn, nil
	case resultCode(err) == int(cu.NotFound):
		return cu.Function{}, missing
	}
	return cu.Function{}, wrap(err, "find kernel", name)
}

func (m *modules) unload() error {
	var first error
	for i := range m.loaded {
		if err := m.loaded[i].Unload(); err != nil && first == nil {
			first = wrap(err, "unload kernels", m.image.name())
		}
	}
	m.loaded = nil
	return first
}

type kernel struct {
	name  string
	nargs int
	fn    cu.Function // zero: PTX that is not compiled yet
}

func (k *kernel) Name() string { return k.name }

// Kernel implements driver.Device. A kernel of PTX is compiled when it is launched first, which takes a Jetson Nano a second or
// more.
func (d *Device) Kernel(name string, nargs int) (driver.Kernel, error) {
	k := &kernel{name: name, nargs: nargs}
	if d.modules.image.ptx && d.modules.has(name) {
		return k, nil
	}
	var err error
	k.fn, err = d.modules.function(name)
	return k, err
}

// Launch implements driver.Device.
func (d *Device) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	kn, ok := k.(*kernel)
	if !ok || kn.nargs != len(args) {
		return &driver.Error{Op: "cuda: launch", Msg: fmt.Sprintf("%d arguments for a kernel of another device or signature",
			len(args))}
	}
	s, err := raw(c.Stream)
	if err != nil {
		return err
	}
	if kn.fn == (cu.Function{}) {
		if kn.fn, err = d.modules.function(kn.name); err != nil {
			return err
		}
	}
	if d.rehearsing { // what will be captured: only compiled, which must not happen during the capture
		return nil
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
