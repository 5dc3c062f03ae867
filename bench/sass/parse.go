package main

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// instruction is one machine instruction.
type instruction struct {
	address     uint64
	op          string // with its modifiers: "LDS.U.32"
	target      uint64 // of a branch, SSY or PBK
	conditional bool
}

type kernel struct {
	name string
	code []instruction
}

type usage struct{ registers, shared, local int }

var (
	functionLine = regexp.MustCompile(`^\s*Function : (\S+)`)
	codeLine     = regexp.MustCompile(`/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;}]*)[;}]`)
	hexOperand   = regexp.MustCompile(`0x([0-9a-f]+)`)
	usageName    = regexp.MustCompile(`Function (\S+):`)
	usageField   = regexp.MustCompile(`(REG|SHARED|LOCAL|STACK):(\d+)`)
)

func parseCode(sass []byte) []kernel {
	var all []kernel
	for line := range strings.Lines(string(sass)) {
		if m := functionLine.FindStringSubmatch(line); m != nil {
			all = append(all, kernel{name: m[1]})
			continue
		}
		m := codeLine.FindStringSubmatch(line)
		if m == nil || len(all) == 0 {
			continue
		}
		in := instruction{op: m[3], conditional: m[2] != "" && !strings.Contains(m[2], "PT")}
		in.address, _ = strconv.ParseUint(m[1], 16, 64) // the pattern admits nothing else
		if base, _, _ := strings.Cut(in.op, "."); slices.Contains([]string{"BRA", "CALL", "SSY", "PBK"}, base) {
			if t := hexOperand.FindStringSubmatch(m[4]); t != nil {
				in.target, _ = strconv.ParseUint(t[1], 16, 64)
			}
		}
		k := &all[len(all)-1]
		if in.op != "NOP" {
			k.code = append(k.code, in)
		}
	}
	return all
}

func parseUsage(text []byte) map[string]usage {
	all, name := map[string]usage{}, ""
	for line := range strings.Lines(string(text)) {
		if m := usageName.FindStringSubmatch(line); m != nil {
			name = m[1]
		}
		for _, m := range usageField.FindAllStringSubmatch(line, -1) {
			n, _ := strconv.Atoi(m[2])
			u := all[name]
			switch m[1] {
			case "REG":
				u.registers = n
			case "SHARED":
				u.shared = n
			default:
				u.local += n
			}
			all[name] = u
		}
	}
	return all
}

// loop is a run of instructions that ends with a branch to its beginning.
type loop struct{ first, last int }

// loops returns all loops, inner ones before those around them.
func loops(code []instruction) []loop {
	var all []loop
	for i, in := range code {
		if strings.HasPrefix(in.op, "BRA") && in.target < in.address {
			// A target may be the control word in front of an instruction.
			first := sort.Search(i, func(k int) bool { return code[k].address >= in.target })
			all = append(all, loop{first, i})
		}
	}
	return all
}

// own returns the instructions of a loop that lie in no loop inside it.
func (l loop) own(code []instruction, all []loop) []instruction {
	inner := make([]bool, l.last-l.first+1)
	for _, m := range all {
		if m != l && m.first >= l.first && m.last <= l.last {
			for i := m.first; i <= m.last; i++ {
				inner[i-l.first] = true
			}
		}
	}
	var own []instruction
	for i := l.first; i <= l.last; i++ {
		if !inner[i-l.first] {
			own = append(own, code[i])
		}
	}
	return own
}

// marks tell by which instruction of a kernel's main loop its weights are counted, and how many one stands for in a lane. The
// first line that fits a kernel and finds something holds.
var marks = []struct {
	prefix, op string
	weights    int
}{
	{"gemv_fused_", "LDS", 2},       // a look-up is a pair
	{"gemm_mma_", "HMMA.16816", 64}, // 16 × 16 × 8 products of a warp
	{"gemm_mma_", "HMMA.1688", 32},  // 16 × 8 × 8
	{"gemm_wide_", "HMMA.16816", 64},
	{"attention_tiles_", "HMMA.16816", 64},
	{"decode_chunks_", "ST", 2}, // a pair is stored
	{"decode_chunks_", "STG", 2},
	{"unpack_codes_u8", "ST", 4}, // four bytes, or a pair of 16 bits
	{"unpack_codes_u8", "STG", 4},
	{"unpack_codes_i32", "ST", 2},
	{"unpack_codes_i32", "STG", 2},
	{"gemm_", "HFMA2", 2},
	{"gemm_", "FFMA", 1},
}

