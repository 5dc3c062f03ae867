package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
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
	for _, args := range [][]string{
		{"-1"}, {"512", "--lossless"}, {"512", "--imatrix", "x"},
		{"512", "--size", "1000"}, {"512", "--bpw", "3", "--damping", "-1"}, {"512", "--row-exponent", "2"},
	} {
		o := ellm(append([]string{"compress", testmodel.Path(t), "-o", out, "--calibrate-self"}, args...)...)
		assert.Equal(t, exitUsage, o.code, "%v: %s", args, o.err)
		assert.NotContains(t, o.err, "the model wrote", args) // mistakes are found before the work
	}
}

// Texts written side by side are those written one after the other.
func TestWriteTextsTogether(t *testing.T) {
	p := &program{Streams: Streams{Out: io.Discard, Err: io.Discard}}
	file := filepath.Join(t.TempDir(), "m.ellm")
	o := ellm("compress", testmodel.Path(t), "-o", file, "--bpw", "5")
	require.Zero(t, o.code, o.err)
	write := func(texts int) ([][]int32, []int, int64) {
		m, err := p.load(t.Context(), file, "cpu", engine.LoadOptions{NCtx: ownTextTokens, Sequences: texts})
		require.NoError(t, err)
		defer m.close()
		var seen []int
		out, err := writeTexts(t.Context(), m, 7, 3, func(k int) { seen = append(seen, k) })
		require.NoError(t, err)
		return out, seen, m.Stats().Steps
	}
	alone, _, stepsAlone := write(1)
	together, seen, steps := write(3)
	require.Len(t, together, 3)
	for i := range alone {
		assert.Len(t, together[i], ownTextTokens)
		assert.Equal(t, alone[i], together[i], i)
	}
	assert.NotEqual(t, alone[0][1:], alone[1][1:])
	assert.IsNonDecreasing(t, seen)
	assert.Less(t, steps, stepsAlone/2) // those of all texts in one
	assert.Equal(t, 3*ownTextTokens, seen[len(seen)-1])
}
