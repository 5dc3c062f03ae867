package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"github.com/stretchr/testify/require"
)

// patternOf returns the regular expression of a rule.
func patternOf(rule string) string {
	const contraction, space = `(?:'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`, `|\s*[\r\n]+|\s+(?!\S)|\s+`
	const upper, lower, lead = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`, `[^\r\n\p{L}\p{N}]?`
	return map[string]string{
		ruleGPT2:   `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
		ruleLlama3: contraction + `|` + lead + `\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` + space,
		ruleQwen2:  contraction + `|` + lead + `\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*` + space,
		ruleQwen35: contraction + `|` + lead + `[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + space,
		ruleO200k: lead + upper + `*` + lower + `+` + contraction + `?|` + lead + upper + `+` + lower + `*` + contraction +
			`?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + space,
		ruleTekken:    lead + upper + `*` + lower + `+|` + lead + upper + `+` + lower + `*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + space,
		ruleDigit:     `\p{N}`,
		ruleDigits:    `\p{N}+`,
		ruleDigits3:   `\p{N}{1,3}`,
		ruleASCII3:    `[0-9][0-9][0-9]`,
		rulePunct:     `[\p{P}\$\+<=>\^~\|]+`,
		ruleMetaspace: `▁[^▁]*|[^▁]+`,
	}[rule]
}

func rules() []string {
	return []string{ruleGPT2, ruleLlama3, ruleQwen2, ruleQwen35, ruleO200k, ruleTekken, ruleDigit, ruleDigits, ruleDigits3,
		ruleASCII3, rulePunct, ruleMetaspace}
}

// regexWords cuts s at all matches; what lies between them are words, too.
func regexWords(t testing.TB, re *regexp2.Regexp, s string) (words []string) {
	runes := []rune(s)
	at := 0
	m, err := re.FindRunesMatch(runes)
	for ; m != nil; m, err = re.FindNextMatch(m) {
		require.NoError(t, err)
		if m.Index > at {
			words = append(words, string(runes[at:m.Index]))
		}
		words = append(words, m.String())
		at = m.Index + m.Length
	}
	require.NoError(t, err)
	if at < len(runes) {
		words = append(words, string(runes[at:]))
	}
	return words
}

func ruleWords(t testing.TB, rule, s string) (words []string) {
	sp, err := newSplitter(rule)
	require.NoError(t, err)
	for s != "" {
		n := sp.next(s)
		require.Greater(t, n, 0, "%s: %q", rule, s)
		require.LessOrEqual(t, n, len(s))
		words = append(words, s[:n])
		s = s[n:]
	}
	return words
}

func TestSplittersMatchTheirPatterns(t *testing.T) {
	pool := []rune("aZéßſ 'stSrelLvVmdD0129٣½Ⅷ \t\n\r\u00a0\u2003\u0085.,!/$+<=>^~|_-\"日한ไअ\u0301\u0903😀ǅʰªЖ▁\u200b")
	r := rand.New(rand.NewPCG(1, 2))
	for _, rule := range rules() {
		re := regexp2.MustCompile(patternOf(rule), regexp2.None)
		for range 3000 {
			var b strings.Builder
			for range 1 + r.IntN(12) {
				b.WriteRune(pool[r.IntN(len(pool))])
			}
			require.Equal(t, regexWords(t, re, b.String()), ruleWords(t, rule, b.String()), "%s: %q", rule, b.String())
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("It's  1234 a\n\n b\r\n", uint8(1))
	f.Add("\xff\xc3(", uint8(4))
	f.Fuzz(func(t *testing.T, s string, which uint8) {
		rule := rules()[int(which)%len(rules())]
		words := ruleWords(t, rule, s)
		require.Equal(t, s, strings.Join(words, ""))
		if utf8.ValidString(s) && len(s) < 200 {
			require.Equal(t, regexWords(t, regexp2.MustCompile(patternOf(rule), regexp2.None), s), words, rule)
		}
	})
}

func TestRuleOfPattern(t *testing.T) {
	for _, rule := range []string{ruleGPT2, ruleLlama3, ruleQwen2, ruleQwen35, ruleO200k, ruleTekken, ruleDigit, ruleDigits,
		ruleDigits3} {
		got, ok := ruleOfPattern(strings.ReplaceAll(patternOf(rule), "[sSſ]", "[sS]"))
		require.True(t, ok, rule)
		require.Equal(t, rule, got)
	}
	_, ok := ruleOfPattern(`\w+`)
	require.False(t, ok)
}
