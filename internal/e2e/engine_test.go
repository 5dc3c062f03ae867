package e2e_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/race"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// cpuEngine loads the first run's model on the CPU.
func cpuEngine(t *testing.T, opt engine.LoadOptions) *engine.Engine {
	t.Helper()
	b := cpu.New()
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	opt.Plan, opt.Threads = engine.PlanFused, 2
	if race.Enabled {
		opt.Plan = engine.PlanResident // decoding in every product takes the detector half an hour
	}
	e, err := engine.New(context.Background(), runs()[0].container(t), b, opt)
	require.NoError(t, err)
	return e
}

// repeating is a prompt whose continuation can be looked up in it.
const repeating = "the quick brown fox jumps over the lazy dog and sees the quick brown fox jumps over the lazy dog and " +
	"sees the quick brown"

// repetitions returns how often a test repeats what has no concurrency of its own: few times with -short under the race detector,
// where an instruction takes ten times as long.
func repetitions(many, few int) int {
	if race.Enabled && testing.Short() {
		return few
	}
	return many
}

func ask(prompt []int32, n int, how engine.Speculation, o sample.Options) engine.Request {
	return engine.Request{Prompt: prompt, MaxTokens: n, IgnoreEnd: true, Speculate: how, Sampler: sample.New(o)}
}

// Speculation by n-grams and by a draft model (here the model itself) changes no token, at temperature 0 nor, with the same
// seed, above.
func TestSpeculationChangesNoToken(t *testing.T) {
	e := cpuEngine(t, engine.LoadOptions{NCtx: nCtx})
	draft := cpu.New()
	t.Cleanup(func() { require.NoError(t, draft.Close()) })
	require.NoError(t, e.UseDraft(context.Background(), runs()[0].container(t), draft, engine.LoadOptions{Threads: 2}))
	prompt, n := e.RawTokens(repeating), repetitions(200, 48)
	for _, o := range []sample.Options{
		{}, {Temperature: 0.8, TopK: 40, Seed: 5}, {Temperature: 1, Seed: 6, RepeatPenalty: 1.2, PenaltyWindow: 32},
	} {
		plain, err := e.Generate(context.Background(), ask(prompt, n, engine.SpeculateOff, o))
		require.NoError(t, err)
		require.Equal(t, n, plain.Speculation.Passes)
		for _, how := range []engine.Speculation{engine.SpeculateNgram, engine.SpeculateDraft} {
			r, err := e.Generate(context.Background(), ask(prompt, n, how, o))
			require.NoError(t, err)
			require.Equal(t, plain.Tokens, r.Tokens, "%s, %+v", how, o)
			require.Equal(t, n, r.Speculation.Passes+r.Speculation.Accepted)
			t.Logf("%s at temperature %g: %+v", how, o.Temperature, r.Speculation)
		}
	}
}

