package e2e_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// Models with an adapter compute what PEFT's merge_and_unload makes of them, from GGUF files and from Hugging Face directories.
func TestMergedAdaptersAgreeWithPEFT(t *testing.T) {
	forFamilies(t, func(t *testing.T, family *testmodel.Family, src source.Model) {
		a, err := testmodel.ReadAdapter(family.Name)
		require.NoError(t, err)
		dir, err := a.Write(t.TempDir())
		require.NoError(t, err)
		merged, err := source.Adapt(src, []source.Adapter{{Dir: dir, Scale: 1}})
		require.NoError(t, err)
		r := compressed(t, merged)
		prog, _, err := engine.Describe(r)
		require.NoError(t, err)
		b := cpu.New()
		defer b.Close()
		ctx, n := context.Background(), len(a.Tokens)
		require.NoError(t, b.Load(ctx, r, prog, engine.LoadOptions{NCtx: 64, MaxBatch: 64, Threads: 2, Activations: 16}))
		logits, err := b.Forward(ctx, engine.SingleRun(a.Tokens, 0, n))
		require.NoError(t, err)
		vocab := prog.Config.NVocab
		for _, row := range a.Rows {
			if windowless(family, src) && row.Position >= mistralWindow {
				continue
			}
			e := nmse(logits[row.Position*vocab:][:vocab], row.Logits)
			t.Logf("position %d: %.1e", row.Position, e)
			assert.Less(t, e, most, "position %d", row.Position)
		}
	})
}

// Half of an adapter twice is the adapter, because what it adds is linear in its scale.
func TestScalesOfAdaptersAddUp(t *testing.T) {
	family, err := testmodel.ReadFamily("phi3")
	require.NoError(t, err)
	a, err := testmodel.ReadAdapter(family.Name)
	require.NoError(t, err)
	dir, err := a.Write(t.TempDir())
	require.NoError(t, err)
	read := func(adapters ...source.Adapter) map[string][]float32 {
		path, err := family.WriteHF(t.TempDir())
		require.NoError(t, err)
		src, err := source.Open(path)
		require.NoError(t, err)
		merged, err := source.Adapt(src, adapters)
		require.NoError(t, err)
		defer merged.Close()
		return tensors(t, merged)
	}
	plain, once := read(), read(source.Adapter{Dir: dir, Scale: 1})
	twice := read(source.Adapter{Dir: dir, Scale: 0.5}, source.Adapter{Dir: dir, Scale: 0.5})
	for name, w := range once {
		assert.InDeltaSlice(t, w, twice[name], 1e-6, name)
	}
	assert.NotEqual(t, plain["blk.1.attn_k.weight"], once["blk.1.attn_k.weight"])
	assert.Equal(t, plain["token_embd.weight"], once["token_embd.weight"])
}
