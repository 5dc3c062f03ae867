package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// requireSame compares bit for bit.
func requireSame(t *testing.T, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
			require.Failf(t, "different weights", "weight %d is %g, expected %g", i, got[i], want[i])
		}
	}
}

// partial tells that src has not all tensors of a model, so that it cannot be run.
func partial(src source.Model) bool {
	s, ok := src.(*memSource)
	return ok && s.config == nil
}

// compress runs Compress and opens the result.
func compress(t *testing.T, src source.Model, opt Options) (*format.Reader, *Report) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out.ellm")
	opt.Tuning.NoColumns = opt.Tuning.NoColumns || partial(src)
	rep, err := Compress(context.Background(), src, path, opt, nil)
	require.NoError(t, err)
	r, err := format.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, st.Size(), rep.Bytes)
	return r, rep
}

// weights decodes a tensor.
func weights(t *testing.T, r *format.Reader, name string) []float32 {
	t.Helper()
	x, ok := r.Tensor(name)
	require.True(t, ok, name)
	require.NoError(t, r.Verify(x))
	var w []float32
	var err error
	if x.Coded != nil {
		w, err = codec.Decode(x.Coded, r.Tables())
	} else {
		w, err = rawFloats(x.Raw)
	}
	require.NoError(t, err)
	return w
}

func TestSizeTarget(t *testing.T) {
	src := floatModel(1, "F32")
	rng := rand.New(rand.NewPCG(1, 9)) // enough weights for gaps between tensors not to matter
	src.add(rng, "blk.0.ffn_gate.weight", "F32", 3000, 576)
	last := 100.0
	for _, bpw := range []float64{8.5, 4, 2} {
		r, rep := compress(t, src, Options{BPW: bpw})
		require.InEpsilon(t, bpw, rep.BitsPerWeight, 0.005)
		require.Less(t, rep.SQNR, last-3*1.0)
		last = rep.SQNR
		noise, signal := 0.0, 0.0
		for i, x := range src.tensors {
			if x.Vector {
				requireSame(t, src.data[i], weights(t, r, x.Name))
				continue
			}
			for k, w := range weights(t, r, x.Name) {
				e := float64(w - src.data[i][k])
				noise += e * e
				signal += float64(src.data[i][k]) * float64(src.data[i][k])
			}
		}
		require.InDelta(t, 10*math.Log10(signal/noise), rep.SQNR, 0.02)
		require.Equal(t, "template", r.Meta().ChatTemplate)
	}
	for _, size := range []int64{1_300_000, 900_000} {
		_, rep := compress(t, src, Options{Size: size})
		require.LessOrEqual(t, rep.Bytes, size)
		require.InEpsilon(t, size, rep.Bytes, 0.005)
	}
}

// Files are the same whatever the number of threads.
func TestDeterministic(t *testing.T) {
	in, err := testmodel.WriteGGUF(t.TempDir(), testmodel.Variant{Arch: "qwen2", Type: "F16"})
	require.NoError(t, err)
	src, err := source.Open(in)
	require.NoError(t, err)
	defer src.Close()
	var files [3][]byte
	for i, threads := range []int{1, 2, 7} {
		before := runtime.GOMAXPROCS(threads)
		path := filepath.Join(t.TempDir(), "out.ellm")
		_, err := Compress(context.Background(), src, path, Options{BPW: 3.5}, nil)
		runtime.GOMAXPROCS(before)
		require.NoError(t, err)
		files[i], err = os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(files[0], files[i]), "%d threads", threads)
	}
}

