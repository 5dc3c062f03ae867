package gpu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// clocked is a device whose kernels compute as the emulator's, but take times that the test says.
type clocked struct {
	driver.Device
	takes func(kernel string) time.Duration
	now   time.Duration
	timed int    // events that were read
	build string // of the kernels
}

func (c *clocked) Info() (driver.Info, error) {
	info, err := c.Device.Info()
	info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz = "NVIDIA GeForce RTX 4090", 8, 9, 128, 2520
	info.MemTotal, info.MemFree, info.Driver, info.Build = 24<<30, 20<<30, "12.4", c.build
	return info, err
}

// plainStream is the emulator's own stream.
func plainStream(s driver.Stream) driver.Stream {
	if c, ok := s.(clockedStream); ok {
		return c.Stream
	}
	return s
}

func (c *clocked) Launch(k driver.Kernel, l driver.LaunchConfig, args ...uint64) error {
	c.now += c.takes(k.Name())
	l.Stream = plainStream(l.Stream)
	return c.Device.Launch(k, l, args...)
}

func (c *clocked) CopyHtoDOn(s driver.Stream, dst driver.DevicePtr, src []byte) error {
	return c.Device.CopyHtoDOn(plainStream(s), dst, src)
}

func (c *clocked) Capture(s driver.Stream, f func() error) (driver.Graph, error) {
	g, err := c.Device.Capture(plainStream(s), f)
	return clockedGraph{g}, err
}

func (c *clocked) NewEvent() (driver.Event, error) {
	e, err := c.Device.NewEvent()
	return &clockedEvent{Event: e, c: c}, err
}

func (c *clocked) NewStream() (driver.Stream, error) {
	s, err := c.Device.NewStream()
	return clockedStream{s}, err
}

type clockedGraph struct{ driver.Graph }

func (g clockedGraph) Launch(s driver.Stream) error { return g.Graph.Launch(plainStream(s)) }

type clockedStream struct{ driver.Stream }

func (s clockedStream) Wait(e driver.Event) error { return s.Stream.Wait(e.(*clockedEvent).Event) }

// clockedEvent reads the clock when it is recorded.
type clockedEvent struct {
	driver.Event
	c  *clocked
	at time.Duration
}

func (e *clockedEvent) Record(s driver.Stream) error {
	e.at = e.c.now
	return e.Event.Record(plainStream(s))
}

func (e *clockedEvent) Since(start driver.Event) (time.Duration, error) {
	e.c.timed++
	return e.at - start.(*clockedEvent).at, nil
}

// fusedTakes makes products with coded matrices take a time, all others 40 µs.
func fusedTakes(fused time.Duration) func(string) time.Duration {
	return func(kernel string) time.Duration {
		if strings.HasPrefix(kernel, "gemv_fused") {
			return fused
		}
		return 40 * time.Microsecond
	}
}

// loadClocked loads a model and returns its plan and how many times were measured.
func loadClocked(t *testing.T, fused time.Duration, opt engine.LoadOptions, build string) (engine.MemoryPlan, int) {
	t.Helper()
	m := newUniformModel(t, "llama", 1)
	dev := &clocked{Device: openEmu(t), takes: fusedTakes(fused), build: build}
	b := New(dev)
	opt.NCtx = 40
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
	plan := b.Memory()
	_, err := b.Forward(context.Background(), engine.SingleRun(prompt(3), 0, 1))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	return plan, dev.timed
}

// On a device whose fused kernels are slower, or faster, than its description says, plan auto goes by what it measures.
func TestAutoPlanGoesByWhatItMeasures(t *testing.T) {
	opt := engine.LoadOptions{Plan: engine.PlanAuto, Measure: true}
	plan, timed := loadClocked(t, 400*time.Microsecond, opt, "")
	assert.Equal(t, engine.PlanResident, plan.Plan, plan.Reason)
	assert.Positive(t, timed)
	require.NotEmpty(t, plan.Measured)
	kinds := map[bool]int{}
	for _, p := range plan.Measured {
		kinds[p.Coded]++
		assert.InDelta(t, map[bool]float64{true: 400, false: 40}[p.Coded], p.MeasuredUS, 1e-6, p.Kernel)
		assert.Positive(t, p.PredictedUS)
		assert.False(t, p.Kept)
	}
	assert.Len(t, kinds, 2, "coded and decoded")

	plan, _ = loadClocked(t, 4*time.Microsecond, opt, "")
	assert.Equal(t, engine.PlanFused, plan.Plan, plan.Reason)
	assert.Contains(t, plan.Reason, "measured")
}

// A clock that stands still, or a device that takes a thousand times as long as any, is no reason not to start.
func TestTimesThatCannotBeAreLeftOut(t *testing.T) {
	for _, fused := range []time.Duration{0, time.Second} {
		plan, timed := loadClocked(t, fused, engine.LoadOptions{Plan: engine.PlanAuto, Measure: true}, "")
		assert.Positive(t, timed)
		for _, p := range plan.Measured {
			assert.False(t, p.Coded, "%s in %g µs", p.Kernel, p.MeasuredUS)
		}
	}
}

// Nothing is timed where a plan is named, or timing is not wanted.
func TestNamedPlansAreNotTimed(t *testing.T) {
	for _, opt := range []engine.LoadOptions{{Plan: engine.PlanFused, Measure: true}, {Plan: engine.PlanResident, Measure: true},
		{Plan: engine.PlanHybrid, Measure: true}, {Plan: engine.PlanAuto}} {
		plan, timed := loadClocked(t, 400*time.Microsecond, opt, "")
		assert.Zero(t, timed, opt.Plan)
		assert.Empty(t, plan.Measured, opt.Plan)
	}
}

// Times are kept for the next start with the same device, driver and kernels; other files are ignored.
func TestTimesAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	opt := engine.LoadOptions{Plan: engine.PlanAuto, Measure: true, CacheDir: dir}
	first, timed := loadClocked(t, 400*time.Microsecond, opt, "one")
	require.Positive(t, timed)
	again, timed := loadClocked(t, 4*time.Microsecond, opt, "one") // faster by then, but that is not measured
	assert.Zero(t, timed)
	assert.Equal(t, first.Plan, again.Plan)
	require.Len(t, again.Measured, len(first.Measured))
	for i, p := range again.Measured {
		assert.True(t, p.Kept)
		assert.Equal(t, first.Measured[i].MeasuredUS, p.MeasuredUS)
	}
	_, timed = loadClocked(t, 4*time.Microsecond, opt, "two")
	assert.Positive(t, timed, "other kernels")

	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	for what, text := range map[string]string{"empty": "", "cut off": string(whole[:len(whole)/2]),
		"another device": strings.Replace(string(whole), "4090", "3090", 1),
		"a wild number":  strings.Replace(string(whole), `"measured_us": `, `"measured_us": -`, 1),
		"too long":       string(whole) + strings.Repeat(" ", maxTimesBytes)} {
		for _, f := range files {
			require.NoError(t, os.WriteFile(f, []byte(text), 0o600))
		}
		plan, timed := loadClocked(t, 400*time.Microsecond, opt, "one")
		assert.Positive(t, timed, what)
		assert.Equal(t, engine.PlanResident, plan.Plan, what)
	}
}

// Where nothing can be kept, that is no error.
func TestTimesNeedNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	opt := engine.LoadOptions{Plan: engine.PlanAuto, Measure: true, CacheDir: dir}
	_, timed := loadClocked(t, 400*time.Microsecond, opt, "one")
	assert.Positive(t, timed)
}
