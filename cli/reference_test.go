package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReferenceIsCurrent(t *testing.T) {
	want := mustRun(t, "docs").out
	got, err := os.ReadFile("../docs/cli.md")
	require.NoError(t, err)
	assert.True(t, want == string(got), "docs/cli.md is not what the program says: make docs writes it again")
}

func TestReferenceHasWhatUsersLookFor(t *testing.T) {
	md, man := mustRun(t, "docs").out, mustRun(t, "docs", "--man").out
	for _, s := range []string{"## compress", "## eval ppl", "--bpw", "ELLM_EMU"} {
		assert.Contains(t, md, s)
	}
	assert.Contains(t, man, ".SH COMPRESS\n")
	assert.Contains(t, man, `\-\-bpw`)
	assert.NotContains(t, md, "--no-centroid", "laboratory options are in docs/experiments.md")
	assert.NotContains(t, mustRun(t, "compress", "--help").out, "--no-centroid")
	for line := range strings.Lines(md) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 110, line)
	}
}

func TestLaboratoryOptionsAreDocumented(t *testing.T) {
	notebook, err := os.ReadFile("../docs/experiments.md")
	require.NoError(t, err)
	for _, f := range laboratoryFlags() {
		assert.Contains(t, string(notebook), "`--"+f.Names()[0], "docs/experiments.md")
	}
}

// Every ELLM_ variable that Go code reads is in the reference.
func TestEnvironmentVariablesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, v := range environment {
		documented[v.name] = true
	}
	read := regexp.MustCompile(`(?:Getenv|LookupEnv)\("(ELLM_[A-Z_]+)"\)`)
	found := 0
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range read.FindAllStringSubmatch(string(b), -1) {
			found++
			assert.True(t, documented[m[1]], "%s reads %s, which cli/reference.go does not list", path, m[1])
		}
		return err
	}))
	assert.Positive(t, found)
}
