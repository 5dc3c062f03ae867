// Command sass prints, for every compiled kernel, its resources and the cost of its main loop in instructions per
// weight, read from the machine code. It needs cuobjdump, which comes with nvcc.
//
// usage: sass [-arch sm_53] [-json FILE] DIR-WITH-CUBINS
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	arch := flag.String("arch", "sm_53", "architectures, separated by commas")
	counts := flag.String("json", "", "instead of printing, write instruction counts by class to this `file`")
	flag.Parse()
	err := error(nil)
	if *counts != "" {
		err = writeCounts(*counts, flag.Arg(0), strings.Split(*arch, ","))
	} else {
		err = run(flag.Arg(0), strings.Split(*arch, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sass:", err)
		os.Exit(1)
	}
}

func run(dir string, archs []string) error {
	modules, err := readModules(dir, archs)
	if err != nil {
		return err
	}
	spills := 0
	for _, m := range modules {
		spills += m.print()
	}
	if spills > 0 {
		return fmt.Errorf("%d kernels spill registers or keep arrays in local memory", spills)
	}
	return nil
}

// print writes a line for each kernel and returns how many of them use local memory.
func (m *module) print() (spills int) {
	fmt.Printf("%s\n%-26s %6s %6s %6s %6s   %s\n", m.arch, "kernel", "instr", "regs", "shared", "local",
		"main loop: instructions / weights = per weight")
	for _, k := range m.kernels {
		r := m.resources[k.name]
		if r.local > 0 {
			spills++
		}
		cost := ""
		if multiplies(k.name) {
			cost = costText(k)
		}
		fmt.Printf("%-26s %6d %6d %6d %6d   %s\n", k.name, len(k.code), r.registers, r.shared, r.local, cost)
	}
	return spills
}

// multiplies tells whether a kernel touches every weight of a matrix, so that instructions per weight mean something.
func multiplies(name string) bool {
	if strings.Contains(name, "_mixed") { // the loops of others
		return false
	}
	return strings.HasPrefix(name, "gemv_") || strings.HasPrefix(name, "gemm_") || strings.HasPrefix(name, "decode_chunks_") ||
		strings.HasPrefix(name, "unpack_codes_") || strings.HasPrefix(name, "attention_tiles_")
}
