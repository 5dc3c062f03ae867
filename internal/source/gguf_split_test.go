package source

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

// splitModel writes the tiny model in three parts, the first without tensors as llama-gguf-split --no-tensor-first-split has it.
// change may alter a part's metadata and tensors.
func splitModel(t *testing.T, dir string, change func(part int, m *gguf.Metadata, tensors []gguf.Tensor) []gguf.Tensor) []string {
	all := tinyTensors()
	var paths []string
	for i, tensors := range [][]gguf.Tensor{nil, all[:5], all[5:]} {
		m := &gguf.Metadata{}
		if i == 0 {
			m = tinyMetadata(nil)
		}
		m.Set(keySplitNo, uint16(i))
		m.Set(keySplitCount, uint16(3))
		m.Set(keySplitTensors, int32(len(all)))
		if change != nil {
			tensors = change(i, m, slices.Clone(tensors))
		}
		path := filepath.Join(dir, fmt.Sprintf("tiny-Q4-%05d-of-00003.gguf", i+1))
		paths = append(paths, writeGGUFAt(t, path, m, tensors))
	}
	return paths
}

func TestPartsOfAGGUFFileAreOneModel(t *testing.T) {
	whole := open(t, writeGGUF(t, tinyMetadata(nil), tinyTensors()))
	split := open(t, splitModel(t, t.TempDir(), nil)[0])
	require.Equal(t, whole.Tensors(), split.Tensors())
	for _, x := range whole.Tensors() {
		require.Equal(t, readAll(t, whole, x.Name), readAll(t, split, x.Name), x.Name)
	}
	a, err := whole.Config()
	require.NoError(t, err)
	b, err := split.Config()
	require.NoError(t, err)
	require.Equal(t, a, b)
	wholeText, err := whole.GGUFMetadata()
	require.NoError(t, err)
	splitText, err := split.GGUFMetadata()
	require.NoError(t, err)
	require.Equal(t, wholeText, splitText, "an exported model is not split")
}

func TestBadPartsAreRefused(t *testing.T) {
	set := func(part int, key string, value any) func(int, *gguf.Metadata, []gguf.Tensor) []gguf.Tensor {
		return func(i int, m *gguf.Metadata, tensors []gguf.Tensor) []gguf.Tensor {
			if i == part {
				m.Set(key, value)
			}
			return tensors
		}
	}
	for _, c := range []struct {
		want   string
		change func(int, *gguf.Metadata, []gguf.Tensor) []gguf.Tensor
		damage func(paths []string) error
	}{
		{"part 3 of 3: ", nil, func(p []string) error { return os.Remove(p[2]) }},
		{"is missing (all parts must lie in one directory)", nil, func(p []string) error { return os.Remove(p[1]) }},
		{"part 2 of 3: ", nil, func(p []string) error { return os.Truncate(p[1], 300) }},
		{"is part 3 of 3 by its metadata", nil, func(p []string) error { return os.Rename(p[2], p[1]) }},
		{"is part 2 of 4 by its metadata", set(1, keySplitCount, uint16(4)), nil},
		{"split.no", set(1, keySplitNo, "x"), nil},
		{"is part 2 of 3: name the first one, ", set(0, keySplitNo, uint16(1)), nil},
		{"but not named …-00001-of-00004.gguf", set(0, keySplitCount, uint16(4)), nil},
		{"expected 12 (split.tensors.count)", set(0, keySplitTensors, int32(12)), nil},
		{"tensor blk.0.ffn_up.weight is in tiny-Q4-00002-of-00003.gguf and in tiny-Q4-00003-of-00003.gguf",
			func(i int, _ *gguf.Metadata, tensors []gguf.Tensor) []gguf.Tensor {
				if i == 1 {
					return append(tensors, tinyTensors()[9])
				}
				return tensors
			}, nil},
	} {
		paths := splitModel(t, t.TempDir(), c.change)
		if c.damage != nil {
			require.NoError(t, c.damage(paths))
		}
		_, err := Open(paths[0])
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, paths[0])
	}
	paths := splitModel(t, t.TempDir(), nil)
	_, err := Open(paths[1])
	require.ErrorContains(t, err, "name the first one, "+paths[0])
}
