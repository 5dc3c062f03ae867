package e2e_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// statefulFamilies are those whose sequences have a state.
func statefulFamilies() []string { return []string{"lfm2", "qwen35"} }

func statefulFile(t *testing.T, name string) *format.Reader {
	family, err := testmodel.ReadFamily(name)
	require.NoError(t, err)
	path, err := family.WriteHF(t.TempDir())
	require.NoError(t, err)
	src, err := source.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	return compressed(t, src)
}

func statefulEngine(t *testing.T, f *format.Reader, opt engine.LoadOptions) *engine.Engine {
	b := cpu.New()
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	opt.Plan, opt.Threads = engine.PlanFused, 2
	e, err := engine.New(context.Background(), f, b, opt)
	require.NoError(t, err)
	return e
}

// Sequences with states that run together, share prefixes, make room for each other, speculate, and go on where others ended have
// the tokens that each has alone.
func TestSequencesWithStatesTogetherAreAsAlone(t *testing.T) {
	for _, name := range statefulFamilies() {
		t.Run(name, func(t *testing.T) {
			f := statefulFile(t, name)
			rng := rand.New(rand.NewPCG(1, 2))
			random := func(n int) (tokens []int32) {
				for range n {
					tokens = append(tokens, int32(3+rng.IntN(250)))
				}
				return tokens
			}
			common := random(150)
			var prompts [][]int32
			for i := range 6 {
				prompts = append(prompts, append(slices.Clone(common[:24*i]), random(5+14*i)...))
			}
			prompts = append(prompts, append(slices.Clone(common), common...))
			alone := statefulEngine(t, f, engine.LoadOptions{NCtx: 400})
			var want [][]int32
			for _, p := range prompts {
				r, err := alone.Generate(context.Background(), statefulRequest(p, engine.SpeculateOff, true))
				require.NoError(t, err)
				want = append(want, r.Tokens)
			}
			preempted, cached, proposed := 0, 0, 0
			for _, opt := range []engine.LoadOptions{{NCtx: 384, Sequences: 4, MaxBatch: 50},
				{NCtx: 384, Sequences: 6, CacheTokens: 448, States: 13}} {
				for _, how := range []engine.Speculation{engine.SpeculateOff, engine.SpeculateNgram} {
					e := statefulEngine(t, f, opt)
					results := make([]*engine.Result, len(prompts))
					var wg sync.WaitGroup
					for i, p := range prompts {
						wg.Go(func() {
							var err error
							if results[i], err = e.Generate(context.Background(), statefulRequest(p, how, false)); err != nil {
								t.Error(err)
							}
						})
					}
					wg.Wait()
					require.False(t, t.Failed())
					for i, r := range results {
						require.Equal(t, want[i], r.Tokens, "%+v, %q, sequence %d", opt, how, i)
						preempted += r.Preemptions
						cached += r.CachedTokens
						proposed += r.Speculation.Proposed
					}
					for i, r := range results { // the conversation goes on
						next := append(append(slices.Clone(prompts[i]), r.Tokens...), 77)
						r, err := e.Generate(context.Background(), statefulRequest(next, how, false))
						require.NoError(t, err)
						again, err := alone.Generate(context.Background(), statefulRequest(next, engine.SpeculateOff, true))
						require.NoError(t, err)
						require.Equal(t, again.Tokens, r.Tokens)
						cached += r.CachedTokens
					}
				}
			}
			require.Positive(t, preempted)
			require.Positive(t, cached)
			// Whether proposals pay depends on measured times; the engine's TestSpeculationWithStates accepts and refuses some.
			t.Logf("%d preemptions, %d tokens from the cache, %d proposed", preempted, cached, proposed)
		})
	}
}

// The same on the GPU, in the emulator: states are loaded, kept on the way and gone back to, whatever tokens share a pass.
func TestSequencesWithStatesOnTheGPU(t *testing.T) {
	path := emulatorPath(t)
	for _, name := range statefulFamilies() {
		t.Run(name, func(t *testing.T) {
			f := statefulFile(t, name)
			load := func(opt engine.LoadOptions) *engine.Engine {
				dev, err := emu.Open(emu.Options{Path: path, Memory: 64 << 20, Poison: true})
				require.NoError(t, err)
				b := gpu.New(dev)
				t.Cleanup(func() { require.NoError(t, b.Close()) })
				opt.Plan = engine.PlanFused
				e, err := engine.New(context.Background(), f, b, opt)
				require.NoError(t, err)
				return e
			}
			rng := rand.New(rand.NewPCG(3, 4))
			var prompts [][]int32
			for i := range 3 {
				var p []int32
				for range 9 + 30*i {
					p = append(p, int32(3+rng.IntN(250)))
				}
				prompts = append(prompts, p)
			}
			want := make([][]int32, len(prompts))
			alone := load(engine.LoadOptions{NCtx: 128})
			for i, p := range prompts {
				r, err := alone.Generate(context.Background(), gpuRequest(p, engine.SpeculateOff, true))
				require.NoError(t, err)
				want[i] = r.Tokens
			}
			for _, how := range []engine.Speculation{engine.SpeculateOff, engine.SpeculateNgram} {
				e := load(engine.LoadOptions{NCtx: 128, Sequences: 3, MaxBatch: 20})
				got := make([][]int32, len(prompts))
				var wg sync.WaitGroup
				for i, p := range prompts {
					wg.Go(func() {
						r, err := e.Generate(context.Background(), gpuRequest(p, how, false))
						if err != nil {
							t.Error(err)
							return
						}
						got[i] = r.Tokens
					})
				}
				wg.Wait()
				require.Equal(t, want, got, "%q", how)
			}
		})
	}
}

func gpuRequest(prompt []int32, how engine.Speculation, alone bool) engine.Request {
	r := statefulRequest(prompt, how, alone)
	r.MaxTokens = 8
	return r
}

func statefulRequest(prompt []int32, how engine.Speculation, alone bool) engine.Request {
	return engine.Request{Prompt: prompt, MaxTokens: 24, IgnoreEnd: true, Speculate: how, NoReuse: alone,
		Sampler: sample.New(sample.Options{})}
}

// A model with a state is no draft model, since it does not go back.
func TestModelsWithStatesDoNotDraft(t *testing.T) {
	f := statefulFile(t, "lfm2")
	e := statefulEngine(t, f, engine.LoadOptions{NCtx: 128})
	err := e.UseDraft(context.Background(), f, cpu.New(), engine.LoadOptions{})
	require.ErrorContains(t, err, "recurrent state")
}
