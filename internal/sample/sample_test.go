package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ellm-gpu/ellm-gpu/internal/race"
	"github.com/stretchr/testify/require"
)

func randomLogits(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	l := make([]float32, n)
	for i := range l {
		l[i] = float32(r.NormFloat64() * 3)
	}
	return l
}

// reference keeps tokens by sorting everything, as the definitions say.
func reference(o Options, logits []float32) map[int32]bool {
	ids := make([]int32, len(logits))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if o.TopK > 0 && o.TopK < len(ids) {
		ids = ids[:o.TopK]
	}
	best := logits[ids[0]]
	if o.TopP > 0 && o.TopP < 1 {
		total, sum := 0.0, 0.0
		for _, id := range ids {
			total += math.Exp(float64(logits[id] - best))
		}
		for i, id := range ids {
			sum += math.Exp(float64(logits[id] - best))
			if sum >= float64(o.TopP)*total {
				ids = ids[:i+1]
				break
			}
		}
	}
	kept := map[int32]bool{}
	for _, id := range ids {
		if o.MinP <= 0 || logits[id] >= best+float32(math.Log(float64(o.MinP))) {
			kept[id] = true
		}
	}
	return kept
}

func TestCandidatesMatchDefinition(t *testing.T) {
	for seed := uint64(0); seed < 40; seed++ {
		n := 3 + int(seed*seed)*3
		logits := randomLogits(n, seed)
		for i := range logits {
			if seed%3 == 0 {
				logits[i] = float32(math.Round(float64(logits[i]))) // many ties
			}
		}
		for _, o := range []Options{{}, {TopK: 1}, {TopK: 40}, {TopK: n}, {TopP: 0.9}, {TopP: 0.9999}, {TopP: 1e-6}, {MinP: 0.05},
			{MinP: 1},
			{TopK: 40, TopP: 0.95, MinP: 0.05}, {TopK: 2 * n, TopP: 0.5, MinP: 0.3}, {TopK: 300, TopP: 0.99}} {
			s := New(o)
			s.candidates(logits, slices.Max(logits))
			got := map[int32]bool{}
			for _, c := range s.kept {
				got[c.id] = true
				require.Equal(t, logits[c.id], c.logit)
			}
			require.Equal(t, reference(o, logits), got, "seed %d, %+v", seed, o)
		}
	}
}

func TestDistribution(t *testing.T) {
	logits := []float32{1, 3, 2, -1, 3}
	const temp, draws = 1.5, 200000
	s := New(Options{Temperature: temp, Seed: 7})
	counts := make([]float64, len(logits))
	for range draws {
		id, err := s.Next(logits)
		require.NoError(t, err)
		counts[id]++
	}
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) / temp)
	}
	for i, l := range logits {
		require.InDelta(t, math.Exp(float64(l)/temp)/sum, counts[i]/draws, 0.005, "token %d", i)
	}
}

func TestSeed(t *testing.T) {
	logits := randomLogits(1000, 1)
	draw := func(seed uint64) (ids []int32) {
		s := New(Options{Temperature: 1, TopK: 100, Seed: seed})
		for range 30 {
			id, err := s.Next(logits)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		return ids
	}
	require.Equal(t, draw(5), draw(5))
	require.NotEqual(t, draw(5), draw(6))
}

func TestGreedyTakesLowestOfEquals(t *testing.T) {
	id, err := New(Options{}).Next([]float32{1, 5, 3, 5, 5})
	require.NoError(t, err)
	require.EqualValues(t, 1, id)
	s := New(Options{Temperature: 1, TopK: 1})
	id, err = s.Next([]float32{1, 5, 3, 5, 5})
	require.NoError(t, err)
	require.EqualValues(t, 1, id)
}

func TestPenalties(t *testing.T) {
	logits := []float32{2, -2, 1.9, 0.5}
	before := slices.Clone(logits)
	s := New(Options{RepeatPenalty: 1.5, PenaltyWindow: 2})
	s.Accept(0)
	s.Accept(1)
	s.penalize(logits)
	require.Equal(t, []float32{float32(2) / 1.5, -3, 1.9, 0.5}, logits)
	copy(logits, before)

	id, err := s.Next(logits)
	require.NoError(t, err)
	require.EqualValues(t, 2, id)
	require.Equal(t, before, logits, "Next must leave logits as they were")

	s.Accept(2) // 0 leaves the window
	id, err = s.Next(logits)
	require.NoError(t, err)
	require.EqualValues(t, 0, id)

	f := New(Options{FrequencyPenalty: 0.25, PresencePenalty: 0.5, PenaltyWindow: 8})
	for _, id := range []int32{3, 3, 3, 99, -1} { // ids outside the vocabulary are ignored
		f.Accept(id)
	}
	f.penalize(logits)
	require.Equal(t, []float32{2, -2, 1.9, 0.5 - 0.75 - 0.5}, logits)
}

func TestBadLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, o := range []Options{{}, DefaultOptions(), {Temperature: 1}} {
		for _, logits := range [][]float32{{nan}, {nan, 1}, {1, nan}, {1, 2, nan, 3}, {inf, nan}} {
			_, err := New(o).Next(logits)
			require.ErrorIs(t, err, ErrNaN, "%v", logits)
		}
		_, err := New(o).Next(nil)
		require.Error(t, err)
		id, err := New(o).Next([]float32{1, inf, 2})
		require.NoError(t, err)
		require.EqualValues(t, 1, id)
		id, err = New(o).Next([]float32{-inf, 4, -inf})
		require.NoError(t, err)
		require.EqualValues(t, 1, id)
	}
	_, err := New(Options{Temperature: 1}).Next([]float32{-inf, -inf})
	require.Error(t, err)
}

func TestNextDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	logits := randomLogits(5000, 3)
	for _, o := range []Options{{}, {Temperature: 1, TopK: 40, TopP: 0.95, MinP: 0.05, RepeatPenalty: 1.1, PenaltyWindow: 64},
		{Temperature: 1}, {Temperature: 1, TopP: 0.9}} {
		s := New(o)
		step := func() {
			id, err := s.Next(logits)
			if err != nil {
				t.Fatal(err)
			}
			s.Accept(id)
		}
		for range 200 { // until the window is full and all buffers have their size
			step()
		}
		require.LessOrEqual(t, testing.AllocsPerRun(100, step), 0.0, "%+v", o)
	}
}

func BenchmarkNext150k(b *testing.B) {
	logits := randomLogits(151936, 2)
	for _, c := range []struct {
		name string
		o    Options
	}{{"greedy", Options{}}, {"default", DefaultOptions()}, {"top-p", Options{Temperature: 1, TopP: 0.95}},
		{"temperature", Options{Temperature: 1}}} {
		b.Run(c.name, func(b *testing.B) {
			s := New(c.o)
			for b.Loop() {
				if _, err := s.Next(logits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
