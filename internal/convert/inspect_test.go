package convert

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

func inspect(t *testing.T, r *format.Reader, reference source.Model) *InspectReport {
	t.Helper()
	rep, err := Inspect(context.Background(), r, reference, nil)
	require.NoError(t, err)
	// Everything must add up.
	var sum Sizes
	for _, x := range rep.Tensors {
		sum.add(&x.Bytes)
		got, ok := r.Tensor(x.Name)
		require.True(t, ok)
		require.Equal(t, got.Bytes, x.Bytes.total())
	}
	require.Equal(t, rep.Total.Bytes, sum)
	require.Equal(t, rep.FileBytes, sum.total()+rep.TableSize+rep.OtherBytes)
	require.Positive(t, rep.OtherBytes)
	st, err := os.Stat(r.Path())
	require.NoError(t, err)
	require.Equal(t, st.Size(), rep.FileBytes)
	return rep
}

func TestInspect(t *testing.T) {
	src := floatModel(1, "F32")
	r, made := compress(t, src, Options{BPW: 4.5})
	rep := inspect(t, r, src)
	require.InDelta(t, made.BitsPerWeight, rep.BitsPerWeight, 1e-9)
	require.InDelta(t, made.SQNR, *rep.Total.SQNR, 0.01)
	require.InDelta(t, 0, rep.Total.OverEntropy, 10)
	require.Positive(t, rep.Total.OverEntropy)
	require.InEpsilon(t, rep.Total.Entropy*float64(rep.Coded)/8, rep.EntropyBytes, 1e-4)
	require.InDelta(t, 100*(float64(rep.FileBytes)/float64(rep.EntropyBytes)-1), rep.FileOverEntropy, 0.01)
	require.Positive(t, rep.Total.Bytes.Padding)
	require.Greater(t, rep.Total.Bytes.Codes+rep.Total.Bytes.LowBits+rep.Total.Bytes.Outliers, rep.EntropyBytes,
		"no code is shorter than the entropy")
	for _, x := range rep.Tensors {
		require.Equal(t, x.Kind == "coded", x.SQNR != nil)
	}

	// With one table of fixed distribution the entropy is that of the integers, and no Huffman code can be shorter.
	r, _ = compress(t, src, Options{Scheme: SchemePaperU4})
	rep = inspect(t, r, nil)
	require.GreaterOrEqual(t, rep.SingleSymbol, rep.Total.Entropy-1e-9)
	require.Less(t, rep.SingleSymbol, rep.Total.Entropy+1)
	require.Nil(t, rep.Total.SQNR)

	bf16 := floatModel(2, "BF16")
	r, _ = compress(t, bf16, Options{Scheme: SchemeLossless})
	require.Nil(t, inspect(t, r, bf16).Total.SQNR)

	bf16.tensors[0].Name = "other"
	_, err := Inspect(context.Background(), r, bf16, nil)
	require.ErrorContains(t, err, "token_embd.weight")
}

func TestEntropyOfInspect(t *testing.T) {
	all := []uint64{4, 2, 1, 1}
	require.InDelta(t, 4*1+2*2+3+3, information(all, all), 1e-12)
	require.InDelta(t, 1*3.0, information([]uint64{0, 0, 1, 0}, all), 1e-12)
}

// Verify must notice every flipped bit of every section that it is responsible for.
func TestVerifyFindsDamage(t *testing.T) {
	src := floatModel(3, "F32")
	r, _ := compress(t, src, Options{BPW: 3})
	require.NoError(t, Verify(context.Background(), r, nil))
	good, err := os.ReadFile(r.Path())
	require.NoError(t, err)
	found := 0
	for at := 64; at < len(good); at += 4999 {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x10
		path := filepath.Join(t.TempDir(), "bad.ellm")
		require.NoError(t, os.WriteFile(path, bad, 0o644))
		d, err := format.Open(path)
		if err == nil {
			err = Verify(context.Background(), d, nil)
			d.Close()
		}
		if err != nil {
			found++
		} else {
			require.Zero(t, good[at], "offset %d: only gaps between sections may change unnoticed", at)
		}
	}
	require.Greater(t, found, len(good)/4999*3/4)
}

func TestExport(t *testing.T) {
	for _, c := range []struct {
		scheme Scheme
		kind   string
		want   gguf.Type
	}{{SchemeBPW, "F32", gguf.F16}, {SchemeLossless, "F32", gguf.F32}, {SchemeLossless, "BF16", gguf.BF16},
		{SchemeLossless, "F16", gguf.F16}} {
		src := floatModel(4, c.kind)
		r, _ := compress(t, src, Options{Scheme: c.scheme})
		path := filepath.Join(t.TempDir(), "out.gguf")
		require.NoError(t, Export(context.Background(), r, path, nil))
		f, err := gguf.Open(path)
		require.NoError(t, err)
		arch, err := f.String("general.architecture")
		require.NoError(t, err)
		require.Equal(t, "llama", arch)
		require.Len(t, f.Tensors, len(src.tensors))
		for i := range f.Tensors {
			x := &f.Tensors[i]
			require.Equal(t, src.tensors[i].Rows, x.Rows())
			require.Equal(t, src.tensors[i].Vector, len(x.Dims) == 1)
			b, err := f.Rows(x, 0, x.Rows())
			require.NoError(t, err)
			got := make([]float32, x.Rows()*x.Cols())
			require.NoError(t, gguf.Dequantize(x.Type, b, got))
			want := weights(t, r, x.Name)
			if !src.tensors[i].Vector {
				require.Equal(t, c.want, x.Type)
				for k := range want {
					if x.Type == gguf.F16 {
						want[k] = gguf.F16ToFloat(gguf.FloatToF16(want[k]))
					}
				}
			}
			requireSame(t, want, got)
		}
		require.NoError(t, f.Close())
	}
}

func TestExportRefusesOverflow(t *testing.T) {
	src := floatModel(5, "F32")
	src.data[2][3] = 1e6
	r, _ := compress(t, src, Options{Scheme: SchemePaperU8})
	dir := t.TempDir()
	err := Export(context.Background(), r, filepath.Join(dir, "out.gguf"), nil)
	require.ErrorContains(t, err, "blk.0.attn_q.weight: row 0")
	requireEmpty(t, dir)
}
