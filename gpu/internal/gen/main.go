// Command gen writes typed Go launch functions for the kernels in cuda/*.cu, and Go copies of the structs and constants of
// cuda/matrix.cuh and cuda/tasks.cuh. It fails on anything whose type it does not know. Usage: gen -cuda DIR -o FILE
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
)

func main() {
	dir := flag.String("cuda", "../cuda", "folder of the kernels")
	out := flag.String("o", "kernels_gen.go", "file to write")
	flag.Parse()
	src, err := generate(*dir)
	if err == nil {
		err = os.WriteFile(*out, src, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// generate returns the Go source for the kernels and structs in dir.
func generate(dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.cu"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no kernels in %s", dir)
	}
	sort.Strings(files)
	var kernels []kernel
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		ks, err := parseKernels(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for i := range ks {
			ks[i].file = filepath.Base(path)
		}
		kernels = append(kernels, ks...)
	}
	sort.Slice(kernels, func(i, j int) bool { return kernels[i].name < kernels[j].name })
	for i := 1; i < len(kernels); i++ {
		if kernels[i].name == kernels[i-1].name {
			return nil, fmt.Errorf("kernel %s is defined twice", kernels[i].name)
		}
	}
	var structs []structDef
	var consts []constant
	for _, name := range []string{"matrix.cuh", "tasks.cuh"} {
		header := filepath.Join(dir, name)
		b, err := os.ReadFile(header)
		if err != nil {
			return nil, err
		}
		s, c, err := parseHeader(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", header, err)
		}
		for i := range s {
			s[i].file = name
		}
		structs, consts = append(structs, s...), append(consts, c...)
	}
	return emit(kernels, structs, consts)
}