// The first two tokens have the distribution of the model, whatever is proposed: Pearson's χ² over pairs of tokens.
func TestSpeculationKeepsTheDistribution(t *testing.T) {
	const topK = 3
	draws := repetitions(1500, 150)
	e := cpuEngine(t, engine.LoadOptions{NCtx: nCtx, Sequences: 8})
	prompt := e.RawTokens(repeating)
	next := func(tokens []int32) map[int32]float64 {
		p := map[int32]float64{}
		require.NoError(t, e.EvaluateCached(context.Background(), tokens, len(tokens)-1, func(_ int, logits []float32) error {
			ids := make([]int32, len(logits))
			for i := range ids {
				ids[i] = int32(i)
			}
			slices.SortFunc(ids, func(a, b int32) int { return int(math.Copysign(1, float64(logits[b]-logits[a]))) })
			sum := 0.0
			for _, id := range ids[:topK] {
				p[id] = math.Exp(float64(logits[id]-logits[ids[0]]) / 1.5)
				sum += p[id]
			}
			for id := range p {
				p[id] /= sum
			}
			return nil
		}))
		return p
	}
	want := map[[2]int32]float64{}
	for a, pa := range next(prompt) {
		for b, pb := range next(append(slices.Clone(prompt), a)) {
			want[[2]int32{a, b}] = pa * pb
		}
	}
	seen, proposed := map[[2]int32]float64{}, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < draws; i += 8 {
				o := sample.Options{Temperature: 1.5, TopK: topK, Seed: uint64(i)}
				r, err := e.Generate(context.Background(), ask(prompt, 4, engine.SpeculateNgram, o))
				mu.Lock()
				if err != nil {
					t.Error(err)
				} else {
					seen[[2]int32(r.Tokens[:2])]++
					proposed += r.Speculation.Proposed
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Greater(t, proposed, draws/2)
	chi2, rare, rareSeen := 0.0, 0.0, 0.0
	for pair, p := range want {
		expected := p * float64(draws)
		if expected < 5 {
			rare, rareSeen = rare+expected, rareSeen+seen[pair]
			continue
		}
		chi2 += math.Pow(seen[pair]-expected, 2) / expected
	}
	if rare >= 5 {
		chi2 += math.Pow(rareSeen-rare, 2) / rare
	}
	for pair := range seen {
		require.Contains(t, want, pair)
	}
	t.Logf("χ² = %.2f with at most %d degrees of freedom, %d tokens proposed", chi2, topK*topK-1, proposed)
	require.Less(t, chi2, 26.1) // 8 degrees of freedom, probability 0.001
}

// Sequences that run together, with prompts of any length, have the tokens that each has alone.
func TestConcurrentRequestsOnTheCPU(t *testing.T) {
	words := strings.Fields(repeating)
	e := cpuEngine(t, engine.LoadOptions{NCtx: 256, Sequences: 5, CacheTokens: 512, MaxBatch: 48})
	alone := cpuEngine(t, engine.LoadOptions{NCtx: 256})
	var wg sync.WaitGroup
	results := make([]*engine.Result, 12)
	requests := func(i int) engine.Request {
		o := sample.Options{Temperature: 0.9, Seed: uint64(i)}
		return ask(e.RawTokens(strings.Join(words[i%3:3+i], " ")), 40+5*i, engine.SpeculateNgram, o)
	}
	for i := range results {
		wg.Go(func() {
			r, err := e.Generate(context.Background(), requests(i))
			if err != nil {
				t.Error(err)
			}
			results[i] = r
		})
	}
	wg.Wait()
	preempted := 0
	for i, r := range results {
		want, err := alone.Generate(context.Background(), requests(i))
		require.NoError(t, err)
		require.Equal(t, want.Tokens, r.Tokens, i)
		preempted += r.Preemptions
	}
	t.Logf("%d preemptions, %+v", preempted, e.Stats())
}

func TestEmbeddings(t *testing.T) {
	e := cpuEngine(t, engine.LoadOptions{NCtx: 256})
	small := cpuEngine(t, engine.LoadOptions{NCtx: 256, MaxBatch: 7, Sequences: 2})
	ctx := context.Background()
	text, other := e.RawTokens(repeating), e.RawTokens("a different text")
	for _, pool := range []engine.Pooling{engine.PoolMean, engine.PoolLast} {
		v, err := e.Embed(ctx, text, pool)
		require.NoError(t, err)
		require.Len(t, v, e.Config().NEmbd)
		w, err := small.Embed(ctx, text, pool)
		require.NoError(t, err)
		require.InDelta(t, 1, inner(v, v), 1e-5)
		require.InDelta(t, 1, inner(v, w), 1e-6, "%s: in small batches", pool)
		u, err := e.Embed(ctx, other, pool)
		require.NoError(t, err)
		require.Less(t, inner(u, v), 0.999)
	}
	mean, err := e.Embed(ctx, text[:1], engine.PoolMean)
	require.NoError(t, err)
	last, err := e.Embed(ctx, text[:1], engine.PoolLast)
	require.NoError(t, err)
	require.Equal(t, last, mean) // of one token
	_, err = e.Embed(ctx, nil, engine.PoolMean)
	require.ErrorContains(t, err, "no tokens")
	_, err = e.Embed(ctx, text, "sum")
	require.ErrorContains(t, err, "expected mean or last")
}

func inner(a, b []float32) (sum float64) {
	for i, x := range a {
		sum += float64(x) * float64(b[i])
	}
	return sum
}
