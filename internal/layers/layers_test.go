package layers

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/ellm-gpu/ellm-gpu/"

// allowed lists, for every package of this module, the other packages of this module that its
// product code may import. A trailing /... covers a subtree. docs/architecture.md explains the rules.
var allowed = map[string][]string{
	"internal/huffman":         {},
	"internal/isa":             {},
	"internal/linalg":          {"internal/isa"},
	"internal/fault":           {},
	"internal/infile":          {},
	"internal/outfile":         {},
	"internal/race":            {},
	"internal/parallel":        {"internal/fault"},
	"internal/quant":           {"internal/linalg"},
	"internal/sample":          {},
	"internal/tokenizer":       {},
	"internal/safetensors":     {},
	"internal/jinja":           {},
	"internal/chat":            {"internal/jinja"},
	"internal/gguf":            {"internal/tokenizer"},
	"internal/imatrix":         {"internal/gguf"},
	"internal/layers":          {},
	"internal/memory":          {},
	"internal/serve":           {"internal/engine", "internal/chat", "internal/grammar", "internal/sample", "internal/tokenizer"},
	"internal/hub":             {},
	"internal/hub/hubtest":     {},
	"internal/store":           {},
	"internal/session":         {"internal/chat"},
	"internal/grammar":         {},
	"internal/predict":         {"internal/predict/devices"},
	"internal/predict/devices": {},
	"internal/lint":            {},
	"internal/notices":         {},

	"format":             {"internal/huffman"},
	"internal/codec":     {"format", "internal/huffman"},
	"internal/model":     {"format"},
	"internal/calibrate": {"internal/model", "internal/linalg"},

	"internal/shapes": {"format", "internal/codec", "internal/huffman", "internal/model"},
	"internal/engine": {"format", "internal/model", "internal/tokenizer", "internal/chat", "internal/sample"},
	"internal/source": {"internal/model", "internal/tokenizer", "internal/gguf", "internal/safetensors"},
	"internal/convert": {"format", "internal/source", "internal/calibrate", "internal/linalg", "internal/model",
		"internal/tokenizer", "internal/gguf", "internal/imatrix", "internal/quant", "internal/codec", "internal/huffman"},
	"internal/eval": {"internal/engine", "internal/sample"},

	"cpu": {"cpu/buffer", "cpu/decode", "cpu/dot", "cpu/product", "cpu/vec", "cpu/weights", "format", "internal/isa",
		"internal/memory", "internal/model", "internal/engine"},

	"cpu/product":          {"cpu/buffer", "cpu/dot", "cpu/vec", "cpu/weights", "format"},
	"cpu/weights":          {"cpu/buffer", "cpu/decode", "cpu/dot", "cpu/vec", "format", "internal/isa"},
	"cpu/...":              {"format", "internal/huffman", "internal/isa"},
	"cpu/internal/cputest": {"cpu/decode", "cpu/dot", "cpu/vec", "format", "internal/codec", "internal/huffman", "internal/isa"},

	"gpu/...": {"gpu/...", "format", "internal/predict", "internal/memory", "internal/model", "internal/engine", "internal/huffman"},

	"internal/testmodel": {"internal/..."},
	"internal/e2e":       {},
	"cli":                {"cpu", "gpu/...", "format", "internal/..."},
	"cli/...":            {"cli"},
	"bench/...":          {"cpu/...", "gpu/...", "format", "internal/..."},
}

// everywhere lists packages that every other one may import.
var everywhere = []string{"internal/fault", "internal/infile", "internal/outfile", "internal/parallel", "internal/race"}

// onlyIn lists outside packages that must stay within one room.
var onlyIn = map[string]string{
	"gorgonia.org/cu":                     "gpu/",
	"github.com/urfave/cli":               "cli",
	"github.com/vbauerster":               "cli",
	"github.com/peterh/liner":             "cli",
	"github.com/prometheus/client_golang": "internal/serve",
}

func match(pattern, pkg string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == tree || strings.HasPrefix(pkg, tree+"/")
	}
	return pattern == pkg
}

// ruleFor returns the most specific entry of allowed.
func ruleFor(pkg string) (rule []string, found bool) {
	if r, ok := allowed[pkg]; ok {
		return r, true
	}
	longest := -1
	for pattern, r := range allowed {
		if match(pattern, pkg) && len(pattern) > longest {
			longest, rule, found = len(pattern), r, true
		}
	}
	return rule, found
}

// listImports returns the direct imports of every package of the module's product code.
func listImports(t *testing.T, tags string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-tags", tags, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		imports[f[0]] = f[1:]
	}
	require.NotEmpty(t, imports)
	return imports
}

func TestImportsFollowTheLayers(t *testing.T) {
	for _, tags := range []string{"", "cuda"} {
		for pkg, imports := range listImports(t, tags) {
			from, ours := strings.CutPrefix(pkg, module)
			if !ours {
				t.Errorf("package %s lies outside the module's rooms", pkg)
				continue
			}
			rule, known := ruleFor(from)
			if !known {
				t.Errorf("package %s has no entry in the import table: add it here and to docs/architecture.md", from)
				continue
			}
			for _, imp := range imports {
				checkImport(t, from, imp, rule)
			}
		}
	}
}

func checkImport(t *testing.T, from, imp string, rule []string) {
	t.Helper()
	if to, ours := strings.CutPrefix(imp, module); ours {
		for _, pattern := range slices.Concat(rule, everywhere) {
			if match(pattern, to) {
				return
			}
		}
		t.Errorf("%s must not import %s", from, to)
		return
	}
	for outside, room := range onlyIn {
		if strings.HasPrefix(imp, outside) && !strings.HasPrefix(from+"/", room) {
			t.Errorf("%s must not import %s: only %s may", from, imp, room)
		}
	}
	if imp == "C" && !strings.HasPrefix(from, "gpu") {
		t.Errorf("%s uses cgo: only gpu may", from)
	}
}

// The pure Go binary must not reach cgo or the driver through any path.
func TestPureGoBinaryHasNoDriver(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cli/ellm-gpu")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	require.NoError(t, err)
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "gorgonia.org/") || dep == "runtime/cgo" {
			t.Errorf("the binary without the tag cuda depends on %s", dep)
		}
	}
}
