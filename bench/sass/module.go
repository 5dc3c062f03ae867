package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// module is what a cubin holds.
type module struct {
	arch      string
	kernels   []kernel
	resources map[string]usage // by kernel
}

// readModules disassembles dir/ARCH.cubin of each architecture, several at once: cuobjdump takes up to a minute for one.
func readModules(dir string, archs []string) ([]module, error) {
	modules := make([]module, len(archs))
	err := parallel.Each(context.Background(), len(archs), func(i int, _ *struct{}) error {
		path := filepath.Join(dir, archs[i]+".cubin")
		code, err := output("cuobjdump", "-sass", path)
		if err != nil {
			return err
		}
		text, err := output("cuobjdump", "-res-usage", path)
		if err != nil {
			return err
		}
		modules[i] = module{archs[i], parseCode(code), parseUsage(text)}
		return nil
	})
	return modules, err
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
