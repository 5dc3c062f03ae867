package cpu

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/race"
)

// load returns a backend that computes with the given machine.
func load(t testing.TB, m *tiny, mc cputest.Machine, opt engine.LoadOptions) *Backend {
	b := New().(*Backend)
	b.k, b.dot, b.decode = mc.K, mc.Dot, mc.Decode
	if opt.NCtx == 0 {
		opt.NCtx = 200
	}
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func prompt(n, vocab int) []int32 {
	rng := rand.New(rand.NewPCG(21, 22))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(rng.IntN(vocab))
	}
	return tokens
}

// forward runs tokens in pieces of the given size and returns the logits of all of them.
func forward(t testing.TB, b *Backend, tokens []int32, piece int) []float32 {
	var all []float32
	piece = min(piece, b.maxBatch)
	for pos := 0; pos < len(tokens); pos += piece {
		part := tokens[pos:min(pos+piece, len(tokens))]
		logits, err := b.Forward(context.Background(), engine.SingleRun(part, pos, len(part)))
		require.NoError(t, err)
		all = append(all, logits...)
	}
	return all
}

func TestForwardAgainstReference(t *testing.T) {
	for _, o := range []tinyOptions{{arch: "llama", tied: true, recipe: 0}, {arch: "llama", ropeFreqs: true, recipe: 5},
		{arch: "qwen2", recipe: 3}, {arch: "qwen2", tied: true, recipe: 9}} {
		m := newTiny(t, o)
		tokens := prompt(80, m.prog.Config.NVocab)
		want := m.logits(tokens)
		for _, mc := range cputest.Machines() {
			name := fmt.Sprintf("%+v %s", o, mc.Dot)
			resident := load(t, m, mc, engine.LoadOptions{Plan: engine.PlanResident, Threads: 2})
			got := forward(t, resident, tokens, len(tokens))
			signal, noise := 0.0, 0.0
			for tok := range want {
				for i, v := range want[tok] {
					d := float64(got[tok*len(want[tok])+i]) - v
					signal += v * v
					noise += d * d
				}
			}
			// Keys and values are float16, which makes up nearly all of the difference where activations have 16 bits.
			require.Less(t, noise, mc.Tolerance()*signal, name)

			// Plans, threads and splits of the prompt must not change a bit.
			require.Equal(t, got, forward(t, resident, tokens, 1), "%s: token by token", name)
			require.Equal(t, got, forward(t, resident, tokens, 33), "%s: in pieces", name)
			fused := load(t, m, mc, engine.LoadOptions{Plan: engine.PlanFused, Threads: 1, MaxBatch: 17})
			require.Equal(t, engine.PlanFused, fused.Memory().Plan)
			require.Equal(t, got, forward(t, fused, tokens, len(tokens)), "%s: fused, small batches", name)
			require.Equal(t, got[:20*97], forward(t, fused, tokens[:20], 1), "%s: fused, token by token", name)
		}
	}
}

func TestForwardWithBytesInTheCache(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "qwen2", recipe: 3})
	tokens := prompt(150, m.prog.Config.NVocab)
	want := forward(t, load(t, m, cputest.Machines()[0], engine.LoadOptions{}), tokens, len(tokens))
	for _, mc := range cputest.Machines() {
		b := load(t, m, mc, engine.LoadOptions{KVType: engine.KVQ8, Threads: 2})
		got := forward(t, b, tokens, len(tokens))
		signal, noise := 0.0, 0.0
		for i, v := range want {
			d := float64(got[i] - v)
			signal += float64(v) * float64(v)
			noise += d * d
		}
		require.Less(t, noise, 1e-3*signal, "%s", mc.Dot)
		require.Greater(t, noise, 1e-6*signal, "%s: as exact as float16?", mc.Dot)
		require.Equal(t, got, forward(t, b, tokens, 1), "%s: token by token", mc.Dot)
		// 20 dimensions take 20 + 32 bytes and two scales instead of 2 · (20 + 32).
		require.Equal(t, int64(2*2*256*(20+32+4)), b.Memory().KV)
	}
	err := New().Load(context.Background(), m.file, m.prog, engine.LoadOptions{NCtx: 10, KVType: "q4_0"})
	require.ErrorContains(t, err, "q4_0")
}

func TestForwardReturnsTheLastRows(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama"})
	tokens := prompt(50, 97)
	b := load(t, m, cputest.Machines()[0], engine.LoadOptions{})
	all := forward(t, b, tokens, len(tokens))
	for _, rows := range []int{0, 1, 2, 3, 16, 18, 33, 50} {
		got, err := b.Forward(context.Background(), engine.SingleRun(tokens, 0, rows))
		require.NoError(t, err)
		require.Len(t, got, rows*97)
		require.Equal(t, all[(50-rows)*97:], append([]float32{}, got...), "%d rows", rows)
	}
	// Entries after a position are replaced.
	_, err := b.Forward(context.Background(), engine.SingleRun([]int32{5, 6, 7}, 20, 0))
	require.NoError(t, err)
	again, err := b.Forward(context.Background(), engine.SingleRun(tokens[20:], 20, 30))
	require.NoError(t, err)
	require.Equal(t, all[20*97:], append([]float32{}, again...))
}

func TestForwardDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	for i, o := range []tinyOptions{{arch: "llama", recipe: 0}, {arch: "qwen2", recipe: 5}} {
		m := newTiny(t, o)
		for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
			for _, mc := range cputest.Machines() {
				b := load(t, m, mc, engine.LoadOptions{Plan: plan, Threads: 2})
				batch, ctx := engine.SingleRun([]int32{3}, 0, 1), context.Background()
				n := testing.AllocsPerRun(20, func() {
					if _, err := b.Forward(ctx, batch); err != nil {
						t.Error(err)
					}
					batch.Runs[0].Pos++
				})
				require.Zero(t, n, "model %d, %s, %s", i, plan, mc.Dot)
			}
		}
	}
}

