package source

import "testing"

// PackedCheckpoint is a GPTQ or AWQ model on disk, for tests of what depends on this package.
type PackedCheckpoint struct {
	Dir     string
	Weights map[string][]float32 // the quantized matrices' true weights: GGUF's name → rows × columns
	OneZero bool                 // the same zero point everywhere
	Bits    int
}

// PackedCheckpoints writes a checkpoint of every supported form.
func PackedCheckpoints(t *testing.T) (out []PackedCheckpoint) {
	t.Helper()
	for _, c := range packedCheckpoints() {
		c.build()
		out = append(out, PackedCheckpoint{Dir: c.write(t), Weights: c.matrices(), OneZero: c.oneZero, Bits: c.bits})
	}
	return out
}
