package shapes

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// A stand-in has as many weights as the model is known for, and takes what was asked for.
func TestModel(t *testing.T) {
	for name, billions := range map[string]float64{"smollm2-135m": 0.1345, "qwen2.5-0.5b": 0.494} {
		for _, bits := range []float64{2.5, 4} {
			r, prog, err := Model(name, bits)
			require.NoError(t, err)
			weights, bytes := 0, int64(0)
			for _, x := range r.Tensors() {
				weights += x.Rows * x.Cols
				bytes += x.Bytes
			}
			assert.InEpsilon(t, billions*1e9, weights, 1e-3, name)
			assert.InDelta(t, bits, 8*float64(bytes)/float64(weights), tolerance, name)
			for _, n := range prog.Nodes {
				if n.Weight != "" {
					_, ok := r.Tensor(n.Weight)
					assert.True(t, ok, n.Weight)
				}
			}
			require.NoError(t, r.Close())
		}
	}
	_, _, err := Model("gpt-9", 4)
	assert.ErrorContains(t, err, "mistral-7b")
	_, _, err = Model("mistral-7b", 20)
	assert.ErrorContains(t, err, "20 bits")
}

// Repeated groups are addressed as those of a real matrix of that height, the last of which may be incomplete.
func TestRepeat(t *testing.T) {
	sample, tables, err := matrix(sampleRows, 320, 5, 3)
	require.NoError(t, err)
	const rows = 1000
	c := repeat(sample, rows, 0)
	assert.Len(t, c.ChunkOffset, c.Chunks()+1)
	assert.Len(t, c.LaneTail, 32*c.Chunks())
	whole := sampleRows / sample.Coding.RowsPerGroup
	for g := range rows / c.Coding.RowsPerGroup {
		from := g % whole * c.Tiles()
		assert.Equal(t, sample.ChunkOffset[from+c.Tiles()]-sample.ChunkOffset[from],
			c.ChunkOffset[(g+1)*c.Tiles()]-c.ChunkOffset[g*c.Tiles()])
		assert.Less(t, int(slices.Max(c.ChunkTable[g*c.Tiles():(g+1)*c.Tiles()])), 3+len(tables))
	}
	// Decoders believe these lengths: in the last, lower group, too, a chunk's words are those of its lanes.
	for i := range c.Chunks() {
		words := huffman.Lanes * int(c.MainWords[i])
		for _, tail := range c.LaneTail[huffman.Lanes*i:][:huffman.Lanes] {
			words += int(tail)
		}
		words = (words + chunkAlign - 1) / chunkAlign * chunkAlign
		assert.Equal(t, words, int(c.ChunkOffset[i+1]-c.ChunkOffset[i]), "chunk %d", i)
	}
	perRow := float64(sample.ChunkOffset[whole*sample.Tiles()]) / float64(whole*sample.Coding.RowsPerGroup)
	assert.InEpsilon(t, perRow*rows, len(c.Stream)-c.GuardWords(), 0.02)
}
