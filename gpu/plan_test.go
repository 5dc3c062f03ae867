package gpu

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func itoa(n int) string { return strconv.Itoa(n) }

// jetsonNano is what a Jetson Nano (4 GB) without a desktop reports: its GPU shares the memory with the system, which keeps about
// 0.4 GB.
func jetsonNano() driver.Info {
	const MiB = 1 << 20
	return driver.Info{Backend: "cuda", Name: "Jetson Nano", CCMajor: 5, CCMinor: 3, SMs: 1, ClockMHz: 921,
		MemTotal: 3963 * MiB, MemFree: 3563 * MiB, SharedPerBlock: 48 << 10}
}

// The plan is announced before anything is allocated, and is what is then allocated.
func TestPlanIsAnnouncedAndKept(t *testing.T) {
	m := newTinyModel(t, "llama")
	for _, plan := range bothPlans {
		s := newSpy(openEmu(t))
		b := New(s)
		var announced engine.MemoryPlan
		var done, total int64
		err := b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: plan, NCtx: 40,
			Announce: func(p engine.MemoryPlan) {
				announced = p
				assert.Zero(t, s.allocs, "allocated before the announcement")
			},
			Progress: func(d, n int64) { assert.Greater(t, d, done); done, total = d, n }})
		require.NoError(t, err)
		assert.Equal(t, announced, b.Memory())
		assert.Equal(t, plan, announced.Plan)
		assert.Equal(t, announced.Total(), s.reserved)
		assert.Equal(t, 1, s.allocs, "one arena")
		assert.Equal(t, total, done)
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(30), 0, 1))
		require.NoError(t, err)
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(1), 30, 1))
		require.NoError(t, err)
		assert.Equal(t, 1, s.allocs, "nothing is allocated while text is generated")
		require.NoError(t, b.Close())
	}
}

func TestAutoPlan(t *testing.T) {
	m := newTinyModel(t, "llama")
	info := jetsonNano()
	plan := func(p engine.Plan, budget int64) (engine.MemoryPlan, error) {
		return PlanMemory(info, m.file, m.prog, engine.LoadOptions{Plan: p, NCtx: 40, MemoryBudget: budget})
	}
	resident, err := plan(engine.PlanResident, 0)
	require.NoError(t, err)
	fused, err := plan(engine.PlanFused, 0)
	require.NoError(t, err)
	require.Less(t, fused.Weights, resident.Weights)
	assert.Equal(t, "cuda: Jetson Nano, CC 5.3, 1 SM, 921 MHz", fused.Device)

	auto, err := plan(engine.PlanAuto, resident.Total())
	require.NoError(t, err)
	assert.Equal(t, engine.PlanResident, auto.Plan)
	if fused.Total() < resident.Total() {
		auto, err = plan(engine.PlanAuto, resident.Total()-1)
		require.NoError(t, err)
		assert.Equal(t, engine.PlanHybrid, auto.Plan)
		assert.Less(t, auto.Total(), resident.Total())
		auto, err = plan(engine.PlanAuto, fused.Total())
		require.NoError(t, err)
		assert.LessOrEqual(t, auto.Total(), fused.Total())
	}
	hybrid, err := plan(engine.PlanHybrid, 0)
	require.NoError(t, err)
	assert.Equal(t, engine.PlanHybrid, hybrid.Plan)
	_, err = plan("fast", 0)
	assert.ErrorContains(t, err, "fast")
}

// A model that does not fit is refused with numbers and with what would fit.
func TestPlanRefusesWhatDoesNotFit(t *testing.T) {
	m := newTinyModel(t, "llama")
	load := func(opt engine.LoadOptions) (string, int) {
		s := newSpy(openEmu(t))
		b := New(s)
		defer b.Close()
		err := b.Load(context.Background(), m.file, m.prog, opt)
		require.ErrorIs(t, err, driver.ErrOutOfMemory)
		return err.Error(), s.allocs
	}
	fits, err := PlanMemory(driver.Info{MemFree: 1 << 40}, m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 5000})
	require.NoError(t, err)

	msg, allocs := load(engine.LoadOptions{NCtx: 8000, MemoryBudget: fits.Total()})
	assert.Zero(t, allocs)
	assert.Regexp(t, `--ctx (4\d\d\d|50[0-5]\d) fits`, msg) // 5000 tokens take pages for 5056

	msg, _ = load(engine.LoadOptions{NCtx: 40, MemoryBudget: 1000})
	assert.Contains(t, msg, "lower --bpw")
	assert.Contains(t, msg, "weights ")
}

