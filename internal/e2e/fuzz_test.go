package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// miniGGUF writes a model of one layer, small enough for thousands of runs per second: rows of one step, a row group per matrix.
// Bits of codes vary in the weights' bytes: with few code words tables are made faster.
func miniGGUF(t testing.TB, path string, codes byte) {
	t.Helper()
	const embd, ff, vocab, kv = 32, 32, 16, 16
	m := &gguf.Metadata{}
	m.Set("general.architecture", "llama")
	for key, n := range map[string]int{"embedding_length": embd, "block_count": 1, "attention.head_count": 2,
		"attention.head_count_kv": 1,
		"feed_forward_length":     ff, "context_length": 64} {
		m.Set("llama."+key, uint32(n))
	}
	m.Set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	var tokens []string
	for i := range vocab {
		tokens = append(tokens, string(rune('!'+i)))
	}
	m.Set("tokenizer.ggml.model", "gpt2")
	m.Set("tokenizer.ggml.pre", "gpt-2")
	m.Set("tokenizer.ggml.tokens", tokens)
	var tensors []gguf.Tensor
	add := func(name string, kind gguf.Type, dims ...uint64) {
		tensors = append(tensors, gguf.Tensor{Name: name, Dims: dims, Type: kind})
	}
	add("token_embd.weight", gguf.Q4_0, embd, vocab)
	add("blk.0.attn_norm.weight", gguf.F32, embd)
	add("blk.0.attn_q.weight", gguf.Q8_0, embd, embd)
	add("blk.0.attn_k.weight", gguf.Q4_0, embd, kv)
	add("blk.0.attn_v.weight", gguf.Q4_1, embd, kv)
	add("blk.0.attn_output.weight", gguf.Q4_0, embd, embd)
	add("blk.0.ffn_norm.weight", gguf.F32, embd)
	add("blk.0.ffn_gate.weight", gguf.Q4_0, embd, ff)
	add("blk.0.ffn_up.weight", gguf.Q4_0, embd, ff)
	add("blk.0.ffn_down.weight", gguf.Q4_0, ff, embd)
	add("output_norm.weight", gguf.F32, embd)
	w, err := gguf.Create(path, m, tensors)
	require.NoError(t, err)
	defer w.Abort()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, x := range tensors {
		require.NoError(t, writeRandom(w, &x, rng, codes))
	}
	require.NoError(t, w.Close())
}

