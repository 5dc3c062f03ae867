package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
)

// kernelCount is what a predictor needs to know of a compiled kernel. The counts are those of one pass through its main loop.
type kernelCount struct {
	Kernel    string         `json:"kernel"`
	Arch      string         `json:"arch"`
	Registers int            `json:"registers"`        // per thread
	Shared    int            `json:"shared"`           // bytes per block, declared in the kernel
	Weights   int            `json:"weights"`          // products (or decoded weights) of a lane in one pass
	Counts    map[string]int `json:"counts"`           // instructions by class
	Around    map[string]int `json:"around,omitempty"` // likewise, from the end of the main loop to its next beginning
}

// countFile is what -json writes.
type countFile struct {
	Compiler string        `json:"compiler"` // version of nvcc
	Kernels  []kernelCount `json:"kernels"`
}

// classes lists instructions by how many of them a multiprocessor completes per clock. What is not here counts as "int".
var classes = map[string][]string{
	"half": {"HFMA2", "HADD2", "HMUL2", "HSET2", "HSETP2", "HMNMX2"},
	"fp32": {"FFMA", "FADD", "FMUL", "FMUL32I", "FADD32I", "FFMA32I"},
	"shift": {"SHF", "SHL", "SHR", "BFE", "BFI", "ISETP", "ISET", "ICMP", "IMNMX", "FSETP", "FSET", "FMNMX", "FSEL", "SEL",
		"PRMT", "BMSK", "SGXT"},
	"mul":     {"IMAD", "XMAD"},
	"convert": {"F2F", "F2I", "I2F", "I2I", "I2FP", "F2FP", "FRND", "POPC", "FLO", "SHFL", "BREV"},
	"special": {"MUFU", "RRO"},
	"shared":  {"LDS", "STS", "ATOMS"},
	"global":  {"LDG", "LD", "STG", "ST", "ATOM", "ATOMG", "RED", "LDL", "STL"},
	"tensor":  {"HMMA", "IMMA", "BMMA", "HGMMA", "IGMMA"},
	"control": {"BRA", "BRX", "EXIT", "SSY", "SYNC", "BAR", "DEPBAR", "BSSY", "BSYNC", "WARPSYNC", "VOTE", "VOTEU", "PBK",
		"BRK", "PCNT", "CONT", "CAL", "CALL",
		"RET", "MEMBAR", "R2UR", "S2R", "S2UR", "CS2R", "ENDCOLLECTIVE", "BREAK", "YIELD", "ERRBAR"},
}

var uniform = regexp.MustCompile(`^U[A-Z]`)

// classOf returns an instruction's class. Shared-memory accesses of more than 32 bits are "shared_wide".
func classOf(op string) string {
	base, _, _ := strings.Cut(op, ".")
	for class, ops := range classes {
		for _, o := range ops {
			if o != base {
				continue
			}
			if class == "shared" && (strings.Contains(op, ".64") || strings.Contains(op, ".128")) {
				return "shared_wide"
			}
			return class
		}
	}
	if uniform.MatchString(base) { // one per warp, on a path of its own: an issue slot and nothing else
		return "control"
	}
	return "int"
}

// counts returns the main loops of a module's kernels, those that touch every weight of a matrix.
func (m *module) counts() []kernelCount {
	var all []kernelCount
	for _, k := range m.kernels {
		r := m.resources[k.name]
		c := kernelCount{Kernel: k.name, Arch: m.arch, Registers: r.registers, Shared: r.shared, Counts: map[string]int{}}
		if multiplies(k.name) {
			at, body, weights := findMainLoop(k)
			c.Weights = weights
			for _, in := range body {
				c.Counts[classOf(in.op)]++
			}
			if weights > 0 {
				c.Around = map[string]int{}
				for _, in := range betweenLoops(k.code, at) {
					c.Around[classOf(in.op)]++
				}
			}
		}
		all = append(all, c)
	}
	return all
}

var nvccVersion = regexp.MustCompile(`V(\d+\.\d+\.\d+)`)

// countAll returns the counts of modules compiled by the nvcc at hand.
func countAll(modules []module) (*countFile, error) {
	version, err := output("nvcc", "--version")
	if err != nil {
		return nil, err
	}
	f := &countFile{}
	if m := nvccVersion.FindSubmatch(version); m != nil {
		f.Compiler = string(m[1])
	}
	for _, m := range modules {
		f.Kernels = append(f.Kernels, m.counts()...)
	}
	return f, nil
}

// encode writes one kernel per line, so that differences read well.
func (f *countFile) encode() ([]byte, error) {
	var b strings.Builder
	b.WriteString("{\"compiler\": \"" + f.Compiler + "\",\n\"kernels\": [\n")
	for i, k := range f.Kernels {
		line, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		b.Write(line)
		if i+1 < len(f.Kernels) {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]}\n")
	return []byte(b.String()), nil
}

// writeCounts writes the counts of dir's cubins to path.
func writeCounts(path, dir string, archs []string) error {
	modules, err := readModules(dir, archs)
	if err != nil {
		return err
	}
	f, err := countAll(modules)
	if err != nil {
		return err
	}
	b, err := f.encode()
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
