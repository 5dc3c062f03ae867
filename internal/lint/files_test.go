package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// source is a file that people write.
type source struct {
	path  string // from the root, with slashes
	lines []string
}

// sources reads all files with one of the extensions, without data, what was built, and what programs write.
func sources(t *testing.T, extensions ...string) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if skipped(rel) {
				return fs.SkipDir
			}
			return nil
		}
		if !slices.Contains(extensions, filepath.Ext(rel)) {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !generated(string(b)) {
			all = append(all, source{rel, strings.Split(string(b), "\n")})
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(all), 5, "no sources found for %v", extensions)
	return all
}

// skipped reports whether directory dir holds no sources: hidden ones, outputs of builds, models, measurements, test data.
func skipped(dir string) bool {
	switch base := filepath.Base(dir); {
	case dir == ".":
		return false
	case strings.HasPrefix(base, "."), base == "testdata":
		return true
	}
	return slices.Contains([]string{"bin", "build", "models", "shared", "bench/results"}, dir)
}

// generated reports whether the file says in its first lines that a program writes it.
func generated(text string) bool {
	head, _, _ := strings.Cut(text, "\npackage ")
	return strings.Contains(head[:min(len(head), 400)], "DO NOT EDIT")
}
