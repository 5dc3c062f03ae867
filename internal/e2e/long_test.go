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

// Far beyond the trained context, models with every kind of position embedding and window compute what transformers computes.
func TestLongTextsAgreeWithTransformers(t *testing.T) {
	all, err := testmodel.LongRows()
	require.NoError(t, err)
	require.Len(t, all, 6)
	for name, rows := range all {
		t.Run(name, func(t *testing.T) {
			family, err := testmodel.ReadFamily(name)
			require.NoError(t, err)
			path, err := family.WriteHF(t.TempDir())
			require.NoError(t, err)
			src, err := source.Open(path)
			require.NoError(t, err)
			defer src.Close()
			longRows(t, src, rows)
		})
	}
}

// longRows computes a text in batches and compares the logits at the rows' positions.
func longRows(t *testing.T, src source.Model, rows []testmodel.LongRow) {
	const batch = 512
	r := compressed(t, src)
	prog, _, err := engine.Describe(r)
	require.NoError(t, err)
	b, ctx := cpu.New(), context.Background()
	defer b.Close()
	tokens := testmodel.LongText(rows[len(rows)-1].Position + 1)
	require.NoError(t, b.Load(ctx, r, prog, engine.LoadOptions{NCtx: len(tokens), MaxBatch: batch, Threads: 2, Activations: 16}))
	at := 0
	for _, row := range rows {
		for at <= row.Position { // a batch ends at the row
			n := min(batch, row.Position+1-at)
			logits, err := b.Forward(ctx, engine.SingleRun(tokens[at:at+n], at, 1))
			require.NoError(t, err)
			if at += n; at == row.Position+1 {
				e := nmse(logits[:len(row.Logits)], row.Logits)
				t.Logf("position %d: %.1e", row.Position, e)
				assert.Less(t, e, mostAt(row.Position), "position %d", row.Position)
			}
		}
	}
}

// mostAt is the largest normalized squared error at a position. transformers has frequencies, and their products with positions,
// in float32: each rounding changes an angle by up to position·2⁻²⁴ radians.
func mostAt(position int) float64 {
	angle := 2 * float64(position) / (1 << 24)
	return most + angle*angle
}
