package gpu

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// A damaged tensor is found while the one before it is loaded, and named; the device is left as it was.
func TestLoadRefusesDamage(t *testing.T) {
	const name = "blk.1.ffn_up.weight"
	m := newTinyModel(t, "llama")
	good, err := os.ReadFile(m.file.Path())
	require.NoError(t, err)
	tensor, found := m.file.Tensor(name)
	require.True(t, found)
	at := bytes.Index(good, bytesOf(tensor.Coded.Stream[:16]))
	require.Positive(t, at)
	bad := bytes.Clone(good)
	bad[at+20] ^= 4
	path := filepath.Join(t.TempDir(), "bad.ellm")
	require.NoError(t, os.WriteFile(path, bad, 0o644))
	f, err := format.Open(path)
	require.NoError(t, err)
	defer f.Close()

	dev := openEmu(t)
	before, err := dev.Info()
	require.NoError(t, err)
	b := New(dev)
	err = b.Load(context.Background(), f, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: 32})
	assert.ErrorContains(t, err, name)
	require.NoError(t, dev.Do(b.free))
	after, err := dev.Info()
	require.NoError(t, err)
	assert.Equal(t, before.MemFree, after.MemFree)
}
