package eval

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What llama-perplexity prints for the test model with Q4_1 matrices (testmodel.Variant), brought to F32 with llama-quantize
// --allow-requantize so that it does not round activations to 8 bits:
//
//	llama-perplexity -m tiny-llama-Q4_1-as-F32.gguf --kl-divergence --kl-divergence-base tiny-llama.logits -c 32 -b 32
func TestKLDMatchesLlamaCPP(t *testing.T) {
	s, _ := session(t, "Q4_1", 64)
	l := openGolden(t)
	for _, want := range []struct {
		chunks                                           int
		ppl, pplErr, ratio, ratioErr, kld, kldErr        float64
		deltaPRMS, deltaPRMSErr, sameTop, sameTopErr, pm float64
	}{
		{1, 21.7834, 16.6278, 0.02964, 0.12903, 0.08454, 0.02115, 10.686, 3.644, 86.667, 9.085, 0.01},
		{2, 15.4435, 7.4182, 0.04236, 0.07791, 0.07147, 0.01309, 9.498, 2.315, 80.000, 7.428, 0.01},
	} {
		r, err := KLD(context.Background(), s, NewFileReference(l), l.Tokens, KLDOptions{NCtx: l.NCtx, Chunks: want.chunks})
		require.NoError(t, err)
		assert.Equal(t, want.chunks*15, r.Tokens)
		assert.InEpsilon(t, want.ppl, r.Perplexity.Value, 1e-3)
		assert.InEpsilon(t, want.pplErr, r.Perplexity.StdErr, want.pm)
		assert.InEpsilon(t, want.ratio, r.LogRatio.Value, want.pm)
		assert.InEpsilon(t, want.ratioErr, r.LogRatio.StdErr, want.pm)
		assert.InEpsilon(t, want.kld, r.KLD.Value, want.pm)
		assert.InEpsilon(t, want.kldErr, r.KLD.StdErr, want.pm)
		assert.InEpsilon(t, want.deltaPRMS, 100*r.DeltaPRMS.Value, want.pm)
		assert.InEpsilon(t, want.deltaPRMSErr, 100*r.DeltaPRMS.StdErr, want.pm)
		assert.InEpsilon(t, want.sameTop, 100*r.SameTop.Value, want.pm)
		assert.InEpsilon(t, want.sameTopErr, 100*r.SameTop.StdErr, want.pm)
	}
}

// A model as reference, its own saved predictions, and batches of other sizes give nearly or exactly the same.
func TestKLDFromModelAndFromItsFile(t *testing.T) {
	ref, _ := session(t, "F16", 64)
	s, _ := session(t, "Q4_1", 64)
	small, _ := session(t, "Q4_1", 5)
	tokens := heldOut(s)
	path := filepath.Join(t.TempDir(), "saved")
	w, err := CreateLogits(path)
	require.NoError(t, err)
	opt := KLDOptions{NCtx: 64, Chunks: 3}
	exact, err := KLD(context.Background(), s, NewModelReference(ref, w), tokens, opt)
	require.NoError(t, err)
	require.NoError(t, w.Finish())
	assert.Equal(t, 3*31, exact.Tokens)

	again, err := KLD(context.Background(), small, NewModelReference(ref, nil), tokens, opt)
	require.NoError(t, err)
	assert.InEpsilon(t, exact.KLD.Value, again.KLD.Value, 1e-4, "another size of batches")

	l, err := OpenLogits(path)
	require.NoError(t, err)
	defer l.Close()
	assert.Equal(t, tokens[:3*64], l.Tokens)
	saved, err := KLD(context.Background(), s, NewFileReference(l), tokens, opt)
	require.NoError(t, err)
	assert.InEpsilon(t, exact.KLD.Value, saved.KLD.Value, 0.01)
	assert.InEpsilon(t, exact.ReferencePerplexity.Value, saved.ReferencePerplexity.Value, 1e-3)
	assert.Equal(t, exact.Perplexity, saved.Perplexity)
	assert.Equal(t, exact.SameTop, saved.SameTop)
	assert.InDelta(t, exact.DeltaPRMS.Value, saved.DeltaPRMS.Value, 1e-4)

	same, err := KLD(context.Background(), ref, NewFileReference(l), tokens, opt)
	require.NoError(t, err)
	assert.InDelta(t, 0, same.KLD.Value, 1e-4)
	assert.Equal(t, 1.0, same.SameTop.Value)
}

func TestKLDResumes(t *testing.T) {
	s, b := session(t, "Q4_1", 64)
	l := openGolden(t)
	fresh, err := KLD(context.Background(), s, NewFileReference(l), l.Tokens, KLDOptions{NCtx: 32})
	require.NoError(t, err)

	path := filepath.Join(t.TempDir(), "state")
	ctx, cancel := context.WithCancel(context.Background())
	b.calls, b.cancel, b.after = 0, cancel, 1 // during the second chunk
	resume := func(ctx context.Context) (KLDResult, error) {
		state, err := OpenState(path, 1)
		require.NoError(t, err)
		defer state.Close()
		return KLD(ctx, s, NewFileReference(l), l.Tokens, KLDOptions{NCtx: 32, State: state})
	}
	_, err = resume(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	b.calls, b.cancel = 0, nil
	r, err := resume(context.Background())
	require.NoError(t, err)
	assert.Equal(t, fresh, r)
	assert.Equal(t, 1, b.calls, "one chunk was left")

	// Results that do not belong to chunks of this size.
	state, err := OpenState(path, 2)
	require.NoError(t, err)
	defer state.Close()
	require.NoError(t, state.put(0, kldRows{NLL: []float32{1}}))
	_, err = KLD(context.Background(), s, NewFileReference(l), l.Tokens, KLDOptions{NCtx: 32, State: state})
	assert.ErrorContains(t, err, "15 rows")
}

func TestKLDErrors(t *testing.T) {
	s, b := session(t, "F16", 64)
	l := openGolden(t)
	kld := func(ref Reference, tokens []int32, nCtx int) error {
		_, err := KLD(context.Background(), s, ref, tokens, KLDOptions{NCtx: nCtx})
		return err
	}
	assert.ErrorContains(t, kld(NewFileReference(l), l.Tokens, 16), "context of 32 tokens, not of 16")
	assert.ErrorContains(t, kld(NewFileReference(l), l.Tokens, 1024), "1024")
	assert.ErrorContains(t, kld(NewFileReference(l), l.Tokens[:20], 32), "20 tokens")
	other := append([]int32{}, l.Tokens...)
	other[40]++
	assert.ErrorContains(t, kld(NewFileReference(l), other, 32), "token 40")
	assert.ErrorContains(t, kld(NewFileReference(l), heldOut(s), 32), "token 64", "more text than was saved")

	ref, refBackend := session(t, "F16", 64)
	refBackend.poison = nan
	assert.ErrorContains(t, kld(NewModelReference(ref, nil), l.Tokens, 32), "not finite")
	refBackend.Backend = failing{refBackend.Backend}
	assert.ErrorIs(t, kld(NewModelReference(ref, nil), l.Tokens, 32), errGone)
	b.poison = nan
	assert.ErrorContains(t, kld(NewFileReference(l), l.Tokens, 32), "chunk 1 of 2: the logits at position 16 are not finite")
	vocab := *l
	vocab.NVocab++
	assert.ErrorContains(t, kld(NewFileReference(&vocab), l.Tokens, 32), "same vocabulary")
}

var errGone = errors.New("the device is gone")
