package convert

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// What was saved gives the same file as the run that saved it; damaged files and those of other models are refused.
func TestSavedCalibration(t *testing.T) {
	dir := t.TempDir()
	text, saved := filepath.Join(dir, "text.txt"), filepath.Join(dir, "m.calibration")
	require.NoError(t, os.WriteFile(text, []byte(testmodel.HeldOut()), 0o600))
	src := testJob(t, "qwen2", Options{}).src
	compress := func(name string, src source.Model, c Calibration) ([]byte, error) {
		path := filepath.Join(dir, name+".ellm")
		if _, err := Compress(context.Background(), src, path, Options{BPW: 4, Calibration: c}, nil); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	}
	first, err := compress("first", src, Calibration{Text: text, Tokens: 1024, SaveAll: saved})
	require.NoError(t, err)
	again, err := compress("again", src, Calibration{Saved: saved})
	require.NoError(t, err)
	require.True(t, bytes.Equal(first, again))

	_, err = compress("other", testJob(t, "llama", Options{}).src, Calibration{Saved: text})
	require.ErrorContains(t, err, "not a calibration file")
	file, err := os.ReadFile(saved)
	require.NoError(t, err)
	for name, damage := range map[string]struct {
		b       []byte
		message string
	}{
		"empty":     {nil, "not a calibration file"},
		"cut":       {file[4:], "another model"},
		"end":       {file[:len(file)-3], "not a calibration file"},
		"no number": {append([]byte{0, 0, 0xc0, 0x7f}, file[4:]...), "damaged"},
		"negative":  {append([]byte{0, 0, 0x80, 0xbf}, file[4:]...), "damaged"},
	} {
		path := filepath.Join(dir, "damaged")
		require.NoError(t, os.WriteFile(path, damage.b, 0o600))
		_, err := compress("damaged", src, Calibration{Saved: path})
		require.ErrorContains(t, err, damage.message, name)
	}
	for _, pattern := range []string{"*.part*", ".calibration*"} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	require.NoError(t, checkSensitivity(&calibrate.Sensitivity{Rows: map[string][]float64{"a": {0, 1}}}))
	require.ErrorContains(t, checkSensitivity(&calibrate.Sensitivity{Rows: map[string][]float64{"a": {0, -1}}}), "damaged")
	require.ErrorContains(t, checkSensitivity(&calibrate.Sensitivity{Embedding: []float64{1e300}}), "damaged")
}
