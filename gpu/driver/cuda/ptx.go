package cuda

import (
	"regexp"
	"strings"
)

// ptxModule is PTX, taken apart so that a program compiles the kernels that it uses and no others: all of them together take a
// Jetson Nano minutes.
type ptxModule struct {
	shared  string            // directives and declarations outside of kernels, which every kernel may need
	kernels map[string]string // each kernel's declaration and body
}

var ptxEntry = regexp.MustCompile(`^\s*(?:\.visible\s+|\.weak\s+)?\.entry\s+([A-Za-z_$][\w$]*)`)

// splitPTX takes PTX as nvcc writes it apart. At its top level a kernel begins with .entry, and ends with the brace that closes
// its body.
func splitPTX(text string) ptxModule {
	m := ptxModule{kernels: map[string]string{}}
	var shared strings.Builder
	name, depth := "", 0
	var body strings.Builder
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "//")
		if depth == 0 && name == "" {
			if e := ptxEntry.FindStringSubmatch(code); e != nil {
				name = e[1]
				body.Reset()
			}
		}
		if name == "" {
			shared.WriteString(line)
		} else {
			body.WriteString(line)
		}
		opened := depth > 0
		depth += strings.Count(code, "{") - strings.Count(code, "}")
		if name != "" && depth == 0 && (opened || strings.Contains(code, "}")) {
			m.kernels[name] = body.String()
			name = ""
		}
	}
	m.shared = shared.String()
	return m
}

// module returns PTX of one kernel.
func (m ptxModule) module(kernel string) string { return m.shared + m.kernels[kernel] }