// weights counts the weights (times tokens) that the instructions of one pass handle in a lane.
func weights(name string, code []instruction) int {
	if strings.HasPrefix(name, "gemv_fused_") && (countOps(code, "HFMA2")+countOps(code, "FFMA") == 0 ||
		countOps(code, "SHF") == 0 || stores(code)) {
		return 0 // reads shared memory for something else than decoding
	}
	if m := packedName.FindStringSubmatch(name); m != nil {
		return countPacked(code, m)
	}
	switch name {
	case "gemv_any": // a loop for each type, unrolled four times, in which inputs are loaded one by one
		return min(4, countOps(code, "LDG.E"))
	case "gemv_f16", "gemv_bf16": // 8 weights and their inputs take three loads
		return countWide(code) * 8 / 3
	}
	for _, m := range marks {
		if n := countOps(code, m.op); n > 0 && strings.HasPrefix(name, m.prefix) {
			return n * m.weights
		}
	}
	return 0
}

// stores tells whether the code waits for other warps or writes to device memory: the ends of rows do, and what prepares the next
// input, but no decoding.
func stores(code []instruction) bool {
	return countOps(code, "BAR")+countOps(code, "ST")+countOps(code, "STG") > 0
}

// packedName matches the products with packed codes, their bits, and how many vectors they take if several.
var packedName = regexp.MustCompile(`^gemv_packed(\d).*?(?:_x([248]))?$`)

// countPacked counts the weights of a product with packed codes. A lane loads pieces of 32 columns of four rows: as many times 16
// bytes as a code has bits, and as much again four times for the inputs of each vector.
func countPacked(code []instruction, m []string) int {
	const weights = 4 * 32
	vectors := 1
	if m[2] != "" {
		vectors = int(m[2][0] - '0')
	}
	return countWide(code) * weights / (int(m[1][0]-'0') + 4*vectors)
}

// countWide counts loads of 16 bytes from device memory.
func countWide(code []instruction) int {
	n := 0
	for _, in := range code {
		if base, _, _ := strings.Cut(in.op, "."); (base == "LDG" || base == "LD") && strings.Contains(in.op, ".128") {
			n++
		}
	}
	return n
}

// countOps counts instructions by name, whatever modifiers follow unless the name has some.
func countOps(code []instruction, op string) int {
	n := 0
	for _, in := range code {
		if in.op == op || strings.HasPrefix(in.op, op+".") && (!strings.Contains(op, ".") || strings.HasPrefix(op, "HMMA")) {
			n++
		}
	}
	return n
}

// mainLoop returns the instructions of the loop that handles the weights and how many it handles in one pass: the one with the
// most weights, and among such the shortest. Loops without loops inside them go first: what lies around them serves the ends of
// rows.
func mainLoop(k kernel) (body []instruction, most int) {
	_, body, most = findMainLoop(k)
	return body, most
}

// findMainLoop is mainLoop and where the loop is.
func findMainLoop(k kernel) (at loop, body []instruction, most int) {
	all := loops(k.code)
	mostInner := false
	for _, l := range all {
		own := l.own(k.code, all)
		inner := len(own) == l.last-l.first+1
		w := weights(k.name, own)
		better := w > most || w == most && len(own) < len(body)
		if w > 0 && (inner && !mostInner || inner == mostInner && better) {
			at, body, most, mostInner = l, own, w, inner
		}
	}
	return at, body, most
}

// costText tells what a kernel's main loop costs.
func costText(k kernel) string {
	body, n := mainLoop(k)
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%d / %d = %.2f", len(body), n, float64(len(body))/float64(n))
}
