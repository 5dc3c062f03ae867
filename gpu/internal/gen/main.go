// Command gen writes typed Go launch functions for the kernels in cuda/*.cu, and Go copies of the constants and of the structs
// that kernels have pointers to, of cuda/matrix.cuh and cuda/tasks.cuh. It fails on anything whose type it does not know. Usage:
// gen -cuda DIR -o FILE
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sort"
	"strings"
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
	macros, err := readMacros(dir)
	if err != nil {
		return nil, err
	}
	kernels, text, err := readKernels(dir, macros)
	if err != nil {
		return nil, err
	}
	structs, consts, err := readHeaders(dir, text)
	if err != nil {
		return nil, err
	}
	return emit(kernels, structs, consts)
}

// readMacros returns the macros of all headers.
func readMacros(dir string) (map[string]macro, error) {
	headers, err := filepath.Glob(filepath.Join(dir, "*.cuh"))
	if err != nil {
		return nil, err
	}
	macros := map[string]macro{}
	for _, path := range headers {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		maps.Copy(macros, parseMacros(string(b)))
	}
	return macros, nil
}

// readKernels returns the kernels of all files, sorted by name, and the text of the files with macros expanded.
func readKernels(dir string, macros map[string]macro) (kernels []kernel, text string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.cu"))
	if err != nil {
		return nil, "", err
	}
	if len(files) == 0 {
		return nil, "", fmt.Errorf("no kernels in %s", dir)
	}
	sort.Strings(files)
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, "", err
		}
		src := expand(string(b), macros)
		text += src
		ks, err := parseKernels(src)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", path, err)
		}
		for i := range ks {
			ks[i].file = filepath.Base(path)
		}
		kernels = append(kernels, ks...)
	}
	sort.Slice(kernels, func(i, j int) bool { return kernels[i].name < kernels[j].name })
	for i := 1; i < len(kernels); i++ {
		if kernels[i].name == kernels[i-1].name {
			return nil, "", fmt.Errorf("kernel %s is defined twice", kernels[i].name)
		}
	}
	return kernels, text, nil
}

// readHeaders returns the constants of the headers that kernels share with Go, and those of their structs to which text, or an
// earlier header, has a pointer; others are the kernels' own.
func readHeaders(dir, text string) (structs []structDef, consts []constant, err error) {
	for _, name := range []string{"matrix.cuh", "tasks.cuh"} {
		header := filepath.Join(dir, name)
		b, err := os.ReadFile(header)
		if err != nil {
			return nil, nil, err
		}
		text += string(b)
		s, c, err := parseHeader(string(b))
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", header, err)
		}
		for _, d := range s {
			d.file = name
			if strings.Contains(text, d.name+"* ") {
				structs = append(structs, d)
			}
		}
		consts = append(consts, c...)
	}
	return structs, consts, nil
}
