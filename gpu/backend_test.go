package gpu

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// spy records what passes the seam to a device.
type spy struct {
	driver.Device
	reserved int64
	allocs   int
	launched map[string]int
	noGraphs bool // as a driver of CUDA 10
	graphs   int  // captured
	replays  int  // launches of graphs
	syncs    int
}

func (s *spy) Capture(on driver.Stream, f func() error) (driver.Graph, error) {
	if s.noGraphs {
		return nil, &driver.Error{Op: "capture", Kind: driver.ErrNoGraphs}
	}
	before := maps.Clone(s.launched)
	g, err := s.Device.Capture(on, func() error { // which may run twice
		s.launched = maps.Clone(before)
		return f()
	})
	if err != nil {
		s.noGraphs = errors.Is(err, driver.ErrNoGraphs)
		return nil, err
	}
	s.graphs++
	return &spiedGraph{g, s}, nil
}

func (s *spy) Synchronize() error {
	s.syncs++
	return s.Device.Synchronize()
}

type spiedGraph struct {
	driver.Graph
	s *spy
}

func (g *spiedGraph) Launch(on driver.Stream) error {
	g.s.replays++
	return g.Graph.Launch(on)
}

func newSpy(d driver.Device) *spy { return &spy{Device: d, launched: map[string]int{}} }

func (s *spy) Reserve(n int64) (driver.DevicePtr, error) {
	s.allocs++
	s.reserved += n
	return s.Device.Reserve(n)
}

func (s *spy) Alloc(n int64) (driver.DevicePtr, error) {
	s.allocs++
	return s.Device.Alloc(n)
}

func (s *spy) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	s.launched[k.Name()]++
	return s.Device.Launch(k, c, args...)
}

// launchedAny counts the launches of kernels whose names begin with one of the prefixes.
func (s *spy) launchedAny(prefixes ...string) (n int) {
	for name, k := range s.launched {
		if hasPrefixAny(name, prefixes...) {
			n += k
		}
	}
	return n
}

func loadTiny(t *testing.T, m *tinyModel, plan engine.Plan) (*Backend, *spy) {
	t.Helper()
	s := newSpy(openEmu(t))
	b := New(s)
	t.Cleanup(func() { b.Close() })
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: plan, NCtx: 48, MaxBatch: 12}))
	return b, s
}

var bothPlans = []engine.Plan{engine.PlanResident, engine.PlanFused}

func prompt(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i*53+7) % 301
	}
	return ids
}

// Two batches of prefill with several rows of logits, then single tokens, against the plain forward pass.
func TestForwardAgainstReference(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		m := newTinyModel(t, arch)
		ids := prompt(23)
		want := m.logits(ids)
		for _, plan := range bothPlans {
			b, _ := loadTiny(t, m, plan)
			const nPrompt, rows = 20, 11 // the last batch has 8 tokens: rows reach into the one before
			got, err := forwardIn(b, 12, ids[:nPrompt], rows)
			require.NoError(t, err)
			for i := range rows {
				requireClose(t, want[nPrompt-rows+i], got[i*301:(i+1)*301], 2e-5, "%s %s: token %d", arch, plan, nPrompt-rows+i)
			}
			for i := nPrompt; i < len(ids); i++ {
				got, err := b.Forward(context.Background(), engine.SingleRun(ids[i:i+1], i, 1))
				require.NoError(t, err)
				requireClose(t, want[i], got, 2e-5, "%s %s: token %d", arch, plan, i)
			}
		}
	}
}

