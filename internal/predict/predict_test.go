package predict

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/predict/devices"
)

// Every number of a description says where it is from.
func TestDescriptionsNameTheirSources(t *testing.T) {
	all, err := Devices()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 5)
	for _, d := range all {
		b, err := devices.Files().ReadFile(d.Name + ".json")
		require.NoError(t, err)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(b, &fields))
		for name, v := range fields {
			n, number := v.(float64)
			_, table := v.(map[string]any)
			if name == "cc_major" || name == "cc_minor" || name == "sources" || !number && !table {
				continue
			}
			assert.NotEmpty(t, d.Sources[name], "%s: %s has no source", d.Name, name)
			assert.True(t, table || n > 0, "%s: %s", d.Name, name)
		}
		for source := range d.Sources {
			assert.Contains(t, fields, source, d.Name)
		}
		assert.LessOrEqual(t, d.MemUsable, d.MemTotal, d.Name)
		_, err = NewModel(d)
		assert.NoError(t, err)
	}
}

func TestFind(t *testing.T) {
	d, err := Find("nano")
	require.NoError(t, err)
	assert.Equal(t, 1, d.SMs)
	_, err = Find("toaster")
	assert.ErrorContains(t, err, "nano")
}

func TestNearest(t *testing.T) {
	d, exact, err := Nearest("NVIDIA H200", 9, 0, 132, 1980)
	require.NoError(t, err)
	assert.True(t, exact)
	assert.Equal(t, "h200", d.Name)
	d, exact, err = Nearest("NVIDIA GeForce RTX 4070", 8, 9, 46, 2475)
	require.NoError(t, err)
	assert.False(t, exact)
	assert.Equal(t, 46, d.SMs)
	assert.Equal(t, 2475.0, d.ClockMHz)
	d, exact, err = Nearest("NVIDIA GeForce RTX 4060 Ti", 8, 9, 34, 2535)
	require.NoError(t, err)
	assert.False(t, exact, "part of its name is another's")
	assert.Equal(t, 34, d.SMs)
	d, exact, err = Nearest("NVIDIA Tegra X1", 5, 3, 1, 640)
	require.NoError(t, err)
	assert.False(t, exact, "the board is in mode 5W")
	assert.Equal(t, "nano", d.Name)
	assert.Equal(t, 640.0, d.ClockMHz)
	_, exact, err = Nearest("NVIDIA Tegra X1", 5, 3, 1, 921)
	require.NoError(t, err)
	assert.True(t, exact)
	d, _, err = Nearest("", 0, 0, 0, 0)
	require.NoError(t, err)
	assert.Equal(t, "nano", d.Name)
}

// A device and a kernel with round numbers, whose times can be worked out by hand.
func roundModel() *Model {
	d := &Device{SMs: 2, ClockMHz: 1000, IssuePerClk: 128, Rates: map[string]float64{"int": 128, "shift": 64, "half": 128,
		"shared": 32}, RegistersPerSM: 65536,
		SharedPerSM: 65536, ThreadsPerSM: 2048, TableConflict: 3, ReadGBps: 10, LaunchUS: 1, KernelUS: 1, LatencyClk: 100,
		IssueEfficiency: 1, MemoryEfficiency: 1}
	counts := map[string]float64{"int": 8, "shift": 2, "half": 2, "shared": 4}
	return &Model{dev: d, kernels: map[string]kernelCount{
		"gemv_x":       {Registers: 32, Weights: 4, Counts: counts},
		"gemv_fused_x": {Registers: 32, Weights: 4, Counts: counts},
		"gemv_big":     {Registers: 255, Shared: 40000, Weights: 4, Counts: counts},
	}}
}

func TestTime(t *testing.T) {
	const n = 1 << 30
	m := roundModel()
	seconds := func(w Work) float64 { return m.Time(w).Seconds }
	perSM := float64(n) / 4 / 2e9 // seconds of one pass per clock
	w := Work{Kernel: "gemv_x", Blocks: 100, Threads: 256, Items: []WorkItem{{Products: n}}}
	assert.InEpsilon(t, 1e-6+perSM*16.0/128, seconds(w), 1e-9, "as many clocks to issue as for shared memory")
	w.Kernel, w.Items[0].Tables = "gemv_fused_x", true
	assert.InEpsilon(t, 1e-6+perSM*4*3/32, seconds(w), 1e-9, "tables are read at random")
	assert.Equal(t, "shared memory", m.Time(w).Bound)

	w.Items[0].Bytes = 100e9
	assert.Equal(t, Cost{10 + 1e-6, "memory"}, m.Time(w))
	w.Blocks = 1
	assert.InEpsilon(t, 20, seconds(w), 1e-6, "half of the device is idle")

	w = Work{Kernel: "gemv_big", Blocks: 100, Threads: 256, Items: []WorkItem{{Products: n}}}
	assert.InEpsilon(t, 2*perSM*16.0/128, seconds(w), 1e-4, "one block fits: 8 of 16 warps")
	w.Items = append(w.Items, WorkItem{Kernel: "gemv_x", Products: n})
	assert.InEpsilon(t, 4*perSM*16.0/128, seconds(w), 1e-4, "another kernel's loop in the same launch, as full as it")
	w = Work{Kernel: "gemv_new", Blocks: 100, Threads: 512, Items: []WorkItem{{Products: n}}}
	assert.InEpsilon(t, float64(n)*unknownCost/128/2e9, seconds(w), 1e-4, "not counted")
	assert.Equal(t, Cost{1e-6, "launch"}, m.Time(Work{Kernel: "add", Blocks: 1, Threads: 256}))
}

