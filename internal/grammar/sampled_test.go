package grammar

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// What a sampler chooses from masked logits is valid, whatever the model would have written: here all tokens have random logits.
func TestSampledOutputsAreValid(t *testing.T) {
	v, texts := testTokens()
	logits := make([]float32, len(texts))
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 8))
		schema, err := json.Marshal(randomSchema(rng, 3))
		require.NoError(t, err)
		g, err := FromSchema(schema)
		require.NoError(t, err)
		c, valid := NewConstraint(g, v), validator(t, string(schema))
		for _, temperature := range []float32{0, 1} {
			m, s := NewMask(c), sample.New(sample.Options{Temperature: temperature, TopP: 0.95, Seed: seed})
			var out []byte
			ended := false
			for range 80 {
				for i := range logits {
					logits[i] = float32(3 * rng.NormFloat64())
				}
				m.Mask(logits)
				id, err := s.Next(logits)
				require.NoError(t, err, "%s: %s", schema, out)
				if ended = slices.Contains(v.ends, id); ended {
					break
				}
				s.Accept(id)
				m.Accept(id)
				out = append(out, texts[id]...)
			}
			if !ended {
				rest, ok := shortest(c, m.at)
				require.True(t, ok, "%s: %s", schema, out)
				out = append(out, rest...)
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(out))
			require.NoError(t, err, "%s: %s", schema, out)
			require.NoError(t, valid.Validate(value), "%s: %s", schema, out)
		}
	}
}