// In a long context a token's attention is split over positions; an 8-bit cache changes little.
func TestForwardWithSplitAttention(t *testing.T) {
	m := newTinyModel(t, "qwen2")
	ids := prompt(42)
	want := m.logits(ids)
	for kv, limit := range map[string]float64{engine.KVF16: 2e-5, engine.KVQ8: 2e-3} {
		b := New(openEmu(t))
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 600,
			MaxBatch: 40, KVType: kv}))
		info, err := b.dev.Info()
		require.NoError(t, err)
		if info.SMs > 1 { // a Jetson Nano has one: its attention is not split
			require.Greater(t, b.plan.splits, 1)
		}
		got, err := b.Forward(context.Background(), engine.SingleRun(ids[:39], 0, 1))
		require.NoError(t, err)
		requireClose(t, want[38], got, limit, kv)
		for i := 39; i < len(ids); i++ {
			got, err = b.Forward(context.Background(), engine.SingleRun(ids[i:i+1], i, 1))
			require.NoError(t, err)
			requireClose(t, want[i], got, limit, "%s: token %d", kv, i)
		}
		require.NoError(t, b.Close())
	}
	f16, err := PlanMemory(jetsonNano(), m.file, m.prog, engine.LoadOptions{NCtx: 600})
	require.NoError(t, err)
	q8, err := PlanMemory(jetsonNano(), m.file, m.prog, engine.LoadOptions{NCtx: 600, KVType: engine.KVQ8})
	require.NoError(t, err)
	assert.InDelta(t, 17.0/32, float64(q8.KV)/float64(f16.KV), 0.02)
	_, err = PlanMemory(jetsonNano(), m.file, m.prog, engine.LoadOptions{KVType: "q3"})
	assert.ErrorContains(t, err, "q3")
}

// Positions may be run again with other tokens, and logits need not be asked for.
func TestForwardOverwritesTheCache(t *testing.T) {
	m := newTinyModel(t, "llama")
	b, _ := loadTiny(t, m, engine.PlanResident)
	ids := prompt(10)
	got, err := b.Forward(context.Background(), engine.SingleRun(prompt(16)[6:], 0, 0))
	require.NoError(t, err)
	assert.Empty(t, got)
	_, err = b.Forward(context.Background(), engine.SingleRun(ids[:4], 0, 0))
	require.NoError(t, err)
	got, err = b.Forward(context.Background(), engine.SingleRun(ids[4:], 4, 1))
	require.NoError(t, err)
	requireClose(t, m.logits(ids)[9], got, 2e-5)
}

// forwardIn runs the first tokens of a sequence in batches of at most `batch`, with logits of the last rows.
func forwardIn(b engine.Backend, batch int, ids []int32, rows int) (all []float32, err error) {
	for at := 0; at < len(ids); at += batch {
		n := min(batch, len(ids)-at)
		logits, err := b.Forward(context.Background(), engine.SingleRun(ids[at:at+n], at, min(n, max(0, rows-(len(ids)-at-n)))))
		if err != nil {
			return nil, err
		}
		all = append(all, logits...)
	}
	return all, nil
}

func greedy(t *testing.T, b engine.Backend, ids []int32, n int) []int32 {
	t.Helper()
	var out []int32
	logits, err := b.Forward(context.Background(), engine.SingleRun(ids, 0, 1))
	require.NoError(t, err)
	for len(out) < n {
		next := argmax(logits)
		out = append(out, next)
		logits, err = b.Forward(context.Background(), engine.SingleRun([]int32{next}, len(ids)+len(out)-1, 1))
		require.NoError(t, err)
	}
	return out
}

func TestPlansGiveTheSameTokens(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		m := newTinyModel(t, arch)
		resident, s1 := loadTiny(t, m, engine.PlanResident)
		fused, s2 := loadTiny(t, m, engine.PlanFused)
		assert.Equal(t, greedy(t, resident, prompt(5), 10), greedy(t, fused, prompt(5), 10), arch)
		assert.Zero(t, s1.launchedAny("gemv_fused"), "resident decodes nothing in a product")
		assert.Positive(t, s1.launchedAny("gemv_packed", "gemv_any"))
		assert.Zero(t, s2.launchedAny("gemv_packed", "gemv_any"), "fused reads no plane token by token")
		assert.Positive(t, s2.launchedAny("gemv_fused_g", "gemv_fused_low", "gemv_fused_block"))
		assert.Positive(t, s2.launchedAny("gemv_fused_f32"))
	}
}

