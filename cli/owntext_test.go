package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// A model calibrated with what it writes itself: always the same file, no draft is left, and the texts are told about.
func TestCompressCalibrateSelf(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "m.ellm")
	compress := func() []byte {
		o := ellm("compress", testmodel.Path(t), "-o", out, "--calibrate-self", "1000", "--device", "cpu")
		require.Zero(t, o.code, o.err)
		assert.Contains(t, o.err, "the model wrote 1024 tokens")
		assert.Contains(t, o.out, "error feedback")
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		require.NoError(t, err)
		require.Equal(t, []string{out}, files)
		b, err := os.ReadFile(out)
		require.NoError(t, err)
		return b
	}
	assert.Equal(t, compress(), compress())
	for _, args := range [][]string{{"--calibrate-self", "-1"}, {"--calibrate-self", "512", "--lossless"}, {"--calibrate-self", "512", "--imatrix", "x"}} {
		assert.Equal(t, exitUsage, ellm(append([]string{"compress", testmodel.Path(t), "-o", out}, args...)...).code)
	}
}
