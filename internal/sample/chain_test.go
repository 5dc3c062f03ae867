package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func keptIDs(s *Sampler) (ids []int32) {
	for _, c := range s.kept {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	return ids
}

func probabilities(logits []float32) []float64 {
	best, sum := slices.Max(logits), 0.0
	p := make([]float64, len(logits))
	for i, l := range logits {
		p[i] = math.Exp(float64(l - best))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func TestTypicalKeepsTheLeastUnexpectedSurprises(t *testing.T) {
	for seed := range uint64(20) {
		logits := randomLogits(200, seed)
		p, entropy := probabilities(logits), 0.0
		for _, v := range p {
			entropy -= v * math.Log(v)
		}
		ids := make([]int32, len(p))
		for i := range ids {
			ids[i] = int32(i)
		}
		distance := func(id int32) float64 { return math.Abs(-math.Log(p[id]) - entropy) }
		slices.SortFunc(ids, func(a, b int32) int {
			if distance(a) < distance(b) {
				return -1
			}
			return 1
		})
		mass, n := 0.0, 0
		for mass < 0.6 {
			mass += p[ids[n]]
			n++
		}
		want := slices.Clone(ids[:n])
		slices.Sort(want)
		s := New(Options{Typical: 0.6, Temperature: 1})
		s.candidates(logits, slices.Max(logits))
		require.Equal(t, want, keptIDs(s), "seed %d", seed)
		s = New(Options{Typical: 0.6, TopP: 0.5, MinP: 0.2, Temperature: 1})
		s.candidates(logits, slices.Max(logits))
		require.Subset(t, want, keptIDs(s))
		require.LessOrEqual(t, len(s.kept), n)
		require.True(t, slices.IsSortedFunc(s.kept, byLogit))
	}
}

func TestXTCExcludesAllButTheLastOfTheTopChoices(t *testing.T) {
	logits := []float32{0, 0, 0, 0, 0, 0}
	for i, p := range []float64{0.05, 0.3, 0.2, 0.25, 0.12, 0.08} {
		logits[i] = float32(math.Log(p))
	}
	kept := func(o Options, u float64) []int32 {
		s := New(o)
		s.candidates(logits, slices.Max(logits))
		s.excludeTop(u)
		return keptIDs(s)
	}
	all := []int32{0, 1, 2, 3, 4, 5}
	on := Options{XTCProbability: 0.5, XTCThreshold: 0.11}
	require.Equal(t, []int32{0, 4, 5}, kept(on, 0.1), "of 30, 25, 20 and 12 % the last stays")
	require.Equal(t, all, kept(on, 0.5))
	require.Equal(t, all, kept(Options{XTCProbability: 1, XTCThreshold: 0.29}, 0), "the only one above stays")
	require.Equal(t, all, kept(Options{XTCProbability: 1, XTCThreshold: 0.6}, 0))
	s, counts := New(Options{Temperature: 1, XTCProbability: 0.5, XTCThreshold: 0.11, Seed: 3}), map[int32]int{}
	for range 20000 {
		id, err := s.Next(logits)
		require.NoError(t, err)
		counts[id]++
	}
	require.InDelta(t, 0.15, float64(counts[1])/20000, 0.015, "half of 30 %")
	require.InDelta(t, 0.5*0.12+0.5*0.12/0.25, float64(counts[4])/20000, 0.02)
}

// repeatsByDefinition compares the end of the text with every earlier place.
func repeatsByDefinition(o *DRY, text []int32) map[int32]int {
	found := map[int32]int{}
	t := text[max(0, len(text)-min(o.Window, len(text))):]
	for end := range len(t) - 1 { // t[end] comes before the token that followed then
		n := 0
		for n <= end && t[end-n] == t[len(t)-1-n] && !strings.ContainsAny(o.Piece(t[end-n]), "\n") {
			n++
		}
		next := t[end+1]
		if n >= max(o.AllowedLength, 1) && !strings.Contains(o.Piece(next), "\n") {
			found[next] = max(found[next], n)
		}
	}
	return found
}

func TestDRYFindsRepetitions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "b", "\n", "c"}
	hits := 0
	for range 300 {
		o := DRY{Multiplier: 1, Base: 2, AllowedLength: 1 + r.IntN(3), Window: 1 + r.IntN(60), Breakers: []string{"\n"},
			Piece: func(id int32) string { return pieces[id] }}
		s, text := New(Options{DRY: o}), []int32{}
		for range r.IntN(150) {
			id := []int32{0, 0, 1, 1, 0, 3, 2}[r.IntN(7)]
			text = append(text, id)
			s.Accept(id)
		}
		want := repeatsByDefinition(&o, text)
		hits += len(want)
		got := s.dry.repeats(&o)
		if got == nil {
			got = map[int32]int{}
		}
		require.Equal(t, want, got, "%v, %+v", text, o)
	}
	require.Greater(t, hits, 100)
}

func TestDRYPenalty(t *testing.T) {
	pieces := []string{"x", "y", "z", "a:b", "<br", ">"}
	o := DRY{Multiplier: 0.75, Base: 1.75, AllowedLength: 2, Window: 100, Breakers: []string{":", "<br>"},
		Piece: func(id int32) string { return pieces[id] }}
	s := New(Options{DRY: o})
	logits := []float32{1, 1, 1, 1, 1, 1}
	for _, id := range []int32{0, 1, 2, 3, 0, 1} {
		s.Accept(id)
	}
	s.penalize(logits)
	require.Equal(t, []float32{1, 1, 1 - 0.75, 1, 1, 1}, logits, "x y was followed by z")
	logits = []float32{1, 1, 1, 1, 1, 1}
	before := slices.Clone(logits)
	id, err := s.Next(logits)
	require.NoError(t, err)
	require.Zero(t, id)
	require.Equal(t, before, logits)
	s.Accept(2)
	require.Empty(t, s.dry.repeats(&o), "a breaker is not penalized")
	s = New(Options{DRY: o})
	for _, id := range []int32{0, 4, 5, 1, 2, 0, 4, 5, 1} {
		s.Accept(id)
	}
	require.Empty(t, s.dry.repeats(&o), "a breaker of two tokens ends the repetition: y is too short")
	s.Accept(2)
	require.Equal(t, map[int32]int{0: 2}, s.dry.repeats(&o))
	require.EqualValues(t, math.MaxFloat32, o.penalty(100000))
}

func TestMirostatKeepsTheSurprise(t *testing.T) {
	for version := 1; version <= 2; version++ {
		for _, tau := range []float32{2, 4} {
			s := New(Options{Temperature: 1, Seed: 1, Mirostat: Mirostat{Version: version, Tau: tau, Eta: 0.1}})
			r, sum, n := rand.New(rand.NewPCG(9, 9)), 0.0, 0
			logits := make([]float32, 2000)
			for step := range 1500 {
				for i := range logits { // Zipf's law with another exponent each time, and noise
					logits[i] = float32(-(0.9+0.4*r.Float64())*math.Log(float64(i+1)) + 0.1*r.NormFloat64())
				}
				s.unsurprisingOrZipf(logits)
				kept := slices.Clone(s.kept)
				id, err := s.Next(logits)
				require.NoError(t, err)
				if step < 200 {
					continue
				}
				p := probabilities(logitsOf(kept)) // the surprise among the tokens that were kept
				i := slices.IndexFunc(kept, func(c candidate) bool { return c.id == id })
				sum -= math.Log2(p[i])
				n++
			}
			require.Greater(t, n, 1000)
			require.InDelta(t, float64(tau), sum/float64(n), 0.35, "version %d", version)
		}
	}
}

func (s *Sampler) unsurprisingOrZipf(logits []float32) {
	if s.opt.Mirostat.Version == 1 {
		s.zipf(logits)
	} else {
		s.unsurprising(logits, slices.Max(logits))
	}
}

func logitsOf(kept []candidate) (l []float32) {
	for _, c := range kept {
		l = append(l, c.logit)
	}
	return l
}

func TestMirostatOfFewTokens(t *testing.T) {
	inf := float32(math.Inf(-1))
	for version := 1; version <= 2; version++ {
		for _, logits := range [][]float32{{1}, {1, 1}, {5, inf, inf}, {inf, 3, 3}, {1e30, -1e30, 0}} {
			s := New(Options{Temperature: 1, Mirostat: Mirostat{Version: version, Tau: 5, Eta: 0.1}})
			for range 50 {
				id, err := s.Next(logits)
				require.NoError(t, err)
				require.False(t, math.IsInf(float64(logits[id]), -1))
			}
		}
	}
}

func TestBias(t *testing.T) {
	inf := float32(math.Inf(-1))
	logits := []float32{1, 2, 3}
	for _, o := range []Options{{}, {Temperature: 1}} {
		o.Bias = map[int32]float32{2: inf, 1: inf, 99: 5}
		id, err := New(o).Next(logits)
		require.NoError(t, err)
		require.Zero(t, id)
		o.Bias = map[int32]float32{0: inf, 1: inf, 2: inf}
		_, err = New(o).Next(logits)
		require.ErrorIs(t, err, ErrExcluded)
	}
	id, err := New(Options{Bias: map[int32]float32{0: 10}}).Next(logits)
	require.NoError(t, err)
	require.Zero(t, id)
	require.Equal(t, []float32{1, 2, 3}, logits)
}
