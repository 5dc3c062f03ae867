package eval

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// container compresses the test model, its matrices first converted to the given type, without loss.
func container(t *testing.T, matrices string) *format.Reader {
	t.Helper()
	dir := t.TempDir()
	path, err := testmodel.WriteGGUF(dir, testmodel.Variant{Type: matrices})
	require.NoError(t, err)
	src, err := source.Open(path)
	require.NoError(t, err)
	defer src.Close()
	out := filepath.Join(dir, "model.ellm")
	_, err = convert.Compress(context.Background(), src, out, convert.Options{Scheme: convert.SchemeLossless}, nil)
	require.NoError(t, err)
	f, err := format.Open(out)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// counted is a backend that counts its calls and can be told to fail in two ways.
type counted struct {
	engine.Backend
	calls  int
	poison float32 // added to a logit if not 0
	cancel context.CancelFunc
	after  int // cancel after this many calls
}

func (b *counted) Forward(ctx context.Context, batch engine.Batch) ([]float32, error) {
	b.calls++
	if b.cancel != nil && b.calls > b.after {
		b.cancel()
	}
	logits, err := b.Backend.Forward(ctx, batch)
	if err == nil && len(logits) > 0 && b.poison != 0 {
		logits[3] += b.poison
	}
	return logits, err
}

// failing is a backend whose device is gone after loading.
type failing struct{ engine.Backend }

func (failing) Forward(context.Context, engine.Batch) ([]float32, error) { return nil, errGone }

// session runs the test model with the given matrices on the CPU. maxBatch bounds the rows of logits computed at once.
func session(t *testing.T, matrices string, maxBatch int) (*engine.Engine, *counted) {
	t.Helper()
	b := &counted{Backend: cpu.New()}
	s, err := engine.New(context.Background(), container(t, matrices), b, engine.LoadOptions{NCtx: 512, MaxBatch: maxBatch,
		Plan: engine.PlanResident})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return s, b
}

func heldOut(s *engine.Engine) []int32 {
	return s.Tokenizer().Encode(testmodel.HeldOut(), true, false)
}

// scripted is a backend that answers every prompt with the same tokens, whatever the model.
type scripted struct {
	nVocab int
	pages  int
	script []int32
	at     int
	end    int // tokens in the cache
}

func (b *scripted) Load(_ context.Context, _ *format.Reader, prog *model.Program, opt engine.LoadOptions) error {
	b.nVocab, b.pages = prog.Config.NVocab, opt.Pages()
	return nil
}
func (b *scripted) Memory() engine.MemoryPlan { return engine.MemoryPlan{Pages: b.pages} }
func (b *scripted) Describe() string          { return "scripted" }
func (b *scripted) Close() error              { return nil }

func (b *scripted) Forward(_ context.Context, batch engine.Batch) ([]float32, error) {
	tokens, pos, rows := batch.Tokens, batch.Runs[0].Pos, batch.Runs[0].Rows
	if pos != b.end {
		b.at = 0
	}
	b.end = pos + len(tokens)
	logits := make([]float32, rows*b.nVocab)
	if rows > 0 {
		logits[len(logits)-b.nVocab+int(b.script[b.at])] = 9
		b.at++
	}
	return logits, nil
}

var nan = float32(math.NaN())
