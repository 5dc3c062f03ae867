package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	wordLine = regexp.MustCompile(`WORD \$0x([0-9a-f]{8}) // (.*)`)
	encoding = regexp.MustCompile(`encoding: \[0x(..),0x(..),0x(..),0x(..)\]`)
)

// TestEncodings has LLVM's assembler translate every mnemonic that the generator writes.
func TestEncodings(t *testing.T) {
	mc, err := exec.LookPath("llvm-mc")
	if err != nil {
		if os.Getenv("ELLM_REQUIRE_LLVM") != "" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED: llvm-mc, which knows the encodings, is not installed; make test-jetson installs it (Debian: llvm) and runs " +
			"this, also in CI")
	}
	for _, what := range files {
		functions, data, err := generate(what)
		if err != nil {
			t.Fatal(err)
		}
		lines := wordLine.FindAllStringSubmatch(assembly(functions, data), -1)
		var source strings.Builder
		for _, l := range lines {
			source.WriteString(l[2] + "\n")
		}
		cmd := exec.Command(mc, "--triple=aarch64", "--show-encoding")
		cmd.Stdin = strings.NewReader(source.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		found := encoding.FindAllStringSubmatch(string(out), -1)
		if len(lines) == 0 || len(found) != len(lines) {
			t.Fatalf("%s: %d instructions, %d translated\n%s", what, len(lines), len(found), out)
		}
		for i, l := range lines {
			if want := fmt.Sprintf("%s%s%s%s", found[i][4], found[i][3], found[i][2], found[i][1]); l[1] != want {
				t.Errorf("%s: %q is %s, expected %s", what, l[2], l[1], want)
			}
		}
	}
}

// TestInnerLoops has every loop counted: each ends with its branch and is in the manual's spelling.
func TestInnerLoops(t *testing.T) {
	for _, what := range files {
		functions, _, err := generate(what)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range functions {
			loop := innerLoop(f)
			if len(loop) < 8 || loop[len(loop)-1] != "b.ne step" {
				t.Errorf("%s: loop of %d instructions: %q", f.name, len(loop), loop)
			}
			for _, line := range loop {
				if strings.Contains(line, "$") {
					t.Errorf("%s: %q is in Go's spelling", f.name, line)
				}
			}
		}
	}
}
