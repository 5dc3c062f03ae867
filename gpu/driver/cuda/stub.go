//go:build !cuda

// Package cuda runs kernels on a CUDA device; this program was built without it (build tag cuda).
package cuda

import "github.com/ellm-gpu/ellm-gpu/gpu/driver"

func notBuilt() error {
	return &driver.Error{Op: "cuda", Kind: driver.ErrNotBuilt, Msg: "this program was built without CUDA; run `make build-cuda`"}
}

// Options of Open.
type Options struct {
	Notice func(string) // unused here
}

// Count returns an error that unwraps to driver.ErrNotBuilt.
func Count() (int, error) { return 0, notBuilt() }

// Open returns an error that unwraps to driver.ErrNotBuilt.
func Open(int, Options) (driver.Device, error) { return nil, notBuilt() }