func TestLoadRefusesModelsItCannotRun(t *testing.T) {
	m := newTinyModel(t, "llama")
	load := func(change func(p *model.Program)) error {
		p := *m.prog
		p.Nodes = append([]model.Node(nil), m.prog.Nodes...)
		change(&p)
		_, err := PlanMemory(driver.Info{MemFree: 1 << 40}, m.file, &p, engine.LoadOptions{NCtx: 40})
		return err
	}
	require.NoError(t, load(func(*model.Program) {}))
	assert.ErrorContains(t, load(func(p *model.Program) { p.Nodes[0].Weight = "gone" }), "gone")
	assert.ErrorContains(t, load(func(p *model.Program) { p.Config.HeadDim = 20 }), "20 dimensions")
	assert.ErrorContains(t, load(func(p *model.Program) { p.Config.NEmbd = 64 }), "128")
	assert.ErrorContains(t, load(func(p *model.Program) { p.Nodes[0].Op = 99 }), "99")
	assert.ErrorContains(t, load(func(p *model.Program) { p.Nodes[1].Weight = "token_embd.weight" }), "token_embd.weight")
	assert.ErrorContains(t, load(func(p *model.Program) { p.Nodes[1].Dst = model.BufLogits }), "logits")
}

// refusing is a device that refuses the first reservations, as drivers do with the last of their free memory.
type refusing struct {
	driver.Device
	times int
	asked []int64
}

func (r *refusing) Reserve(n int64) (driver.DevicePtr, error) {
	r.asked = append(r.asked, n)
	if len(r.asked) <= r.times {
		return 0, &driver.Error{Op: "alloc", Kind: driver.ErrOutOfMemory}
	}
	return r.Device.Reserve(n)
}

// Memory that is reported as free but refused leads to a smaller plan, and to an error if there is none.
func TestRefusedMemoryIsPlannedAgain(t *testing.T) {
	m := newTinyModel(t, "llama")
	for times, plans := range map[int]int{0: 1, 1: 2, 2: 3, 3: 3} {
		dev := &refusing{Device: openEmu(t), times: times}
		b := New(dev)
		announced := 0
		opt := engine.LoadOptions{Plan: engine.PlanAuto, NCtx: 40, Announce: func(engine.MemoryPlan) { announced++ }}
		err := b.Load(context.Background(), m.file, m.prog, opt)
		for i, n := range dev.asked[1:] {
			assert.LessOrEqual(t, n, dev.asked[i]-dev.asked[i]/20)
		}
		if times >= 3 || err != nil {
			assert.ErrorIs(t, err, driver.ErrOutOfMemory)
		} else {
			assert.Equal(t, plans, announced)
			assert.Equal(t, dev.asked[len(dev.asked)-1], b.Memory().Total())
		}
		require.NoError(t, b.Close())
	}
}

// A plan leaves the memory alone that the device's driver and system need, unless a budget is named.
func TestPlansLeaveTheReserve(t *testing.T) {
	m := newTinyModel(t, "llama")
	info := jetsonNano()
	info.MemFree, info.MemReserve = 1<<30, 1<<30-1
	_, err := PlanMemory(info, m.file, m.prog, engine.LoadOptions{NCtx: 40})
	assert.ErrorIs(t, err, driver.ErrOutOfMemory)
	plan, err := PlanMemory(info, m.file, m.prog, engine.LoadOptions{NCtx: 40, MemoryBudget: 1 << 29})
	require.NoError(t, err)
	assert.Equal(t, int64(1<<29), plan.Budget)
}
