// Package predict estimates how long kernels take on a described device, from the instructions of the compiled kernels, the
// device's rates and the bytes moved. What it returns is a prediction and must be shown as one.
//
// A kernel takes as long as the slowest of: reading its bytes, issuing its instructions, and each class of instructions on its
// units, shared-memory reads of code tables counted with their bank conflicts. Instruction limits are reached to a share given in
// the device's description. A kernel's instructions are those of its main loop; what surrounds that is neglected. Not modelled: latencies (beyond "a multiprocessor needs enough warps"), caches, power limits.
package predict

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// kernelCounts is written by bench/sass -json.
//
//go:embed kernels.json
var kernelCounts []byte

const (
	// warpsToFill is how many warps a multiprocessor needs to reach its instruction rate.
	warpsToFill = 16
	// unknownCost is the instructions per product assumed of kernels that were not counted.
	unknownCost = 4
	// wideRounds is the rounds of a shared-memory access of 64 or 128 bits, of which part is broadcast.
	wideRounds = 2
)

// Work is one kernel launch.
type Work struct {
	Kernel   string
	Blocks   int
	Threads  int     // per block
	Shared   int     // dynamic shared memory per block, bytes
	Products float64 // weights × tokens
	Bytes    float64 // read and written in device memory
}

// Cost is a predicted time and what limits it: "memory", "instructions", "shared memory", another unit, or "launch".
type Cost struct {
	Seconds float64
	Bound   string
}

// kernelCount is an entry of kernels.json.
type kernelCount struct {
	Kernel    string             `json:"kernel"`
	Arch      string             `json:"arch"`
	Registers int                `json:"registers"`
	Shared    int                `json:"shared"`
	Weights   float64            `json:"weights"`
	Counts    map[string]float64 `json:"counts"`
}

// Model predicts for one device.
type Model struct {
	// Graph: launches are queued all at once, as a graph, so that the host's pace (LaunchUS) is no limit.
	Graph   bool
	dev     *Device
	kernels map[string]kernelCount
}

// NewModel returns a model of d.
func NewModel(d *Device) (*Model, error) {
	var file struct {
		Kernels []kernelCount `json:"kernels"`
	}
	if err := json.Unmarshal(kernelCounts, &file); err != nil {
		return nil, fmt.Errorf("kernels.json: %w", err)
	}
	m := &Model{dev: d, kernels: map[string]kernelCount{}}
	for _, k := range file.Kernels {
		if k.Arch == d.Kernels {
			m.kernels[k.Kernel] = k
		}
	}
	if len(m.kernels) == 0 {
		return nil, fmt.Errorf("device %s: no kernel was counted for %s", d.Name, d.Kernels)
	}
	return m, nil
}

// Time predicts one launch.
func (m *Model) Time(w Work) Cost {
	d := m.dev
	k := m.kernels[w.Kernel]
	share, fill := m.occupancy(w, k)
	c := Cost{Bound: "memory", Seconds: w.Bytes / (d.ReadGBps * 1e9 * d.MemoryEfficiency * share)}
	perClock := float64(d.SMs) * d.ClockMHz * 1e6 * d.IssueEfficiency * share * fill
	for unit, clocks := range m.clocks(w, k) {
		if t := clocks / perClock; t > c.Seconds || t == c.Seconds && unit < c.Bound {
			c = Cost{t, unit}
		}
	}
	c.Seconds += d.KernelUS * 1e-6
	if m.Graph {
		if c.Seconds < 2*d.KernelUS*1e-6 {
			c.Bound = "launch"
		}
		return c
	}
	if launch := math.Max(d.LaunchUS, 2*d.KernelUS) * 1e-6; c.Seconds < launch {
		c.Bound = "launch"
		c.Seconds = math.Max(c.Seconds, d.LaunchUS*1e-6)
	}
	return c
}

// IssueSeconds is how long the device takes at least to start the instructions of a launch's main loop, all schedulers always busy.
func (m *Model) IssueSeconds(w Work) float64 {
	return m.clocks(w, m.kernels[w.Kernel])["instructions"] / (float64(m.dev.SMs) * m.dev.ClockMHz * 1e6)
}

// occupancy returns the share of multiprocessors that have work, and how well warps fill those.
func (m *Model) occupancy(w Work, k kernelCount) (share, fill float64) {
	d := m.dev
	blocks, threads := max(w.Blocks, 1), max(w.Threads, 32)
	resident := d.ThreadsPerSM / threads
	if k.Registers > 0 {
		resident = min(resident, d.RegistersPerSM/(k.Registers*threads))
	}
	if s := w.Shared + k.Shared; s > 0 {
		resident = min(resident, d.SharedPerSM/s)
	}
	perSM := min(max(resident, 1), (blocks+d.SMs-1)/d.SMs)
	share = math.Min(1, float64(blocks)/float64(d.SMs))
	fill = math.Min(1, float64(perSM*threads/32)/warpsToFill)
	return share, fill
}

// clocks returns the clocks that one multiprocessor would need alone, by unit.
func (m *Model) clocks(w Work, k kernelCount) map[string]float64 {
	d := m.dev
	if w.Products == 0 {
		return nil
	}
	if k.Weights == 0 {
		return map[string]float64{"instructions": w.Products * unknownCost / d.IssuePerClk}
	}
	passes := w.Products / k.Weights
	units, all := map[string]float64{}, 0.0
	for class, n := range k.Counts {
		all += n
		n *= passes
		switch class {
		case "int", "shift": // one unit, in which shifts and comparisons may take two rounds
			units["integers"] += n / d.Rates[class]
		case "shared":
			if decodes(w.Kernel) {
				n *= d.TableConflict
			}
			units["shared memory"] += n / d.Rates["shared"]
		case "shared_wide":
			units["shared memory"] += n * wideRounds / d.Rates["shared"]
		default:
			if rate := d.Rates[class]; rate > 0 {
				units[class] += n / rate
			}
		}
	}
	units["instructions"] = passes * all / d.IssuePerClk
	return units
}

// decodes tells whether a kernel looks codes up in a table, at random addresses of shared memory.
func decodes(kernel string) bool {
	return strings.HasPrefix(kernel, "gemv_fused_") || strings.HasPrefix(kernel, "decode_chunks_")
}