// What ran is the emulator's work: every operation of the forward pass was launched there, and Describe says so.
func TestDescribeTellsWhatRan(t *testing.T) {
	m := newTinyModel(t, "llama")
	b, s := loadTiny(t, m, engine.PlanFused)
	_, err := b.Forward(context.Background(), engine.SingleRun(prompt(3), 0, 1))
	require.NoError(t, err)
	total := 0
	for _, n := range s.launched {
		total += n
	}
	for _, k := range []string{"embed_rows", "x_prepare", "gemv", "rope_store", "attention"} {
		assert.Positive(t, s.launchedAny(k), k)
	}
	info, err := s.Info()
	require.NoError(t, err)
	assert.Contains(t, b.Describe(), info.Label())
	assert.Contains(t, b.Describe(), itoa(total)+" kernel launches")
	assert.Empty(t, b.Profile())
}

// The profile has every launch of the forward passes, in order of cost.
func TestProfile(t *testing.T) {
	m := newTinyModel(t, "llama")
	s := newSpy(openEmu(t))
	b := New(s)
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 48,
		Profile: true}))
	_, err := b.Forward(context.Background(), engine.SingleRun(prompt(2), 0, 1))
	require.NoError(t, err)
	b.ResetProfile()
	clear(s.launched)
	_, err = b.Forward(context.Background(), engine.SingleRun(prompt(1), 2, 1))
	require.NoError(t, err)
	p := b.Profile()
	assert.Len(t, p, len(s.launched))
	bytes := 0.0
	for i, k := range p {
		assert.Equal(t, int64(s.launched[k.Name]), k.Calls, k.Name)
		assert.Positive(t, k.Time)
		assert.True(t, i == 0 || k.Time <= p[i-1].Time, "sorted")
		if k.Name == "attention_f16" {
			width := m.prog.Config.NKVHeads * m.prog.Config.HeadDim
			// up to the alignment of caches
			assert.InEpsilon(t, m.prog.Config.NLayers*2*2*width*3, k.Bytes, 0.05, "keys and values of three positions")
			continue
		}
		bytes += k.Bytes
	}
	want := 0.0
	for _, w := range b.plan.weights {
		if w.use&model.UseProduct != 0 {
			want += w.readBytes(w.form)
		}
	}
	assert.InEpsilon(t, want, bytes, 1e-9, "every matrix is read once")
	require.NoError(t, b.Close())
}

// With ELLM_GPU_SYNC=1 every launch is waited for, and nothing is captured.
func TestSync(t *testing.T) {
	t.Setenv("ELLM_GPU_SYNC", "1")
	m := newTinyModel(t, "llama")
	b, s := loadTiny(t, m, engine.PlanFused)
	_, err := b.Forward(context.Background(), engine.SingleRun(prompt(1), 0, 1))
	require.NoError(t, err)
	assert.Zero(t, s.graphs)
	total := 0
	for _, n := range s.launched {
		total += n
	}
	assert.GreaterOrEqual(t, s.syncs, total)
}

// A token's launches are captured once; its number and position reach the graph through device memory. Without graphs, and
// whatever the order in which streams run, the tokens are the same.
func TestGraphGivesTheSameTokens(t *testing.T) {
	const n = 10
	m := newTinyModel(t, "llama")
	plain, ps := loadTiny(t, m, engine.PlanFused)
	ps.noGraphs = true
	want := greedy(t, plain, prompt(5), n)
	assert.Zero(t, ps.graphs)
	for _, order := range []emu.Order{emu.AtOnce, emu.NewestFirst, emu.OldestFirst} {
		s := newSpy(openEmuOrder(t, order))
		b := New(s)
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 48,
			MaxBatch: 12}))
		syncs, allocs := s.syncs, s.allocs
		assert.Equal(t, want, greedy(t, b, prompt(5), n), order)
		assert.Equal(t, syncs, s.syncs, "only the copy of the logits waits")
		assert.Equal(t, allocs, s.allocs, "nothing is allocated")
		if s.noGraphs { // ELLM_TEST_DEVICE: an old driver
			require.NoError(t, b.Close())
			continue
		}
		assert.Equal(t, 1, s.graphs, "captured once")
		assert.Equal(t, n, s.replays, "one graph launch per token")
		assert.Equal(t, plain.l.Launched, b.l.Launched, "launches in the graph count")
		require.NoError(t, b.Close())
	}
}

