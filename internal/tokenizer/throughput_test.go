package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/race"
	"github.com/stretchr/testify/require"
)

// largeTexts returns texts of n bytes (a little less for characters of several bytes), by what they consist of.
func largeTexts(t testing.TB, n int) map[string]string {
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(next func() string) string {
		var b strings.Builder
		for b.Len() < n-16 {
			b.WriteString(next())
		}
		return b.String()
	}
	any := func(alphabet string) func() string {
		runes := []rune(alphabet)
		return func() string { return string(runes[r.IntN(len(runes))]) }
	}
	samples := readGoldens(t).Texts
	return map[string]string{
		"mixed": fill(func() string { return samples[r.IntN(len(samples))] + " " }),
		"words": fill(func() string {
			return strings.Repeat("word ", 3) + []string{"the ", "and ", "internationalization, "}[r.IntN(3)]
		}),
		"one letter":       strings.Repeat("a", n),
		"two letters":      strings.Repeat("ab", n/2),
		"letters":          fill(any("abcdefghijklmnopqrstuvwxyz")),
		"spaces":           strings.Repeat(" ", n),
		"line ends":        strings.Repeat("\n", n),
		"white space":      fill(any(" \n\t")),
		"digits":           fill(any("0123456789")),
		"punctuation":      fill(any("!?.,;:-_()[]{}/=+*&%$#@")),
		"emoji":            fill(any("😀👍🏽👩👧👦🎉🚀❤️")),
		"one emoji":        strings.Repeat("😀", n/4),
		"Chinese":          fill(any("日本語中文的一是不了人我在有他这为之大来以个")),
		"special":          strings.Repeat("<|im_start|>", n/12),
		"nearly special":   strings.Repeat("<|im_start|", n/11),
		"angle brackets":   strings.Repeat("<", n),
		"bytes":            fill(func() string { return string([]byte{byte(r.IntN(256))}) }),
		"combining":        "a" + strings.Repeat("\u0301", n/2-1),
		"apostrophes":      strings.Repeat("'", n),
		"upper and lower":  fill(any("aBcDeFgHiJkLmNoPqRsTuVwXyZ")),
		"zero width":       strings.Repeat("\u200d", n/3),
		"Thai":             fill(any("กขฃคฅฆงจฉชซฌญฎฏฐ")),
		"spaces and words": fill(func() string { return strings.Repeat(" ", 1+r.IntN(20)) + "x" }),
	}
}

// tokenizersUnderTest returns one tokenizer of each kind.
func tokenizersUnderTest(t testing.TB) map[string]*Tokenizer {
	out := map[string]*Tokenizer{}
	for _, c := range readGoldens(t).Cases {
		out[c.Name] = load(t, c.Tokenizer, c.Patch)
	}
	return out
}

// TestLargeTexts checks time and memory of every kind of text with every kind of tokenizer. The bound on time is a
// tenth of what an idle core reaches, so that a busy machine passes and quadratic work does not.
func TestLargeTexts(t *testing.T) {
	if race.Enabled {
		t.Skip("SKIPPED: the race detector allocates; make test and CI run this without it")
	}
	const n = 1 << 17
	texts := largeTexts(t, n)
	for name, tk := range tokenizersUnderTest(t) {
		for kind, text := range texts {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			ids := tk.Encode(text, false, true)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			longer := max(len(text), len(tk.normal.apply(text))) // lower case makes three bytes of one that is no character
			perByte := float64(after.TotalAlloc-before.TotalAlloc) / float64(longer)
			const most = 16.5 // with the results of a normalizer's earlier steps, which are garbage
			if perByte > most {
				t.Errorf("%s, %s: %.1f bytes allocated per byte, expected at most %.1f", name, kind, perByte, most)
			}
			require.Less(t, took, 1*time.Second, "%s, %s", name, kind)
			require.True(t, len(ids) > 0 || strings.TrimSpace(text) == "", "%s, %s", name, kind)
		}
	}
}

// leastRate is what every kind of text reaches with every kind of tokenizer on one core of a machine with nothing else to do.
const leastRate = 10e6 // bytes per second

func BenchmarkLargeTexts(b *testing.B) {
	const n = 10 << 20
	texts := largeTexts(b, n)
	for name, tk := range tokenizersUnderTest(b) {
		for kind, text := range texts {
			b.Run(fmt.Sprintf("%s/%s", name, kind), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					tk.Encode(text, false, true)
				}
				if rate := float64(len(text)) * float64(b.N) / b.Elapsed().Seconds(); rate < leastRate {
					b.Errorf("%.1f MB/s, expected at least %.0f", rate/1e6, leastRate/1e6)
				}
			})
		}
	}
}
