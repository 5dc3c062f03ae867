package source_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// compress returns the container that a model becomes.
func compress(t *testing.T, path string, opt convert.Options) (*format.Reader, *convert.Report) {
	t.Helper()
	src, err := source.Open(path)
	require.NoError(t, err)
	defer src.Close()
	out := filepath.Join(t.TempDir(), "out.ellm")
	report, err := convert.Compress(context.Background(), src, out, opt, nil)
	require.NoError(t, err)
	r, err := format.Open(out)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r, report
}

func decode(t *testing.T, r *format.Reader, name string) (*format.Coded, []float32) {
	t.Helper()
	x, ok := r.Tensor(name)
	require.True(t, ok, name)
	require.NotNil(t, x.Coded, name)
	w, err := codec.Decode(x.Coded, r.Tables())
	require.NoError(t, err)
	return x.Coded, w
}

// A packed checkpoint's integers are coded as they are.
func TestPackedCheckpointIsCodedWithoutLoss(t *testing.T) {
	for _, c := range source.PackedCheckpoints(t) {
		r, report := compress(t, c.Dir, convert.Options{Scheme: convert.SchemeLossless})
		require.Zero(t, report.SQNR)
		for name, want := range c.Weights {
			coded, got := decode(t, r, name)
			require.Len(t, got, len(want), name)
			for i := range want {
				require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "%s, weight %d", name, i)
			}
			require.Equal(t, c.OneZero, coded.DMin == nil)
			require.Nil(t, coded.SubScale)
		}
	}
}

// A packed checkpoint can also be quantized anew.
func TestPackedCheckpointToOtherScheme(t *testing.T) {
	const name = "blk.0.ffn_up.weight"
	for _, c := range source.PackedCheckpoints(t) {
		if c.Bits != 4 { // other widths have another range, and so another error
			continue
		}
		r, report := compress(t, c.Dir, convert.Options{Scheme: convert.SchemePaperU8})
		require.Greater(t, report.SQNR, 30.0)
		_, got := decode(t, r, name)
		require.InDeltaSlice(t, c.Weights[name], got, 0.02)
	}
}