// While a piece of a matrix is multiplied the next is decoded, on another stream. Events say what waits for what: the logits are
// the same in every order that they allow.
func TestPrefillInAnyOrderOfStreams(t *testing.T) {
	m := newTinyModel(t, "qwen2")
	var want []float32
	for _, order := range []emu.Order{emu.AtOnce, emu.NewestFirst, emu.OldestFirst} {
		b := New(openEmuOrder(t, order))
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 48,
			MaxBatch: 12}))
		got, err := forwardIn(b, 12, prompt(24), 12)
		require.NoError(t, err)
		if want == nil {
			want = slices.Clone(got)
		}
		assert.Equal(t, want, got, order)
		require.NoError(t, b.Close())
	}
}

// Small models spend their time starting kernels. A layer needs one for queries, keys and values (more where their kinds of
// scales differ), one for attention, and one each for its output, gate and up, and down; what lies between is done by their last
// blocks.
func TestLaunchesPerLayer(t *testing.T) {
	row := format.Scale{Kind: format.ScaleRow, Scale: 0.03}
	mixed := []spec{{rowsPerGroup: 16, levels: 15, zero: -7, scale: row}, {rowsPerGroup: 16, levels: 16, lowBits: 1, zero: -16,
		scale: row},
		{rowsPerGroup: 8, levels: 8, zero: -4, scale: row}, {rowsPerGroup: 16, levels: 16, lowBits: 2, zero: -32, scale: row}}
	for i, plan := range []engine.Plan{engine.PlanFused, engine.PlanFused, engine.PlanResident, engine.PlanResident} {
		arch := []string{"llama", "qwen2"}[i%2]
		m := newUniformModel(t, arch, 5)
		if plan == engine.PlanResident { // packed codes may differ in width
			m = newModel(t, arch, 5, mixed)
		}
		b, s := loadTiny(t, m, plan)
		_, err := b.Forward(context.Background(), engine.SingleRun(prompt(3), 0, 1))
		require.NoError(t, err)
		clear(s.launched)
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(1), 3, 1))
		require.NoError(t, err)
		total := 0
		for _, n := range s.launched {
			total += n
		}
		const around = 3 // embedding, the first layer's input, logits
		assert.Equal(t, around+5*m.prog.Config.NLayers, total, "%s, %s: %v", arch, plan, s.launched)
	}
}

func TestForwardRefusesBadArguments(t *testing.T) {
	m := newTinyModel(t, "llama")
	b, _ := loadTiny(t, m, engine.PlanFused)
	ctx := context.Background()
	for name, f := range map[string]func() error{
		"no tokens":     func() error { _, err := b.Forward(ctx, engine.SingleRun(nil, 0, 0)); return err },
		"token":         func() error { _, err := b.Forward(ctx, engine.SingleRun([]int32{301}, 0, 1)); return err },
		"negative":      func() error { _, err := b.Forward(ctx, engine.SingleRun([]int32{-1}, 0, 1)); return err },
		"rows":          func() error { _, err := b.Forward(ctx, engine.SingleRun(prompt(2), 0, 3)); return err },
		"context":       func() error { _, err := b.Forward(ctx, engine.SingleRun(prompt(2), 47, 1)); return err },
		"position":      func() error { _, err := b.Forward(ctx, engine.SingleRun(prompt(2), -1, 1)); return err },
		"load twice":    func() error { return b.Load(ctx, m.file, m.prog, engine.LoadOptions{}) },
		"without model": func() error { _, err := New(openEmu(t)).Forward(ctx, engine.SingleRun(prompt(1), 0, 1)); return err },
	} {
		assert.Error(t, f(), name)
	}
}

func TestCancel(t *testing.T) {
	m := newTinyModel(t, "llama")
	b, _ := loadTiny(t, m, engine.PlanFused)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := b.Forward(ctx, engine.SingleRun(prompt(1), 0, 1))
	assert.ErrorIs(t, err, context.Canceled)
	other := New(openEmu(t))
	assert.ErrorIs(t, other.Load(ctx, m.file, m.prog, engine.LoadOptions{}), context.Canceled)
	assert.NoError(t, other.Close())
}
