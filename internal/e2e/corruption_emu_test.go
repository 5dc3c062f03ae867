package e2e_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// emulatorPath returns the emulator program, or skips the test.
func emulatorPath(t *testing.T) string {
	path := os.Getenv("ELLM_EMU")
	if path == "" {
		path = "../../bin/ellm-emu"
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("ELLM_REQUIRE_EMU") != "" {
			t.Fatalf("the emulator is required: %v", err)
		}
		t.Skipf("SKIPPED: %v; make emu builds the emulator, without which make test and CI do not pass", err)
	}
	return path
}

// emulate loads a container into an emulated GPU, which checks every access of its kernels, and runs some tokens.
func emulate(t *testing.T, emulator string, r *format.Reader, plan engine.Plan) ([]float32, error) {
	prog, err := program(r)
	if err != nil {
		return nil, err
	}
	dev, err := emu.Open(emu.Options{Path: emulator, Memory: 64 << 20, Threads: 1, Poison: true})
	require.NoError(t, err)
	b := gpu.New(dev)
	defer b.Close()
	if err := b.Load(context.Background(), r, prog, engine.LoadOptions{Plan: plan, NCtx: 16, MaxBatch: 4}); err != nil {
		return nil, err
	}
	return b.Forward(context.Background(), engine.SingleRun([]int32{1, 2, 3, 4}, 0, 1))
}

// TestCorruptionMatrixInTheEmulator loads damaged containers with right checksums into the GPU's kernels: those that can be
// opened are refused for what is in them or run, and no kernel touches memory that is not its own or fails otherwise.
func TestCorruptionMatrixInTheEmulator(t *testing.T) {
	emulator := emulatorPath(t)
	seeds, deadline := 1, time.Now().Add(15*time.Second)
	if os.Getenv("ELLM_CORRUPTION_SEEDS") != "" {
		seeds, deadline = 8, time.Now().Add(time.Hour)
	}
	dir := t.TempDir()
	in, path := filepath.Join(dir, "mini.gguf"), filepath.Join(dir, "mini.ellm")
	miniGGUF(t, in, 0xff)
	refused, ran, notOpened := 0, 0, 0
	for _, opt := range []convert.Options{{Tuning: convert.Tuning{Kappa: 0.25, NoColumns: true}}, {Scheme: convert.SchemeLossless}} {
		src, err := source.Open(in)
		require.NoError(t, err)
		_, err = convert.Compress(context.Background(), src, path, opt, nil)
		require.NoError(t, err)
		require.NoError(t, src.Close())
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		for i, d := range corruptions(whole, regions(whole, 0, 1, 3, 8), seeds) {
			if !d.sealed || time.Now().After(deadline) {
				continue
			}
			require.NoError(t, os.WriteFile(path, d.b, 0o600))
			r, err := format.Open(path)
			if err != nil {
				notOpened++
				continue
			}
			_, err = emulate(t, emulator, r, []engine.Plan{engine.PlanResident, engine.PlanFused}[i/2%2])
			var failed *driver.Error
			require.False(t, errors.As(err, &failed), "%s: %v", d.what, err)
			if refused++; err == nil {
				refused--
				ran++
			}
			require.NoError(t, r.Close())
		}
	}
	require.Positive(t, ran)
	t.Logf("%d files refused when opened, %d when loaded, %d run", notOpened, refused, ran)
}
