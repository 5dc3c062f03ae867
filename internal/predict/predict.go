// Package predict estimates how long kernels take on a described device, from the instructions of the compiled kernels, the
// device's rates and the bytes moved. What it returns is a prediction and must be shown as one.
//
// A kernel takes as long as the slowest of: reading its bytes, issuing its instructions, and each class of instructions on its
// units, shared-memory reads of code tables counted with their bank conflicts. Instruction limits are reached to a share given in
// the device's description. A kernel's instructions are those of its main loop, those that lead from one run of that loop to the
// next (a row's end and beginning), and some that callers count. Where little is to be done, loads that depend on each other take
// the time. Not modelled: caches, power limits.
package predict

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
)

// kernelCounts is written by bench/sass -json.
//
//go:embed kernels.json
var kernelCounts []byte

const (
	// warpsToFill is how many warps a multiprocessor needs to reach its instruction rate: four for each of its schedulers, so that
	// one has an instruction whose operands are there. Assumed.
	warpsToFill = 16
	// tensorWarpsToFill is likewise for kernels on tensor cores, whose warps have 16 products or more under way that do not depend
	// on each other: while one warp of a scheduler multiplies, another loads and converts. Assumed.
	tensorWarpsToFill = 8
	// unknownCost is the instructions per product assumed of kernels that were not counted.
	unknownCost = 4
	// wideRounds is the rounds of a shared-memory access of 64 or 128 bits, of which part is broadcast.
	wideRounds = 2
)

// Work is one kernel launch.
type Work struct {
	Kernel  string
	Blocks  int
	Threads int // per block
	Shared  int // dynamic shared memory per block, bytes
	Items   []WorkItem
	Rounds  float64 // loads that a block makes one after the other, besides those of its items
	Tail    float64 // likewise, of the last block after all others
}

// WorkItem is a launch's work with one matrix, or all of it.
type WorkItem struct {
	Tensor   string  // "" = none
	Kernel   string  // that does the same alone, where a launch serves several kinds of matrices; "" = the launch's
	Products float64 // weights × tokens
	Bytes    float64 // read and written in device memory
	Runs     float64 // of the main loop, counted by lane
	Tables   bool    // codes are looked up in tables, at random addresses of shared memory
	Other    float64 // instructions beyond the main loop and the way back to it, counted by lane
}

// Products returns weights × tokens of all items.
func (w *Work) Products() float64 {
	n := 0.0
	for _, t := range w.Items {
		n += t.Products
	}
	return n
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
	Around    map[string]float64 `json:"around"` // from the end of the main loop to its next beginning
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
	c, longest := Cost{Bound: "launch"}, 0.0
	for _, t := range w.Items {
		part := m.ItemTime(w, t)
		c.Seconds += part.Seconds
		if part.Seconds > longest {
			longest, c.Bound = part.Seconds, part.Bound
		}
	}
	resident, _ := m.resident(w)
	waves := math.Ceil(float64(max(w.Blocks, 1)) / float64(resident*d.SMs))
	if t := waves * w.Rounds * m.roundSeconds(); t > c.Seconds {
		c = Cost{t, "latency"}
	}
	c.Seconds += d.KernelUS*1e-6 + m.TailSeconds(w)
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

// TailSeconds is what the last block of a launch takes after all others.
func (m *Model) TailSeconds(w Work) float64 { return w.Tail * m.roundSeconds() }

// roundSeconds is how long a load takes on which the next depends.
func (m *Model) roundSeconds() float64 { return m.dev.LatencyClk / (m.dev.ClockMHz * 1e6) }

// ItemTime predicts an item of w, the launch itself left out.
func (m *Model) ItemTime(w Work, t WorkItem) Cost {
	d := m.dev
	share, fill := m.occupancy(w)
	c := Cost{Bound: "memory", Seconds: t.Bytes / (d.ReadGBps * 1e9 * d.MemoryEfficiency * share)}
	perClock := float64(d.SMs) * d.ClockMHz * 1e6 * d.IssueEfficiency * share * fill
	for unit, clocks := range m.clocks(w, t) {
		if s := clocks / perClock; s > c.Seconds || s == c.Seconds && unit < c.Bound {
			c = Cost{s, unit}
		}
	}
	return c
}

// IssueSeconds is how long the device takes at least to start the instructions of a launch, all schedulers always busy.
func (m *Model) IssueSeconds(w Work) float64 {
	clocks := 0.0
	for _, t := range w.Items {
		clocks += m.clocks(w, t)["instructions"]
	}
	return clocks / (float64(m.dev.SMs) * m.dev.ClockMHz * 1e6)
}

// resident returns how many blocks of w a multiprocessor holds at a time, and the warps of those that it gets.
func (m *Model) resident(w Work) (blocks int, warps float64) {
	d, k := m.dev, m.kernels[w.Kernel]
	threads := max(w.Threads, 32)
	blocks = d.ThreadsPerSM / threads
	if k.Registers > 0 {
		blocks = min(blocks, d.RegistersPerSM/(k.Registers*threads))
	}
	if s := w.Shared + k.Shared; s > 0 {
		blocks = min(blocks, d.SharedPerSM/s)
	}
	blocks = max(blocks, 1)
	perSM := min(blocks, (max(w.Blocks, 1)+d.SMs-1)/d.SMs)
	return blocks, float64(perSM * threads / 32)
}

// occupancy returns the share of multiprocessors that have work, and how well warps fill those.
func (m *Model) occupancy(w Work) (share, fill float64) {
	_, warps := m.resident(w)
	enough := float64(warpsToFill)
	if m.kernels[w.Kernel].Counts["tensor"] > 0 {
		enough = tensorWarpsToFill
	}
	return math.Min(1, float64(max(w.Blocks, 1))/float64(m.dev.SMs)), math.Min(1, warps/enough)
}

// clocks returns the clocks that one multiprocessor would need alone for an item, by unit.
func (m *Model) clocks(w Work, t WorkItem) map[string]float64 {
	d := m.dev
	name := t.Kernel
	if name == "" {
		name = w.Kernel
	}
	k := m.kernels[name]
	units := map[string]float64{"instructions": t.Other}
	if k.Weights > 0 {
		m.addClocks(units, k.Counts, t.Products/k.Weights, t.Tables)
		m.addClocks(units, k.Around, t.Runs, false)
	} else {
		units["instructions"] += t.Products * unknownCost
	}
	units["instructions"] /= d.IssuePerClk
	return units
}

// addClocks adds those of `times` passes through some instructions; "instructions" get their number. random: shared memory is
// read at random.
func (m *Model) addClocks(units, counts map[string]float64, times float64, random bool) {
	d := m.dev
	for class, n := range counts {
		n *= times
		units["instructions"] += n
		switch class {
		case "int", "shift": // one unit, in which shifts and comparisons may take two rounds
			units["integers"] += n / d.Rates[class]
		case "shared":
			if random {
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
}
