package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// withValue returns the bytes of a GGUF file with another value at the start of a vector of float32.
func withValue(t *testing.T, path, vector string, x float32) []byte {
	t.Helper()
	src, err := source.Open(path)
	require.NoError(t, err)
	defer src.Close()
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for i, info := range src.Tensors() {
		if info.Name != vector {
			continue
		}
		values := make([]float32, info.Cols)
		require.NoError(t, src.ReadRows(i, 0, 1, values))
		var old []byte
		for _, v := range values {
			old = binary.LittleEndian.AppendUint32(old, math.Float32bits(v))
		}
		require.Equal(t, 1, bytes.Count(whole, old), "%s is of float32", vector)
		binary.LittleEndian.PutUint32(whole[bytes.Index(whole, old):], math.Float32bits(x))
		return whole
	}
	t.Fatalf("no tensor %s", vector)
	return nil
}

// Weights that are finite, but lead out of the range of numbers, end in an error that says where.
func TestNumbersOutOfRangeAreNamed(t *testing.T) {
	dir := t.TempDir()
	good, err := testmodel.WriteTo(dir)
	require.NoError(t, err)
	for vector, message := range map[string]string{
		"blk.0.attn_norm.weight": "layer 0 at position 0",
		"blk.1.attn_norm.weight": "layer 1 at position 0",
		"blk.0.ffn_norm.weight":  "layer 1 at position 0",
		"output_norm.weight":     "position 3: sample: logits contain NaN",
	} {
		in, out := filepath.Join(dir, "bad.gguf"), filepath.Join(dir, "bad.ellm")
		require.NoError(t, os.WriteFile(in, withValue(t, good, vector, 3e38), 0o600))
		src, err := source.Open(in)
		require.NoError(t, err)
		_, err = convert.Compress(context.Background(), src, out, convert.Options{Scheme: convert.SchemePaperU8}, nil)
		require.NoError(t, err)
		require.NoError(t, src.Close())
		for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
			f, err := format.Open(out)
			require.NoError(t, err)
			b := cpu.New()
			e, err := engine.New(context.Background(), f, b, engine.LoadOptions{Plan: plan, NCtx: 32, Threads: 2})
			require.NoError(t, err)
			_, err = e.Generate(context.Background(), engine.Request{Prompt: []int32{40, 41, 42, 43}, MaxTokens: 2})
			require.ErrorContains(t, err, message, "%s, %s", vector, plan)
			require.NoError(t, b.Close())
			require.NoError(t, f.Close())
		}
	}
}
