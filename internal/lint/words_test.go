package lint

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// retired is a word that docs/glossary.md or the rules for prose replaced.
type retired struct {
	pattern    string // of what must not stand in a line
	rooms      []string
	extensions []string
	instead    string
}

var (
	code = []string{".go", ".cu", ".cuh"}
	all  = []string{".go", ".cu", ".cuh", ".md"}
)

// words lists the retired ones, with the rooms in which they had the retired meaning. Elsewhere the same word may be the right
// one.
var words = []retired{
	{`\b[Rr]emainders?\b|remainder_`, []string{"gpu/", "cuda/"}, code, "exceptions"},
	{`\bsparse\b`, []string{"cpu/", "gpu/", "cuda/"}, code, "exceptions"},
	{`\b(?:fine|fineBits)\s+(?:\*|int|\[)`, []string{"cpu/"}, code, "low"},
	{`\btype (?:plan|matrix) struct`, []string{"internal/convert/"}, code, "tensorJob, quantizer"},
	{`\btype (?:stage|layout|form|packed|unit) struct`, []string{"cpu/"}, code,

		"fusedNode, Tiling, PlaneForm, planes, RowBlock"},
	{`\btype (?:step|span|part|layout|unit) struct`, []string{"gpu/kernels/", "gpu/plan", "gpu/weight", "gpu/schedule", "gpu/load",
		"gpu/arena"}, code, "productOperands, tokenRange, allocation, devicePlan"},
	{`\bTextsBackend\b|\bForwardTexts\b|\bLoadOptions\.Texts\b`, []string{""}, all, "Batch, Sequences"},
	{`\bENGINE\b`, []string{"cuda/"}, code, "multiplier"},
	{`\bpredict\.Task\b|\btype Task struct`, []string{"gpu/", "internal/predict/"}, code, "WorkItem"},
	{`\bbench/devices\b`, []string{""}, all, "internal/predict/devices"},
	{`\b(?:any more|is no longer|are no longer)\b`, []string{""}, all, "what holds, without history"},
	{`\bso many\b`, []string{""}, all, "this many, that many"},
	{`\bbehind (?:its|the|their|them|it|this|that|which)\b`, []string{"cpu/", "gpu/", "docs/", "format/", "internal/",
		"README.md"}, all,
		"after"},
	{`\bfor good\b|\blikewise\b`, []string{"docs/", "README.md"}, all, "plain words"},
	{`\bwhat (?:enters|executes) (?:its|kernels)\b`, []string{""}, all, "the noun"},
}

// find returns the indices of lines in which w stands.
func (w *retired) find(s source) (at []int) {
	in := func(prefix string) bool { return strings.HasPrefix(s.path, prefix) }
	if !slices.ContainsFunc(w.rooms, in) || !slices.ContainsFunc(w.extensions,
		func(e string) bool { return strings.HasSuffix(s.path, e) }) {
		return nil
	}
	p := regexp.MustCompile(w.pattern)
	for i, l := range s.lines {
		if p.MatchString(l) {
			at = append(at, i)
		}
	}
	return at
}

func TestRetiredWordsStayAway(t *testing.T) {
	for _, s := range sources(t, all...) {
		if strings.HasPrefix(s.path, "internal/lint/") || s.path == "docs/glossary.md" {
			continue // they name the words
		}
		for i := range words {
			for _, at := range words[i].find(s) {
				t.Errorf("%s:%d: %q is retired (docs/glossary.md): use %s", s.path, at+1, strings.TrimSpace(s.lines[at]), words[i].instead)
			}
		}
	}
}

// Every pattern finds its word where it was, and leaves other rooms alone.
func TestRetiredWordsAreFound(t *testing.T) {
	for line, path := range map[string]string{
		"\tremainders uint32":                  "gpu/weight.go",
		"    uint32_t remainder_start;":        "cuda/matrix.cuh",
		"// a sparse list":                     "cpu/weights/planes.go",
		"\tfine *planes":                       "cpu/weights/planes.go",
		"type plan struct {":                   "internal/convert/x.go",
		"type layout struct {":                 "cpu/plan.go",
		"type span struct{ from, to int }":     "gpu/schedule.go",
		"b.ForwardTexts(tokens)":               "cli/x.go",
		"template <class ENGINE>":              "cuda/gemm.cuh",
		"func f() predict.Task":                "gpu/cost.go",
		"see bench/devices":                    "docs/x.md",
		"There are none any more.":             "docs/x.md",
		"one in so many":                       "internal/x.go",
		"// bits behind its code":              "cpu/decode/x.go",
		"what enters its matrices":             "docs/x.md",
		"CUDA and likewise the emulator do so": "README.md",
	} {
		s := source{path, []string{"a line without it", line}}
		found := slices.ContainsFunc(words, func(w retired) bool { return slices.Equal(w.find(s), []int{1}) })
		assert.True(t, found, "%s: %s", path, line)
	}
	ok := source{"internal/grammar/x.go", []string{"// a node per remainder", "a span of runes", "two tiles", "behind a proxy"}}
	for i := range words {
		assert.Empty(t, words[i].find(ok), words[i].pattern)
	}
}
