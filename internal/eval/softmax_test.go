package eval

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestExp(t *testing.T) {
	s := newSoftmax()
	for x := -700.0; x < 700; x += 0.37 {
		assert.InEpsilon(t, math.Exp(x), s.exp(x), 4e-11)
	}
	assert.Equal(t, 1.0, s.exp(0))
	assert.True(t, math.IsNaN(s.exp(math.NaN())))
}

func TestNegLogProb(t *testing.T) {
	s := newSoftmax()
	assert.InDelta(t, math.Log(4), s.negLogProb([]float32{7, 7, 7, 7}, 2), 1e-12)
	// softmax(0, ln 3) = 1/4, 3/4; a large common offset must not matter.
	logits := []float32{1000, 1000 + float32(math.Log(3))}
	assert.InDelta(t, math.Log(4), s.negLogProb(logits, 0), 1e-4)
	assert.InDelta(t, math.Log(4.0/3), s.negLogProb(logits, 1), 1e-4)

	inf := float32(math.Inf(1))
	assert.InDelta(t, math.Log(2), s.negLogProb([]float32{5, -inf, 5}, 0), 1e-12, "an impossible token changes nothing")
	for _, bad := range [][]float32{{1, nan}, {nan, 1}, {1, inf}, {-inf, -inf}} {
		assert.False(t, finite(s.negLogProb(bad, 0)), "%v", bad)
	}
}

// normal returns logits like a language model's: most far below the best.
func normal(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(3 * r.NormFloat64())
	}
	return v
}

func TestCompareLogits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := newSoftmax()
	for range 20 {
		a, b := normal(r, 1000), normal(r, 1000)
		got := logitsRow(a).compare(s, b, 7)
		pa, pb, kld := naive(a), naive(b), 0.0
		for i := range pa {
			kld += pa[i] * math.Log(pa[i]/pb[i])
		}
		assert.InEpsilon(t, kld, got.kld, 1e-8)
		assert.InDelta(t, -math.Log(pb[7]), got.nll, 1e-8)
		assert.InDelta(t, -math.Log(pa[7]), got.refNLL, 1e-8)

		same := logitsRow(a).compare(s, a, 7)
		assert.Zero(t, same.kld)
		assert.True(t, same.sameTop)
	}
	assert.False(t, logitsRow{1, 2, 3}.compare(s, []float32{3, 2, 1}, 0).sameTop)
	assert.False(t, finite(logitsRow{1, nan}.compare(s, []float32{1, 1}, 0).kld))
	assert.False(t, finite(logitsRow{1, 1}.compare(s, []float32{1, nan}, 0).kld))
}

func naive(logits []float32) []float64 {
	p, sum := make([]float64, len(logits)), 0.0
	for i, v := range logits {
		p[i] = math.Exp(float64(v))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// Saved rows hold rounded logarithms without the improbable tokens, so they give nearly the same comparison.
func TestCompareSavedRow(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := newSoftmax()
	for _, n := range []int{1000, 1001} {
		a, b := normal(r, n), normal(r, n)
		row := make(savedRow, rowBytes(n))
		s.encodeRow(row, a)
		want, got := logitsRow(a).compare(s, b, 5), row.compare(s, b, 5)
		assert.InEpsilon(t, want.kld, got.kld, 1e-3)
		assert.InDelta(t, want.nll, got.nll, 1e-9)
		assert.InDelta(t, want.refNLL, got.refNLL, 2e-4)
		assert.InDelta(t, 0, row.compare(s, a, 5).kld, 1e-3)
		assert.True(t, row.compare(s, a, 5).sameTop)
		assert.False(t, finite(row.compare(s, append([]float32{nan}, b[1:]...), 5).kld))
	}
}

func TestLevels(t *testing.T) {
	for _, c := range []struct{ scale, minimum float64 }{{16. / 65535, -17.3}, {16. / 65535, -16}, {1e-4, -9}, {1e-4, -30},
		{1e-5, -16.1}, {0, -5}, {0, -20}} {
		l := newLevels(c.scale, c.minimum)
		for level := range logitsLevels + 1 {
			want := 0.0
			if lp := c.scale*float64(level) + c.minimum; lp > logitsCutoff {
				want = math.Exp(lp)
			}
			if got := l.probability(uint16(level)); math.Abs(got-want) > 1e-12*want {
				t.Fatalf("%v, level %d: %v, expected %v", c, level, got, want)
			}
		}
	}
}

// Evaluation must not take longer than the forward pass: these are the two comparisons of a row of a large vocabulary.
func BenchmarkCompare(b *testing.B) {
	const nVocab = 151936
	r := rand.New(rand.NewPCG(5, 6))
	ref, logits := normal(r, nVocab), normal(r, nVocab)
	s := newSoftmax()
	row := make(savedRow, rowBytes(nVocab))
	s.encodeRow(row, ref)
	for _, reference := range []referenceRow{logitsRow(ref), row} {
		b.Run(fmt.Sprintf("%T", reference), func(b *testing.B) {
			for b.Loop() {
				reference.compare(s, logits, 7)
			}
		})
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			s.encodeRow(row, logits)
		}
	})
}
