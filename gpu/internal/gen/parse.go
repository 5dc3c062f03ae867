package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// field is a kernel parameter or a struct member.
type field struct {
	name   string // as in C++
	goType string
}

type kernel struct {
	name, file string
	block      int // __launch_bounds__: the threads of a block
	params     []field
}

type structDef struct {
	name   string
	file   string
	fields []field
}

type constant struct {
	name  string
	value int
}

var (
	lineComment  = regexp.MustCompile(`//[^\n]*`)
	blockComment = regexp.MustCompile(`(?s)/\*.*?\*/`)
	kernelDecl   = regexp.MustCompile(`extern\s+"C"\s+__global__\s+void\s+` +
		`__launch_bounds__\((\d+)(?:,\s*\d+)?\)\s+(\w+)\s*\(([^)]*)\)`)
	structDecl = regexp.MustCompile(`(?s)struct\s+(\w+)\s*\{([^}]*)\}`)
	enumDecl   = regexp.MustCompile(`enum\s*\{([^}]*)\}`)
	fieldDecl  = regexp.MustCompile(`^(.*?)(\w+)$`)
)

func stripComments(src string) string {
	return lineComment.ReplaceAllString(blockComment.ReplaceAllString(src, ""), "")
}

// parseKernels finds all kernels of a file. Every __global__ must be in the form that kernelDecl describes.
func parseKernels(src string) ([]kernel, error) {
	src = stripComments(src)
	found := kernelDecl.FindAllStringSubmatch(src, -1)
	if n := strings.Count(src, "__global__"); n != len(found) {
		return nil, fmt.Errorf(`%d kernels, of which %d are declared as extern "C" __global__ void __launch_bounds__(N) name(...)`, n,
			len(found))
	}
	var ks []kernel
	for _, m := range found {
		block, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", m[2], err)
		}
		k := kernel{name: m[2], block: block}
		for _, p := range strings.Split(m[3], ",") {
			f, err := parseField(p)
			if err != nil {
				return nil, fmt.Errorf("kernel %s: %w", k.name, err)
			}
			k.params = append(k.params, f)
		}
		ks = append(ks, k)
	}
	return ks, nil
}

// parseField parses "type name". Pointers of every kind are device pointers.
func parseField(decl string) (field, error) {
	m := fieldDecl.FindStringSubmatch(strings.TrimSpace(decl))
	if m == nil {
		return field{}, fmt.Errorf("cannot read parameter %q", strings.TrimSpace(decl))
	}
	typ := strings.TrimSpace(strings.ReplaceAll(m[1], "__restrict__", ""))
	if strings.HasSuffix(typ, "*") {
		return field{m[2], "driver.DevicePtr"}, nil
	}
	switch strings.TrimSpace(strings.TrimPrefix(typ, "const ")) {
	case "int32_t":
		return field{m[2], "int32"}, nil
	case "uint32_t":
		return field{m[2], "uint32"}, nil
	case "int64_t":
		return field{m[2], "int64"}, nil
	case "uint64_t":
		return field{m[2], "uint64"}, nil
	case "float":
		return field{m[2], "float32"}, nil
	}
	return field{}, fmt.Errorf("parameter %s has type %q; known are pointers, int32_t, uint32_t, int64_t, uint64_t, float", m[2],
		typ)
}

// parseHeader finds the structs and the enumerators with explicit values.
func parseHeader(src string) ([]structDef, []constant, error) {
	src = stripComments(src)
	var structs []structDef
	for _, m := range structDecl.FindAllStringSubmatch(src, -1) {
		s := structDef{name: m[1]}
		for _, line := range strings.Split(m[2], ";") {
			if strings.TrimSpace(line) == "" {
				continue
			}
			names := strings.Split(line, ",")
			first, err := parseField(names[0])
			if err != nil {
				return nil, nil, fmt.Errorf("struct %s: %w", s.name, err)
			}
			s.fields = append(s.fields, first)
			for _, n := range names[1:] {
				s.fields = append(s.fields, field{strings.TrimSpace(n), first.goType})
			}
		}
		structs = append(structs, s)
	}
	var consts []constant
	for _, m := range enumDecl.FindAllStringSubmatch(src, -1) {
		for _, e := range strings.Split(m[1], ",") {
			name, value, ok := strings.Cut(e, "=")
			v, err := strconv.Atoi(strings.TrimSpace(value))
			if !ok || err != nil {
				return nil, nil, fmt.Errorf("enumerator %q has no plain value", strings.TrimSpace(e))
			}
			consts = append(consts, constant{strings.TrimSpace(name), v})
		}
	}
	return structs, consts, nil
}
