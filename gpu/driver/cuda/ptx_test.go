package cuda

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSplitPTX(t *testing.T) {
	const text = `// } { in a comment
.version 6.5
.target sm_53
.extern .shared .align 16 .b8 dynamic[];
	// .globl	one
.func helper(
	.param .b64 a
)
{
	ret;
}
.visible .entry one(
	.param .u64 one_param_0
)
.maxntid 256, 1, 1
{
	{ .reg .b32 t; }
	ret;
}
.shared .align 4 .b8 between[4];
.visible .entry two()
{
	call helper;
}
`
	m := splitPTX(text)
	assert.Len(t, m.kernels, 2)
	one := m.module("one")
	for _, want := range []string{".version 6.5\n", "dynamic[]", "helper", "between[4]", ".entry one(", ".reg .b32 t;"} {
		assert.Contains(t, one, want)
	}
	assert.NotContains(t, one, ".entry two")
	assert.Contains(t, m.module("two"), "call helper;\n}\n")
	assert.Equal(t, len(text), len(m.shared)+len(m.kernels["one"])+len(m.kernels["two"]), "nothing is lost")
}

// What PTX ISA 6.5 has ("PTX ISA", instruction set), without what needs a GPU newer than 5.3.
const opcodes65 = ` abs activemask add addc and atom bar barrier bfe bfi bfind bra brev brx call clz cnot copysign cos cvt cvta div
ex2 exit fence fma isspacep ld lg2 lop3 mad mad24 madc max membar min mov mul mul24 neg not or popc prefetch prmt rcp red rem ret rsqrt
sad selp set setp shf shfl shl shr sin slct sqrt st sub subc testp trap vote xor `

var newer = regexp.MustCompile(`^cvt.*f16x2\.f32|\.relu|satfinite`)

// The label of PTX says which drivers take it; the compiler's own label is newer than what the kernels use.
func TestEmbeddedPTXUsesNothingNewerThanItsLabel(t *testing.T) {
	for name, extra := range map[string]string{"compute_53.ptx": "", "compute_80.ptx": " cp ldmatrix mma "} {
		data, err := image{path: "kernels/" + name + ".gz"}.read(os.DirFS("."))
		if err != nil {
			t.Logf("SKIPPED: %v; make kernels", err)
			continue
		}
		allowed := strings.Fields(opcodes65 + extra)
		instruction := regexp.MustCompile(`(?m)^\s*(?:\{\s*)?(?:@!?%\w+\s+)?([a-z]\w*)((?:\.\w+(?:::\w+)?)*)\s[^;]*;`)
		n := 0
		for _, m := range instruction.FindAllStringSubmatch(string(data), -1) {
			n++
			if !slices.Contains(allowed, m[1]) {
				t.Errorf("%s: instruction %s%s", name, m[1], m[2])
			}
			// cvt to two halves at once, saturation to finite values and tanh came with ISA 7.0.
			assert.False(t, newer.MatchString(m[1]+m[2]), "%s: %s%s", name, m[1], m[2])
		}
		assert.Greater(t, n, 10000, name)
	}
}

// The embedded PTX, if it is there: every kernel is found, and its module is a small part of the whole.
func TestSplitEmbeddedPTX(t *testing.T) {
	data, err := image{path: "kernels/compute_53.ptx.gz"}.read(os.DirFS("."))
	if err != nil {
		t.Skip("SKIPPED: no compiled kernels; make test-kernels compiles them and runs this, also in CI")
	}
	m := splitPTX(string(data))
	assert.Len(t, m.kernels, strings.Count(string(data), ".entry "))
	require.Contains(t, m.kernels, "probe_device")
	assert.Less(t, len(m.module("probe_device")), len(data)/50)
}
