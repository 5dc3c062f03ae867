package predict

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"sort"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/predict/devices"
)

// Device describes a GPU. Rates are lanes per clock and multiprocessor.
type Device struct {
	Name    string `json:"name"`  // as --device takes it
	Title   string `json:"title"` // for people
	Match   string `json:"match"` // part of the name that the driver reports
	CCMajor int    `json:"cc_major"`
	CCMinor int    `json:"cc_minor"`
	Kernels string `json:"kernels"` // architecture whose compiled kernels it runs

	SMs            int                `json:"sms"`
	ClockMHz       float64            `json:"clock_mhz"`
	IssuePerClk    float64            `json:"issue_per_clk"` // lanes that start an instruction
	Rates          map[string]float64 `json:"rates"`         // by instruction class
	RegistersPerSM int                `json:"registers_per_sm"`
	SharedPerSM    int                `json:"shared_per_sm"` // bytes
	SharedPerBlock int                `json:"shared_per_block"`
	ThreadsPerSM   int                `json:"threads_per_sm"`
	TableConflict  float64            `json:"table_conflict"` // rounds that 32 random reads of shared memory take

	ReadGBps   float64 `json:"read_gbps"`   // 10⁹ bytes per second
	MemTotal   int64   `json:"mem_total"`   // bytes
	MemUsable  int64   `json:"mem_usable"`  // what weights, cache and scratch may take
	LaunchUS   float64 `json:"launch_us"`   // from one launch to the next, at least
	KernelUS   float64 `json:"kernel_us"`   // start and end of a kernel
	TokenUS    float64 `json:"token_us"`    // of a token besides its kernels
	LatencyClk float64 `json:"latency_clk"` // clocks of a load from the second-level cache

	IssueEfficiency  float64 `json:"issue_efficiency"`  // share of the instruction rates that kernels reach
	MemoryEfficiency float64 `json:"memory_efficiency"` // share of ReadGBps that kernels reach

	Sources map[string]string `json:"sources"` // where each number is from: published, derived or assumed
}

// Devices returns all descriptions, by name.
func Devices() ([]*Device, error) {
	files := devices.Files()
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	var all []*Device
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		d := &Device{}
		if err := json.Unmarshal(b, d); err != nil {
			return nil, fmt.Errorf("device description %s: %w", name, err)
		}
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// Find returns the description called name, or an error that lists the names.
func Find(name string) (*Device, error) {
	all, err := Devices()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range all {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return nil, fmt.Errorf("there is no description of a device %q; there are %s", name, strings.Join(names, ", "))
}

// Nearest returns a description for a device that is there: the one that matches its name (exact), or else one of the nearest
// compute capability with this device's multiprocessors and clock. sms and clockMHz may be 0 (unknown).
func Nearest(name string, major, minor, sms, clockMHz int) (d *Device, exact bool, err error) {
	all, err := Devices()
	if err != nil {
		return nil, false, err
	}
	best := -1
	for i, c := range all {
		if strings.Contains(name, c.Match) && (sms == 0 || sms == c.SMs) { // an "RTX 4060 Ti" is no "RTX 4060"
			near := *c
			slow := clockMHz > 0 && math.Abs(float64(clockMHz)-c.ClockMHz) > sameClock*c.ClockMHz
			if slow { // another power mode
				near.ClockMHz = float64(clockMHz)
			}
			return &near, !slow, nil
		}
		if best < 0 || distance(c, major, minor) < distance(all[best], major, minor) {
			best = i
		}
	}
	near := *all[best]
	if sms > 0 && major > 0 {
		scale := float64(sms) / float64(near.SMs)
		if clockMHz > 0 {
			near.ClockMHz = float64(clockMHz)
		}
		near.SMs = sms
		near.ReadGBps *= scale // memory grows with the chip, more or less
	}
	return &near, false, nil
}

// sameClock is the share by which a device's highest clock rate may differ from the described one.
const sameClock = 0.1

func distance(d *Device, major, minor int) int {
	n := 10*(d.CCMajor-major) + d.CCMinor - minor
	return max(n, -n)
}
