package format

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFingerprintDependsOnContentOnly(t *testing.T) {
	fingerprint := func(content string) string {
		path := filepath.Join(t.TempDir(), "x.ellm")
		w, err := Create(path)
		require.NoError(t, err)
		defer w.Abort()
		require.NoError(t, w.Section(KindTokenizer, []byte(content), false))
		_, err = w.Finish(&Meta{Producer: "test"}, nil)
		require.NoError(t, err)
		r, err := Open(path)
		require.NoError(t, err)
		defer r.Close()
		return r.Fingerprint()
	}
	assert.Equal(t, fingerprint("abc"), fingerprint("abc"))
	assert.NotEqual(t, fingerprint("abc"), fingerprint("abd"))
}
