package cli

import (
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func (p *program) devicesCommand() *cli.Command {
	return &cli.Command{
		Name:   "devices",
		Usage:  "list what --device can name on this machine, and why not the rest",
		Flags:  []cli.Flag{jsonFlag()},
		Action: p.devices,
	}
}

// deviceJSON is an element of what devices --json prints.
type deviceJSON struct {
	Device    string `json:"device"`
	Available bool   `json:"available"`
	Auto      bool   `json:"auto"` // what --device auto takes
	Name      string `json:"name,omitempty"`
	Reason    string `json:"reason,omitempty"` // why it is not available
	MemTotal  int64  `json:"mem_total,omitempty"`
	MemFree   int64  `json:"mem_free,omitempty"`
	CC        string `json:"compute_capability,omitempty"`
	SMs       int    `json:"sms,omitempty"`
	ClockMHz  int    `json:"clock_mhz,omitempty"`

	Measured []engine.ProductTime `json:"measured,omitempty"` // at earlier starts: what --plan auto goes by
}

func (p *program) devices(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("devices: takes no arguments, found %s", c.Args().First())
	}
	list := append(gpus(), cpuDevice(), emulator())
	for i := range list {
		if list[i].Available {
			list[i].Auto = true
			break
		}
	}
	if c.Bool("json") {
		return p.printJSON(list)
	}
	for _, d := range list {
		switch {
		case !d.Available:
			fmt.Fprintf(p.Out, "%-5s not available: %s\n", d.Device, d.Reason)
		case d.Auto:
			fmt.Fprintf(p.Out, "%-5s %s (what --device auto takes)\n", d.Device, d.Name)
		default:
			fmt.Fprintf(p.Out, "%-5s %s\n", d.Device, d.Name)
		}
		if len(d.Measured) > 0 {
			fmt.Fprintf(p.Out, "      %s\n", timesLine(d.Measured))
		}
	}
	return nil
}

func gpus() []deviceJSON {
	n, err := cuda.Count()
	if err != nil {
		return []deviceJSON{{Device: "0", Reason: reason(err)}}
	}
	list := make([]deviceJSON, n)
	for i := range list {
		list[i] = describe(strconv.Itoa(i), func() (driver.Device, error) { return cuda.Open(i, cuda.Options{}) })
	}
	return list
}

func emulator() deviceJSON {
	return describe(deviceEmu, func() (driver.Device, error) { return emu.Open(emu.Options{}) })
}

func cpuDevice() deviceJSON {
	b := cpu.New()
	defer b.Close()
	return deviceJSON{Device: deviceCPU, Available: true, Name: b.Describe()}
}

// describe opens a device to see that it works, and closes it.
func describe(name string, open func() (driver.Device, error)) deviceJSON {
	d := deviceJSON{Device: name}
	dev, err := open()
	if err != nil {
		d.Reason = reason(err)
		return d
	}
	defer dev.Close()
	info, err := dev.Info()
	if err != nil {
		d.Reason = reason(err)
		return d
	}
	d.Available, d.Name = true, info.String()
	d.MemTotal, d.MemFree, d.SMs, d.ClockMHz = info.MemTotal, info.MemFree, info.SMs, info.ClockMHz
	d.Measured = gpu.KeptTimes(info, cacheDir())
	if info.CCMajor > 0 {
		d.CC = fmt.Sprintf("%d.%d", info.CCMajor, info.CCMinor)
	}
	return d
}
