// Command notices writes THIRD_PARTY_NOTICES: the licences of all modules that are linked into the program, from go.mod and the
// module cache. It fails for a module without a licence file and for licences that are not on its list.
//
//	go run ./internal/notices > THIRD_PARTY_NOTICES
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// program is the package whose dependencies count, with and without GPU support.
const program = "github.com/ellm-gpu/ellm-gpu/cli/ellm-gpu"

// module is what "go list" tells of a linked module.
type module struct {
	Path, Version, Dir string
}

func main() {
	text, err := notices(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// notices returns the text for the module in directory root.
func notices(root string) (string, error) {
	modules, err := linked(root)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("The program contains the Go standard library and runtime (BSD-3-Clause, https://go.dev/LICENSE)\n" +
		"and the following modules and data. This file is written by \"make notices\".\n")
	for _, m := range append(modules, data(root)...) {
		texts, err := licences(m)
		if err != nil {
			return "", err
		}
		for _, t := range texts {
			fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n%s\n\n%s\n", rule, m.Path, m.Version, t.kind, rule, strings.TrimSpace(t.text))
		}
	}
	return b.String(), nil
}

// data lists what the program embeds of other projects that are not modules.
func data(root string) []module {
	return []module{{Path: "grids of GGUF's IQ types, from", Version: "ggml", Dir: filepath.Join(root, "internal", "gguf", "ggml")}}
}

var rule = strings.Repeat("=", 80)

// linked lists the modules of the program's packages, on amd64 and arm64, sorted by path.
func linked(root string) ([]module, error) {
	seen := map[string]module{}
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-tags", "cuda", "-json=Module", program)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=1", "GOEXPERIMENT=")
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
			}
			return nil, err
		}
		for d := json.NewDecoder(strings.NewReader(string(out))); ; {
			var p struct{ Module *module }
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if p.Module != nil && p.Module.Version != "" { // no version: the main module
				seen[p.Module.Path] = *p.Module
			}
		}
	}
	var all []module
	for _, m := range seen {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b module) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// licence is a licence file and the SPDX name of what it says.
type licence struct{ kind, text string }

// licences reads the licence and notice files in m's root.
func licences(m module) ([]licence, error) {
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (go mod download fetches modules)", m.Path, err)
	}
	var all []licence
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		isNotice := strings.HasPrefix(name, "NOTICE")
		if e.IsDir() || !isNotice && !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") &&
			name != "UNLICENSE" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		l := licence{kind: "notice", text: string(b)}
		if !isNotice {
			if l.kind = kindOf(l.text); l.kind == "" {
				return nil, fmt.Errorf("%s: %s is not a licence that may be linked: MIT, BSD, Apache-2.0, ISC and Unlicense are", m.Path,
					e.Name())
			}
		}
		all = append(all, l)
	}
	if !slices.ContainsFunc(all, func(l licence) bool { return l.kind != "notice" }) {
		return nil, fmt.Errorf("%s: there is no licence file in %s", m.Path, m.Dir)
	}
	return all, nil
}

// kindOf returns the SPDX name of a licence text, "" for one that is not on the list.
func kindOf(text string) string {
	t := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	has := func(s string) bool { return strings.Contains(t, s) }
	switch {
	case has("gnu general public") || has("gnu lesser") || has("gnu affero") || has("mozilla public"):
		return ""
	case has("apache license version 2.0"):
		return "Apache-2.0"
	case has("permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT"
	case has("redistribution and use in source and binary forms"):
		if has("neither the name") || has("names of its contributors") {
			return "BSD-3-Clause"
		}
		return "BSD-2-Clause"
	case has("permission to use, copy, modify, and/or distribute this software for any purpose"):
		return "ISC"
	case has("unlicense.org") || has("free and unencumbered software released into the public domain"):
		return "Unlicense"
	}
	return ""
}