func TestFloatsAreLossless(t *testing.T) {
	for _, kind := range []string{"F16", "BF16", "F32"} {
		for _, scheme := range []Scheme{SchemeBF16, SchemeLossless} {
			src := floatModel(3, kind)
			copy(src.data[2][5:], []float32{0, float32(math.Copysign(0, -1))})
			copy(src.bits[2][5:], []uint16{0, 0x8000})
			r, rep := compress(t, src, Options{Scheme: scheme})
			for i, x := range src.tensors {
				want := src.data[i]
				if scheme == SchemeBF16 && kind == "F32" && !x.Vector {
					for k, w := range want {
						want[k] = math.Float32frombits(uint32(gguf.FloatToBF16(w)) << 16)
					}
				}
				requireSame(t, want, weights(t, r, x.Name))
			}
			if kind == "BF16" {
				require.Less(t, rep.BitsPerWeight, 11.5)
			}
		}
	}
}

func TestBlocksAreLossless(t *testing.T) {
	layouts := []source.BlockLayout{
		{Codes: 16, Zero: -8, Block: 32, Super: 32},
		{Codes: 16, Block: 32, Super: 32, HasMin: true},
		{Codes: 256, Zero: -128, Block: 32, Super: 32},
		{Codes: 4, Block: 16, Super: 256, SubBits: 4, HasMin: true, SubMin: true},
		{Codes: 8, Zero: -4, Block: 16, Super: 256, SubBits: 6, SubBias: -32},
		{Codes: 16, Block: 32, Super: 256, SubBits: 6, HasMin: true, SubMin: true},
		{Codes: 32, Block: 32, Super: 256, SubBits: 6, HasMin: true, SubMin: true},
		{Codes: 64, Zero: -32, Block: 16, Super: 256, SubBits: 8},
		{Codes: 16, Values: []int16{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, Block: 32, Super: 32},
		*gguf.MXFP4.Layout(),
	}
	rng, src := rand.New(rand.NewPCG(4, 1)), &memSource{}
	for i, l := range layouts {
		src.addBlocks(rng, fmt.Sprintf("blk.%d.attn_q.weight", i), 100, 512, l)
	}
	r, _ := compress(t, src, Options{Scheme: SchemeLossless})
	for i, x := range src.tensors {
		requireSame(t, src.data[i], weights(t, r, x.Name))
	}
}

// Weights that are points of a grid (GGUF's IQ types) have no integers to keep; quantized or as floats they are welcome.
func TestPointsOfGridsAreQuantizedOnly(t *testing.T) {
	src := floatModel(12, "IQ2_XS")
	var mistake *OptionError
	dir := t.TempDir()
	_, err := Compress(context.Background(), src, filepath.Join(dir, "out.ellm"), Options{Scheme: SchemeLossless}, nil)
	require.ErrorAs(t, err, &mistake)
	require.ErrorContains(t, err, "memory: tensor token_embd.weight is of type IQ2_XS")
	requireEmpty(t, dir)
	for _, scheme := range []Scheme{SchemeBPW, SchemePaperU4, SchemeBF16} {
		compress(t, src, Options{Scheme: scheme, Tuning: Tuning{NoColumns: true}})
	}
}

func TestPaper(t *testing.T) {
	src := floatModel(5, "F32")
	for i, w := range src.data[2] { // one sign: symmetric unsigned
		src.data[2][i] = -float32(math.Abs(float64(w)))
	}
	for scheme, top := range map[Scheme]float64{SchemePaperU8: 255, SchemePaperU4: 15} {
		r, _ := compress(t, src, Options{Scheme: scheme})
		require.Len(t, r.Tables(), 1)
		for i, x := range src.tensors {
			if x.Vector {
				continue
			}
			lo, hi := 0.0, 0.0
			for _, w := range src.data[i] {
				lo, hi = min(lo, float64(w)), max(hi, float64(w))
			}
			step := (hi - lo) / top
			if i == 2 {
				step, hi = lo/top, 0
				lo = 0
			}
			for k, w := range weights(t, r, x.Name) {
				q := (float64(w) - lo) / step
				if off := math.Abs(float64(w - src.data[i][k])); math.Abs(math.Round(q)-q) > 1e-3 || off > 0.5001*math.Abs(step) {
					require.Failf(t, "not the nearest point of the grid", "%s, weight %d: %g for %g, q %g", x.Name, k, w, src.data[i][k], q)
				}
			}
		}
	}
}

func TestNotFinite(t *testing.T) {
	for _, scheme := range []Scheme{SchemeBPW, SchemePaperU4, SchemeBF16, SchemeLossless} {
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
			src := floatModel(6, "BF16")
			src.data[4][7*2304+5], src.bits[4][7*2304+5] = bad, gguf.FloatToBF16(bad)
			dir := t.TempDir()
			_, err := Compress(context.Background(), src, filepath.Join(dir, "out.ellm"),
				Options{Scheme: scheme, Tuning: Tuning{NoColumns: true}}, nil)
			require.ErrorContains(t, err, "blk.0.ffn_down.weight: row 7 ", "%s", scheme)
			requireEmpty(t, dir)
		}
	}
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestCancel(t *testing.T) {
	for _, stage := range []string{"measure", "count", "encode"} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Compress(ctx, floatModel(7, "F32"), filepath.Join(dir, "out.ellm"), Options{Tuning: Tuning{NoColumns: true}},
			func(s string, done, total int64) {
				require.LessOrEqual(t, done, total)
				if s == stage {
					cancel()
				}
			})
		require.True(t, errors.Is(err, context.Canceled), stage)
		requireEmpty(t, dir)
	}
}

