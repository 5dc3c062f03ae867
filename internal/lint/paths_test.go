package lint

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

var pathInDocs = regexp.MustCompile("`((?:cpu|gpu|cuda|cli|format|internal|bench)/[A-Za-z0-9_./*-]+)`")

func exists(pattern string) bool {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	return err == nil && len(found) > 0
}

// Files that the documents name exist. What a program builds is left out: bench/results and models.
func TestDocsNameExistingFiles(t *testing.T) {
	n := 0
	for _, s := range sources(t, ".md") {
		for i, l := range s.lines {
			for _, m := range pathInDocs.FindAllStringSubmatch(l, -1) {
				if strings.HasPrefix(m[1], "bench/results/") {
					continue
				}
				n++
				assert.True(t, exists(strings.TrimSuffix(m[1], "/")), "%s:%d: there is no %s", s.path, i+1, m[1])
			}
		}
	}
	assert.Greater(t, n, 30)
}

// The table of operations in docs/architecture.md leads to the files in one hop.
func TestOperationsAreFoundInOneHop(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	assert.NoError(t, err)
	rooms := []string{"", "cpu", "gpu", "cuda", "internal/calibrate"}
	rows := 0
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != len(rooms) || !strings.Contains(line, "`") || strings.Contains(line, "operation") {
			continue
		}
		rows++
		for i, room := range rooms[1:] {
			names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[i+1], -1)
			assert.NotEmpty(t, names, "%s: %s", cells[0], room)
			for _, m := range names {
				assert.True(t, exists(filepath.Join(room, m[1])), "%s: there is no %s/%s", cells[0], room, m[1])
			}
		}
	}
	assert.Equal(t, 10, rows)
}
