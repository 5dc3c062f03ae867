package e2e_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// weightsOf returns the tensors of a GGUF file by name.
func weightsOf(t *testing.T, f *gguf.File) map[string][]float32 {
	all := map[string][]float32{}
	for i := range f.Tensors {
		x := &f.Tensors[i]
		raw, err := f.Rows(x, 0, x.Rows())
		require.NoError(t, err)
		w := make([]float32, x.Rows()*x.Cols())
		require.NoError(t, gguf.Dequantize(x.Type, raw, w))
		all[x.Name] = w
	}
	return all
}

// An exported GGUF file holds the tensors and hyperparameters that llama.cpp's converter makes of the same model.
func TestFamiliesAreExportedAsConverted(t *testing.T) {
	forFamilies(t, func(t *testing.T, family *testmodel.Family, src source.Model) {
		out := filepath.Join(t.TempDir(), "out.gguf")
		require.NoError(t, convert.Export(context.Background(), compressed(t, src), out, nil))
		path, err := family.WriteGGUF(t.TempDir())
		require.NoError(t, err)
		want, err := gguf.Open(path)
		require.NoError(t, err)
		defer func() { assert.NoError(t, want.Close()) }()
		got, err := gguf.Open(out)
		require.NoError(t, err)
		defer func() { assert.NoError(t, got.Close()) }()
		weights, exported := weightsOf(t, want), weightsOf(t, got)
		require.Len(t, exported, len(weights))
		for name, w := range weights {
			if assert.Len(t, exported[name], len(w), name) {
				most := 1e-13 // frequency divisors are computed twice
				if strings.HasSuffix(name, ".ssm_a") {
					most = 1e-7 // the converter computes exponentials in the 16 bits that the directory has
				}
				assert.Less(t, nmse(exported[name], w), most, name)
			}
		}
		arch, err := want.String("general.architecture")
		require.NoError(t, err)
		for _, key := range want.Keys() {
			if !strings.HasPrefix(key, arch+".") || key == arch+".attention.sliding_window" && family.Name == "phi3" { // 0: none
				continue
			}
			x, err := want.Float(key)
			if err != nil { // a text
				continue
			}
			y, err := got.Float(key)
			if assert.NoError(t, err, key) {
				assert.InEpsilon(t, x, y, 1e-6, key)
			}
		}
	})
}
