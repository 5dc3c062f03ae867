package gpu

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
)

// productCode returns the Go code in some folders, that of tests left out.
func productCode(t *testing.T, folders ...string) (code string) {
	t.Helper()
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			code += string(b)
		}
	}
	return code
}

// Every kernel is launched: by its number, by its own launch function, in place of the kernel of one vector that is, or, by name,
// by a driver or a measurement.
func TestEveryKernelIsLaunched(t *testing.T) {
	code, byName := productCode(t, "."), productCode(t, "driver/cuda", "../bench/kernels")
	for id := range kernels.Count {
		one := id
		for k := range kernels.Count {
			if several, n := k.Vectors(id.Size(), id.Size()); n > 1 && several == id {
				one = k
			}
		}
		words := strings.Split(one.String(), "_")
		for i, w := range words {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
		name := strings.Join(words, "")
		launched := regexp.MustCompile(`\bkernels\.` + name + `ID\b|\b[lp]\.` + name + `\(`)
		assert.True(t, launched.MatchString(code) || strings.Contains(byName, `"`+id.String()+`"`), "kernel %s", id)
	}
}
