package convert

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// A file is never larger than asked for: what corrections cannot reach is refused.
func TestTooLarge(t *testing.T) {
	const size = 1 << 20
	w, err := format.Create(filepath.Join(t.TempDir(), "a.ellm"))
	require.NoError(t, err)
	defer w.Abort()
	j := &job{w: w, work: work{weights: 2 * size}, opt: Options{Size: size, BPW: 4}}
	require.NoError(t, w.Section("TEST", make([]byte, size-4*metaBytes), false))
	require.NoError(t, j.tooLarge(nil))
	require.NoError(t, w.Section("MORE", make([]byte, 4*metaBytes), false))
	require.ErrorContains(t, j.tooLarge(nil), "more than the 1048576 asked for")
	j.opt.Size = 0
	require.NoError(t, j.tooLarge(nil))
}