// What lies around the main loop counts, too, and so do loads that wait for each other.
func TestTimeAroundTheMainLoop(t *testing.T) {
	m := roundModel()
	k := m.kernels["gemv_x"]
	k.Around = map[string]float64{"int": 64}
	m.kernels["gemv_x"] = k
	w := Work{Kernel: "gemv_x", Blocks: 100, Threads: 256, Items: []WorkItem{{Products: 4e6, Runs: 1e6, Other: 32e6}}}
	assert.InEpsilon(t, 1e-6+(1e6*16+1e6*64+32e6)/128/2e9, m.Time(w).Seconds, 1e-9)
	w = Work{Kernel: "gemv_x", Blocks: 40, Threads: 256, Rounds: 30, Tail: 5}
	assert.InEpsilon(t, 1e-6+(3*30+5)*100/1e9, m.Time(w).Seconds, 1e-9, "8 blocks fit a multiprocessor: three waves")
	assert.Equal(t, "latency", m.Time(w).Bound)
}

// More work never takes less time, on any device.
func TestTimeGrowsWithWork(t *testing.T) {
	all, err := Devices()
	require.NoError(t, err)
	for _, d := range all {
		m, err := NewModel(d)
		require.NoError(t, err)
		for name := range m.kernels {
			last := 0.0
			for n := 1e3; n < 1e10; n *= 10 {
				s := m.Time(Work{Kernel: name, Blocks: 1000, Threads: 256, Items: []WorkItem{{Products: n, Bytes: n / 2, Runs: n / 100,
					Other: n / 10}}, Rounds: 10}).Seconds
				require.GreaterOrEqual(t, s, last, "%s %s", d.Name, name)
				require.False(t, math.IsInf(s, 0) || math.IsNaN(s), "%s %s", d.Name, name)
				last = s
			}
		}
	}
}

func TestChooseDecoded(t *testing.T) {
	c := []Choice{{Extra: 100, Saved: 1}, {Extra: 10, Saved: 0.5}, {Extra: -5, Saved: 0}, {Extra: 1, Saved: -1},
		{Extra: 60, Saved: 0.9}}
	assert.Equal(t, []bool{false, false, true, false, false}, ChooseDecoded(c, 0))
	assert.Equal(t, []bool{false, true, true, false, false}, ChooseDecoded(c, 5), "what another gives back can be spent")
	assert.Equal(t, []bool{false, true, true, false, true}, ChooseDecoded(c, 100))
	assert.Equal(t, []bool{true, true, true, false, true}, ChooseDecoded(c, math.MaxInt64/2))
}

// The choice fits, wastes nothing that would still fit, and saves at least half of what the best one does or lacks room for one
// more.
func TestChooseDecodedAgainstAllChoices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c := make([]Choice, 8)
		for i := range c {
			c[i] = Choice{Extra: rng.Int64N(100) + 1, Saved: rng.Float64()}
		}
		spare := rng.Int64N(400)
		got, used, saved, largest := ChooseDecoded(c, spare), int64(0), 0.0, 0.0
		for i, yes := range got {
			if yes {
				used, saved = used+c[i].Extra, saved+c[i].Saved
			}
			if c[i].Extra <= spare {
				largest = math.Max(largest, c[i].Saved)
			}
		}
		require.LessOrEqual(t, used, spare)
		best := 0.0
		for set := range 1 << len(c) {
			var extra int64
			s := 0.0
			for i := range c {
				if set>>i&1 == 1 {
					extra, s = extra+c[i].Extra, s+c[i].Saved
				}
			}
			if extra <= spare {
				best = math.Max(best, s)
			}
		}
		require.LessOrEqual(t, saved, best+1e-9)
		require.GreaterOrEqual(t, saved+largest, best-1e-9, "greedy by density is at most one item away from the best")
		for i, yes := range got {
			require.True(t, yes || used+c[i].Extra > spare, "item %d would still fit", i)
		}
	}
}