func TestForwardRefusesWrongArguments(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama"})
	_, err := New().Forward(context.Background(), engine.SingleRun([]int32{1}, 0, 1))
	require.ErrorContains(t, err, "before Load")
	b := load(t, m, cputest.Machines()[0], engine.LoadOptions{NCtx: 10})
	for _, c := range []struct {
		tokens    []int32
		pos, rows int
		msg       string
	}{
		{nil, 0, 0, "0 tokens"},
		{[]int32{1}, 10, 1, "do not fit a context of 10"},
		{[]int32{1}, -1, 1, "do not fit"},
		{make([]int32, 11), 0, 1, "do not fit"},
		{[]int32{1}, 0, 2, "logits of 2 of 1"},
		{[]int32{1}, 0, -1, "logits of -1"},
		{[]int32{97}, 0, 1, "vocabulary has 97"},
		{[]int32{-1}, 0, 1, "vocabulary has 97"},
	} {
		_, err := b.Forward(context.Background(), engine.SingleRun(c.tokens, c.pos, c.rows))
		require.ErrorContains(t, err, c.msg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.Forward(ctx, engine.SingleRun([]int32{1}, 0, 1))
	require.ErrorIs(t, err, context.Canceled)
}

func TestPlans(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama", tied: true, recipe: 3})
	var announced engine.MemoryPlan
	opt := engine.LoadOptions{NCtx: 100, Threads: 1, Plan: engine.PlanResident,
		Announce: func(p engine.MemoryPlan) { announced = p }}
	b := load(t, m, cputest.Machines()[0], opt)
	require.Equal(t, b.Memory(), announced)
	require.Equal(t, engine.PlanResident, announced.Plan)
	resident, err := PlanMemory(m.file, m.prog, opt)
	require.NoError(t, err)
	require.Positive(t, resident.Budget)
	require.Equal(t, int64(2*2*2*128*(20+32)), resident.KV)
	opt.Plan = engine.PlanFused
	fused, err := PlanMemory(m.file, m.prog, opt)
	require.NoError(t, err)
	require.Less(t, fused.Weights, resident.Weights)

	opt.Plan, opt.MemoryBudget = engine.PlanAuto, resident.Total()
	p, err := PlanMemory(m.file, m.prog, opt)
	require.NoError(t, err)
	require.Equal(t, engine.PlanResident, p.Plan)
	opt.MemoryBudget = max(fused.Total(), resident.Total()-1)
	p, err = PlanMemory(m.file, m.prog, opt)
	require.NoError(t, err)
	require.NotEqual(t, engine.PlanResident, p.Plan)
	opt.Plan = engine.PlanResident
	p, err = PlanMemory(m.file, m.prog, opt)
	require.ErrorContains(t, err, "--plan fused needs")
	require.Equal(t, resident.Total(), p.Total())
	opt.Plan, opt.MemoryBudget = engine.PlanAuto, 1000
	require.ErrorContains(t, New().Load(context.Background(), m.file, m.prog, opt), "smaller context")
	opt.Plan = "most"
	require.ErrorContains(t, New().Load(context.Background(), m.file, m.prog, opt), "use resident, fused, hybrid or auto")
	opt.Plan, opt.NCtx = engine.PlanAuto, 0
	require.ErrorContains(t, New().Load(context.Background(), m.file, m.prog, opt), "context of 0 tokens")
}

func TestHybridPlan(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "qwen2", recipe: 3})
	tokens := prompt(9, m.prog.Config.NVocab)
	mc := cputest.Machines()[0]
	opt := engine.LoadOptions{Plan: engine.PlanResident, Threads: 1, MaxBatch: 2}
	resident := load(t, m, mc, opt)
	want := forward(t, resident, tokens, len(tokens))
	opt.Plan = engine.PlanFused
	least := load(t, m, mc, opt).Memory().Total()
	opt.Plan = engine.PlanHybrid
	require.Greater(t, resident.Memory().Total(), least)
	hybrids := 0
	for i := range int64(6) {
		opt.MemoryBudget = least + i*(resident.Memory().Total()-least)/5
		b := load(t, m, mc, opt)
		require.LessOrEqual(t, b.Memory().Total(), opt.MemoryBudget)
		require.Equal(t, want, forward(t, b, tokens, len(tokens)), "%+v", b.Memory())
		if b.Memory().Plan == engine.PlanHybrid {
			hybrids++
		}
	}
	require.Positive(t, hybrids)
}

func TestLoadChecksTheProgram(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama"})
	for _, c := range []struct {
		change func(p *model.Program)
		msg    string
	}{
		{func(p *model.Program) { p.Config.NFF = 128 }, "is 192 × 72, expected 128 × 72"},
		{func(p *model.Program) { p.Nodes[1].Weight = "blk.9.attn_norm.weight" }, "no tensor blk.9.attn_norm.weight"},
		{func(p *model.Program) { p.Nodes[1].Op = 99 }, "unknown operation 99"},
		{func(p *model.Program) { p.Nodes[1].Dst = 99 }, "buffer or layer that does not exist"},
		{func(p *model.Program) { p.Nodes[1].Weight = "token_embd.weight" }, "expected 1 × 72"},
	} {
		p := *m.prog
		p.Nodes = append([]model.Node{}, p.Nodes...)
		c.change(&p)
		err := New().Load(context.Background(), m.file, &p, engine.LoadOptions{NCtx: 8})
		require.ErrorContains(t, err, c.msg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, New().Load(ctx, m.file, m.prog, engine.LoadOptions{NCtx: 8}), context.Canceled)
}
