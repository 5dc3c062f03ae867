package gpu

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
)

// deviceTimes are the times of products that were measured on a device, as they are kept for its next start: as long as device,
// driver and kernels stay the same.
type deviceTimes struct {
	Device   string               `json:"device"` // name
	CC       string               `json:"compute_capability"`
	SMs      int                  `json:"sms"`
	ClockMHz int                  `json:"clock_mhz"`
	Driver   string               `json:"driver"`
	Kernels  string               `json:"kernels"` // hash of the kernel image
	Times    []engine.ProductTime `json:"times"`
}

// Bounds of a file of times, of which nothing else is trusted either.
const (
	maxTimesBytes = 1 << 20
	maxTimes      = 256
)

func newDeviceTimes(info driver.Info) deviceTimes {
	return deviceTimes{Device: info.Name, CC: fmt.Sprintf("%d.%d", info.CCMajor, info.CCMinor), SMs: info.SMs,
		ClockMHz: info.ClockMHz, Driver: info.Driver, Kernels: info.Build}
}

// identity is d without its times.
func (d deviceTimes) identity() string {
	return fmt.Sprintf("%s\n%s\n%d\n%d\n%s\n%s", d.Device, d.CC, d.SMs, d.ClockMHz, d.Driver, d.Kernels)
}

// path returns d's file in a folder.
func (d deviceTimes) path(dir string) string {
	hash := sha256.Sum256([]byte(d.identity()))
	return filepath.Join(dir, fmt.Sprintf("products-%x.json", hash[:8]))
}

// KeptTimes returns the times that were kept in folder dir for a device. A file that cannot be read, or is another device's, has
// none.
func KeptTimes(info driver.Info, dir string) []engine.ProductTime {
	want := newDeviceTimes(info)
	if dir == "" || want.Kernels == "" {
		return nil
	}
	f, err := os.Open(want.path(dir))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTimesBytes+1))
	var have deviceTimes
	if err != nil || len(b) > maxTimesBytes || json.Unmarshal(b, &have) != nil || have.identity() != want.identity() ||
		len(have.Times) > maxTimes {
		return nil
	}
	for i := range have.Times {
		if !plausible(have.Times[i]) {
			return nil
		}
		have.Times[i].Kept = true
	}
	return have.Times
}

// keepTimes adds times to those that are kept for a device. Where they cannot be kept, the next start measures again.
func keepTimes(info driver.Info, dir string, times []engine.ProductTime) {
	all := newDeviceTimes(info)
	if dir == "" || all.Kernels == "" {
		return
	}
	all.Times = KeptTimes(info, dir)
	fresh := false
	for _, t := range times {
		if !t.Kept {
			fresh = true
			all.Times = append(all.Times, t)
		}
	}
	if !fresh || len(all.Times) > maxTimes {
		return
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil || os.MkdirAll(dir, 0o700) != nil {
		return
	}
	_ = outfile.WriteFile(all.path(dir), append(b, '\n')) // a cache: an error means measuring again
}
