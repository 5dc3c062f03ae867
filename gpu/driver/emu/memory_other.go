//go:build !linux

package emu

import (
	"os"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

type memory struct {
	file  *os.File
	bytes []byte
}

func newMemory(int64) (*memory, error) {
	return nil, &driver.Error{Op: "emulator", Kind: driver.ErrNotBuilt, Msg: "it needs Linux"}
}

func (m *memory) drop(off, n int64) {}
func (m *memory) close() error      { return nil }
