package e2e_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// most is the largest normalized squared error of logits. Caches hold float16 numbers where the reference has float32.
const most = 1e-6

// forFamilies calls f with every family as a source from each kind of file.
func forFamilies(t *testing.T, f func(t *testing.T, family *testmodel.Family, src source.Model)) {
	names, err := testmodel.Families()
	require.NoError(t, err)
	for _, name := range names {
		family, err := testmodel.ReadFamily(name)
		require.NoError(t, err)
		for kind, write := range map[string]func(string) (string, error){"gguf": family.WriteGGUF, "hf": family.WriteHF} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				path, err := write(t.TempDir())
				require.NoError(t, err)
				src, err := source.Open(path)
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, src.Close()) })
				f(t, family, src)
			})
		}
	}
}

func compressed(t *testing.T, src source.Model) *format.Reader {
	path := filepath.Join(t.TempDir(), "model.ellm")
	_, err := convert.Compress(context.Background(), src, path, convert.Options{Scheme: convert.SchemeLossless}, nil)
	require.NoError(t, err)
	r, err := format.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// nmse returns Σ(x−y)² / Σy².
func nmse(x, y []float32) float64 {
	noise, signal := 0.0, 0.0
	for i := range y {
		d := float64(x[i]) - float64(y[i])
		noise += d * d
		signal += float64(y[i]) * float64(y[i])
	}
	return noise / signal
}

// windowless tells that a GGUF file lacks the model's sliding window, since llama.cpp's converter leaves Mistral's out: positions
// before it is full agree.
func windowless(family *testmodel.Family, src source.Model) bool {
	c, err := src.Config()
	return err == nil && family.Name == "mistral" && c.Window == 0
}

const mistralWindow = 24

// mostGPU is the bound for kernels, which round the inputs of products to half precision (11 bits): in these models, whose
// attention is sharp, twelve or more products in a row make up to 2e-4 of that.
const mostGPU = 5e-4

// check is one way to run a family.
type check struct {
	plan       engine.Plan
	most       float64 // normalized squared error of logits
	greedy     int     // tokens of the continuation to compare
	windowless bool
	open       func() engine.Backend
}

// run runs the prompts of a family and compares logits and greedy tokens with the reference.
func (k check) run(t *testing.T, r *format.Reader, family *testmodel.Family) {
	prog, _, err := engine.Describe(r)
	require.NoError(t, err)
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		result *testmodel.FamilyResult
		nCtx   int
	}{{"short", &family.Results.Short, 64}, {"long", &family.Results.Long, 128}} {
		b := k.open()
		require.NoError(t, b.Load(ctx, r, prog, engine.LoadOptions{Plan: k.plan, NCtx: c.nCtx, MaxBatch: c.nCtx, Threads: 2,
			Activations: 16}))
		tokens, n, vocab := c.result.Tokens, len(c.result.Tokens), prog.Config.NVocab
		logits, err := b.Forward(ctx, engine.SingleRun(tokens, 0, n))
		require.NoError(t, err)
		for _, row := range c.result.Rows {
			if k.windowless && row.Position >= mistralWindow {
				continue
			}
			e := nmse(logits[row.Position*vocab:][:vocab], row.Logits)
			t.Logf("%s, %s, position %d: %.1e", c.name, k.plan, row.Position, e)
			assert.Less(t, e, k.most, "%s, %s, position %d", c.name, k.plan, row.Position)
		}
		next := argmax(logits[(n-1)*vocab:])
		for i, want := range c.result.Greedy[:k.greedy] {
			if k.windowless && n+i > mistralWindow {
				break
			}
			require.Equal(t, want, next, "%s, %s, token %d", c.name, k.plan, i)
			logits, err = b.Forward(ctx, engine.SingleRun([]int32{next}, n+i, 1))
			require.NoError(t, err)
			next = argmax(logits)
		}
		require.NoError(t, b.Close())
	}
}

func argmax(x []float32) (best int32) {
	for i, v := range x {
		if v > x[best] {
			best = int32(i)
		}
	}
	return best
}

// Every family computes what transformers computes, from GGUF files that llama.cpp's converter wrote and from Hugging Face
// directories.
func TestFamiliesAgreeWithTransformers(t *testing.T) {
	forFamilies(t, func(t *testing.T, family *testmodel.Family, src source.Model) {
		r := compressed(t, src)
		for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
			check{plan, most, len(family.Results.Short.Greedy), windowless(family, src), cpu.New}.run(t, r, family)
		}
	})
}

// changedSource is a model with one changed tensor.
type changedSource struct {
	source.Model
	changed int
}

func (s *changedSource) ReadRows(i, r0, r1 int, dst []float32) error {
	if err := s.Model.ReadRows(i, r0, r1, dst); err != nil || i != s.changed {
		return err
	}
	for k := range dst {
		dst[k] *= 1 + 0.25*float32(k%3)
	}
	return nil
}

// ReadBits16 makes compression fall back to ReadRows: a changed weight has other bits.
func (s *changedSource) Tensors() []source.TensorInfo {
	infos := slices.Clone(s.Model.Tensors())
	infos[s.changed].Type = "F32"
	return infos
}

// Every tensor matters: logits move if it changes. What a test of logits proves, it proves for all of them.
func TestEveryTensorOfAFamilyMatters(t *testing.T) {
	forFamilies(t, func(t *testing.T, family *testmodel.Family, src source.Model) {
		if strings.HasSuffix(src.Path(), "-hf") { // holds the same weights
			return
		}
		logits := func(src source.Model, nCtx int) []float32 {
			r := compressed(t, src)
			prog, _, err := engine.Describe(r)
			require.NoError(t, err)
			b := cpu.New()
			require.NoError(t, b.Load(context.Background(), r, prog, engine.LoadOptions{NCtx: nCtx, Threads: 1, Activations: 16}))
			out, err := b.Forward(context.Background(), engine.SingleRun(family.Results.Short.Tokens, 0, 1))
			require.NoError(t, err)
			out = slices.Clone(out)
			require.NoError(t, b.Close())
			return out
		}
		for _, nCtx := range []int{64, 128} {
			want := logits(src, nCtx)
			for i, info := range src.Tensors() {
				if !usedIn(info.Name, nCtx) {
					continue
				}
				assert.Greater(t, nmse(logits(&changedSource{src, i}, nCtx), want), most, info.Name)
			}
			if family.Name != "phi3" {
				break
			}
		}
	})
}

// usedIn tells whether a tensor is used with a context of n positions: LongRoPE has two tensors of divisors.
func usedIn(name string, n int) bool {
	return name != model.RopeShort && name != model.RopeLong || (name == model.RopeShort) == (n <= 64)
}

// The kernels, in the emulator, compute the same: resident and fused, with many tokens at a time and with one.
func TestFamiliesOnTheGPUAgreeWithTransformers(t *testing.T) {
	path := emulatorPath(t)
	forFamilies(t, func(t *testing.T, family *testmodel.Family, src source.Model) {
		if !strings.HasSuffix(src.Path(), "-hf") { // the CPU's tests tell that both files give the same model
			return
		}
		r := compressed(t, src)
		for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
			check{plan, mostGPU, 3, false, func() engine.Backend {
				dev, err := emu.Open(emu.Options{Path: path, Memory: 64 << 20, Poison: true})
				require.NoError(t, err)
				return gpu.New(dev)
			}}.run(t, r, family)
		}
	})
}
