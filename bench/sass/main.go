// Command sass prints, for every compiled kernel, its resources and the cost of its main loop in instructions per
// weight, read from the machine code. It needs cuobjdump, which comes with nvcc.
//
// usage: sass [-arch sm_53] [-json FILE] DIR-WITH-CUBINS
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	arch := flag.String("arch", "sm_53,sm_80,sm_86,sm_90", "architectures, separated by commas; those without a cubin are left out")
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
	found, spills := 0, 0
	for _, arch := range archs {
		files, err := filepath.Glob(filepath.Join(dir, "*"+arch+".cubin"))
		if err != nil {
			return err
		}
		for _, f := range files {
			n, err := report(f)
			if err != nil {
				return err
			}
			found++
			spills += n
		}
	}
	if found == 0 {
		return fmt.Errorf("%s holds no cubin for %s (make kernels)", dir, strings.Join(archs, " or "))
	}
	if spills > 0 {
		return fmt.Errorf("%d kernels spill registers or keep arrays in local memory", spills)
	}
	return nil
}

// report prints the kernels of one cubin and returns how many of them use local memory.
func report(path string) (spills int, err error) {
	code, err := output("cuobjdump", "-sass", path)
	if err != nil {
		return 0, err
	}
	usage, err := output("cuobjdump", "-res-usage", path)
	if err != nil {
		return 0, err
	}
	resources := parseUsage(usage)
	fmt.Printf("%s\n%-26s %6s %6s %6s %6s   %s\n", filepath.Base(path), "kernel", "instr", "regs", "shared", "local", "main loop: instructions / weights = per weight")
	for _, k := range parseCode(code) {
		r := resources[k.name]
		if r.local > 0 {
			spills++
		}
		cost := ""
		if multiplies(k.name) {
			cost = costText(k)
		}
		fmt.Printf("%-26s %6d %6d %6d %6d   %s\n", k.name, len(k.code), r.registers, r.shared, r.local, cost)
	}
	return spills, nil
}

// multiplies tells whether a kernel touches every weight of a matrix, so that instructions per weight mean something.
func multiplies(name string) bool {
	if strings.HasSuffix(name, "_mixed") { // the loops of others
		return false
	}
	return strings.HasPrefix(name, "gemv_") || strings.HasPrefix(name, "gemm_") || strings.HasPrefix(name, "decode_chunks_") || strings.HasPrefix(name, "unpack_codes_")
}

func output(name string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w %s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}