func TestBadOptions(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.ellm")
	for _, opt := range []Options{{BPW: 1}, {BPW: 9}, {BPW: math.NaN()}, {Size: 1000}, {Size: -1}, {Size: math.MaxInt64},
		{Scheme: "zip"}} {
		opt.Tuning.NoColumns = true
		_, err := Compress(context.Background(), floatModel(8, "F32"), out, opt, nil)
		require.Error(t, err)
	}
	small := &memSource{}
	small.add(rand.New(rand.NewPCG(1, 1)), "token_embd.weight", "F32", 20, 20)
	_, err := Compress(context.Background(), small, out, Options{BPW: 2, Tuning: Tuning{NoColumns: true}}, nil)
	require.ErrorContains(t, err, "too few")
}

// Rows of zeros and constant matrices must survive every scheme.
func TestDegenerate(t *testing.T) {
	for _, scheme := range []Scheme{SchemeBPW, SchemePaperU8, SchemePaperU4, SchemeBF16} {
		src := floatModel(9, "F32")
		clear(src.data[2])
		clear(src.data[3][:191*10])
		for i := range src.data[4] {
			src.data[4][i] = 0.25
		}
		src.data[5][17] = 1e6
		r, _ := compress(t, src, Options{Scheme: scheme, BPW: 2})
		requireSame(t, make([]float32, 192*192), weights(t, r, "blk.0.attn_q.weight"))
		if scheme != SchemePaperU8 && scheme != SchemePaperU4 { // whose grid need not contain zero
			requireSame(t, make([]float32, 1910), weights(t, r, "blk.0.attn_v.weight")[:1910])
		}
		for _, w := range weights(t, r, "blk.0.ffn_down.weight") {
			require.InEpsilon(t, 0.25, w, 1e-3)
		}
		require.InEpsilon(t, 1e6, weights(t, r, "blk.0.ffn_up.weight")[17], 0.01)
	}
}

// BenchmarkCompress reports weights per second.
func BenchmarkCompress(b *testing.B) {
	rng := rand.New(rand.NewPCG(11, 11))
	s := &memSource{}
	for i := range 2 {
		s.add(rng, fmt.Sprintf("blk.%d.ffn_up.weight", i), "F32", 2048, 1536)
	}
	n := 2 * 2048 * 1536
	for b.Loop() {
		_, err := Compress(context.Background(), s, filepath.Join(b.TempDir(), "out.ellm"),
			Options{Tuning: Tuning{NoColumns: true}}, nil)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "weights/s")
}