// writeRandom writes weights of about 1/8.
func writeRandom(w *gguf.Writer, x *gguf.Tensor, rng *rand.Rand, codes byte) error {
	n := uint64(1)
	for _, d := range x.Dims {
		n *= d
	}
	const block = 32 // weights, of the types above; scale and offset of F16 come first
	if x.Type.Layout() == nil {
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(rng.NormFloat64() / 8)
		}
		return w.WriteFloats(values)
	}
	size, _ := x.Type.Bytes(block)
	for range n / block {
		b := make([]byte, size)
		for i := range b {
			b[i] = 0x77 ^ byte(rng.Uint32())&codes
		}
		binary.LittleEndian.PutUint16(b, gguf.FloatToF16(1./64))
		if x.Type.Layout().HasMin {
			binary.LittleEndian.PutUint16(b[2:], gguf.FloatToF16(-1./8))
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// patched applies a list of changes to a copy of b: three bytes of a place, a byte of what to do there, a byte of a value.
func patched(b, patch []byte) []byte {
	b = bytes.Clone(b)
	for ; len(patch) >= 5 && len(b) > 8; patch = patch[5:] {
		at := int(uint32(patch[0])|uint32(patch[1])<<8|uint32(patch[2])<<16) % (len(b) - 8)
		switch v := patch[4]; patch[3] % 6 {
		case 0:
			b[at] ^= v
		case 1:
			b[at] = v
		case 2:
			binary.LittleEndian.PutUint64(b[at:], uint64(1)<<(v%64)-uint64(v/64))
		case 3:
			clear(b[at:min(len(b), at+int(v))])
		case 4:
			binary.LittleEndian.PutUint32(b[at:], 0x7f800000+uint32(v)) // infinity, NaN
		case 5:
			copy(b[at:], b[int(v)*len(b)/256:min(len(b), int(v)*len(b)/256+int(v))])
		}
	}
	return b
}

func patchSeeds(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{10, 0, 0, 0, 1})
	f.Add([]byte{64, 1, 0, 1, 255, 0, 16, 0, 2, 31})
	f.Add([]byte{200, 3, 0, 4, 0})
}

// fuzzDir returns a directory for files that live as long as an execution: in memory, where the system has such a place. From
// then on garbage, which is most of what executions leave, is collected more rarely, and all goroutines share a thread: what they
// do is shorter than it takes to wake another one.
func fuzzDir(f *testing.F) string {
	f.Helper()
	percent, threads := debug.SetGCPercent(1000), runtime.GOMAXPROCS(1)
	f.Cleanup(func() {
		debug.SetGCPercent(percent)
		runtime.GOMAXPROCS(threads)
	})
	dir, err := os.MkdirTemp("/dev/shm", "ellm-fuzz-")
	if err != nil {
		return f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// mini returns the bytes of the mini model's container.
func mini(f *testing.F, dir string, opt convert.Options) []byte {
	f.Helper()
	path, out := filepath.Join(dir, "mini.gguf"), filepath.Join(dir, "mini.ellm")
	miniGGUF(f, path, 0xff)
	src, err := source.Open(path)
	require.NoError(f, err)
	defer src.Close()
	_, err = convert.Compress(context.Background(), src, out, opt, nil)
	require.NoError(f, err)
	b, err := os.ReadFile(out)
	require.NoError(f, err)
	return b
}

// program returns what the container's model computes.
func program(r *format.Reader) (*model.Program, error) {
	var c model.Config
	if err := json.Unmarshal(r.Meta().Config, &c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return model.Build(&c, func(name string) bool { _, ok := r.Tensor(name); return ok })
}

// forwardPass loads a container with a plan and runs some tokens.
func forwardPass(r *format.Reader, prog *model.Program, plan engine.Plan) (logits []float32, err error) {
	b := cpu.New()
	defer b.Close()
	// A budget, since asking the system for free memory takes as long as all the rest.
	opt := engine.LoadOptions{Plan: plan, NCtx: 16, MaxBatch: 4, Threads: 1, MemoryBudget: 64 << 20}
	if err := b.Load(context.Background(), r, prog, opt); err != nil {
		return nil, err
	}
	out, err := b.Forward(context.Background(), engine.SingleRun([]int32{1, 2, 3, 4}, 0, 1))
	return append(logits, out...), err
}

// runBoth runs what is in r with both plans, which must give the same numbers or both refuse.
func runBoth(t *testing.T, r *format.Reader) error {
	prog, err := program(r)
	if err != nil {
		return err
	}
	resident, err1 := forwardPass(r, prog, engine.PlanResident)
	fused, err2 := forwardPass(r, prog, engine.PlanFused)
	require.Equal(t, err1 == nil, err2 == nil, "resident: %v, fused: %v", err1, err2)
	for i := range resident {
		if x, y := resident[i], fused[i]; x != y && (x == x || y == y) {
			t.Fatalf("logit %d is %g and %g", i, x, y)
		}
	}
	return err1
}

// FuzzSealedContainer damages a container, makes its checksums right, and runs and verifies what comes out: both plans give the
// same numbers or both refuse.
func FuzzSealedContainer(f *testing.F) {
	patchSeeds(f)
	dir := fuzzDir(f)
	whole := mini(f, dir, convert.Options{Tuning: convert.Tuning{Kappa: 0.25, NoColumns: true}})
	path := filepath.Join(dir, "fuzzed.ellm")
	f.Fuzz(func(t *testing.T, patch []byte) {
		require.NoError(t, os.WriteFile(path, seal(patched(whole, patch)), 0o600))
		r, err := format.Open(path)
		if err != nil {
			return
		}
		defer r.Close()
		failed := runBoth(t, r)
		if err := convert.Verify(context.Background(), r, nil); err == nil && len(patch) == 0 {
			require.NoError(t, failed)
		}
	})
}

// quickDisk is a Disk that keeps a file in memory until it is closed: a call of the system takes as long as a small matrix.
type quickDisk struct{ outfile.OS }

type quickFile struct {
	outfile.Handle
	data []byte
}

func (d quickDisk) Create(name string, mode os.FileMode) (outfile.Handle, error) {
	h, err := d.OS.Create(name, mode)
	return &quickFile{Handle: h}, err
}

func (quickDisk) SyncDir(dir string) error { return nil }
func (*quickFile) Sync() error             { return nil }

func (f *quickFile) Write(b []byte) (int, error) {
	f.data = append(f.data, b...)
	return len(b), nil
}

func (f *quickFile) WriteAt(b []byte, at int64) (int, error) {
	if gap := at + int64(len(b)) - int64(len(f.data)); gap > 0 {
		f.data = append(f.data, make([]byte, gap)...)
	}
	return copy(f.data[at:], b), nil
}

func (f *quickFile) Close() error {
	_, err := f.Handle.Write(f.data)
	return errors.Join(err, f.Handle.Close())
}

// FuzzCompressGGUF damages a GGUF file, compresses what can be read, every other time without loss, and verifies and runs the
// result.
func FuzzCompressGGUF(f *testing.F) {
	patchSeeds(f)
	dir := fuzzDir(f)
	in, out := filepath.Join(dir, "fuzzed.gguf"), filepath.Join(dir, "fuzzed.ellm")
	miniGGUF(f, in, 0x11)
	whole, err := os.ReadFile(in)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, patch []byte) {
		require.NoError(t, os.WriteFile(in, patched(whole, patch), 0o600))
		src, err := source.Open(in)
		if err != nil {
			return
		}
		defer src.Close()
		opt := convert.Options{Scheme: convert.SchemePaperU4, Disk: quickDisk{}}
		if len(patch)%2 == 1 {
			opt.Scheme = convert.SchemeLossless
		}
		if _, err := convert.Compress(context.Background(), src, out, opt, nil); err != nil {
			return
		}
		r, err := format.Open(out)
		require.NoError(t, err)
		defer r.Close()
		require.NoError(t, convert.Verify(context.Background(), r, nil), "what compress writes is right")
		prog, err := program(r)
		require.NoError(t, err)
		// Weights may be finite and yet so large that products are not.
		if _, err = forwardPass(r, prog, engine.PlanFused); err != nil {
			require.ErrorContains(t, err, "not finite")
		}
	})
}
