package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// Names that --device takes besides the numbers of GPUs.
const (
	deviceAuto = "auto"
	deviceCPU  = "cpu"
	deviceEmu  = "emu"
)

// openBackend returns the backend for --device. auto takes the first GPU, or the CPU with the reason on standard error;
// a device that is asked for by name and cannot be used is an error.
func (p *program) openBackend(device string) (engine.Backend, error) {
	switch device {
	case deviceCPU:
		return cpu.New(), nil
	case deviceAuto:
		dev, err := cuda.Open(0, cuda.Options{Notice: p.notice})
		if err != nil {
			p.notef("no GPU is used: %s", reason(err))
			return cpu.New(), nil
		}
		return gpu.New(dev), nil
	}
	dev, err := p.openDevice(device)
	if err != nil {
		return nil, err
	}
	return gpu.New(dev), nil
}

// notice prints what a device says about itself.
func (p *program) notice(s string) { p.notef("%s", s) }

// openDevice opens the emulator or a GPU by number.
func (p *program) openDevice(device string) (driver.Device, error) {
	if device == deviceEmu {
		dev, err := emu.Open(emu.Options{})
		if err != nil {
			return nil, fmt.Errorf("--device emu: %w", err)
		}
		return dev, nil
	}
	n, err := strconv.Atoi(device)
	if err != nil || n < 0 {
		return nil, usagef("--device %s: expected auto, cpu, emu or the number of a GPU", device)
	}
	dev, err := cuda.Open(n, cuda.Options{Notice: p.notice})
	if err != nil {
		return nil, fmt.Errorf("--device %d: %s (--device cpu computes without a GPU; \"ellm-gpu devices\" lists what there is)",
			n, reason(err))
	}
	return dev, nil
}

// reason words a driver's error without the operation in front.
func reason(err error) string {
	var e *driver.Error
	if !errors.As(err, &e) || e.Kind == nil {
		return err.Error()
	}
	return strings.TrimSuffix(e.Kind.Error()+": "+e.Msg, ": ")
}
