package decode

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
)

// FuzzDecoders codes random weights of arbitrary geometry, damages the stream, and decodes it with every instruction set. All must agree, damaged or not, and
// with the reference decoder wherever that finds no fault.
func FuzzDecoders(f *testing.F) {
	f.Add(uint64(1), uint16(576), uint8(13), uint8(16), uint8(0), uint8(20), []byte{})
	f.Add(uint64(2), uint16(2112), uint8(31), uint8(32), uint8(3), uint8(50), []byte{})
	f.Add(uint64(3), uint16(65), uint8(1), uint8(2), uint8(7), uint8(1), []byte{0, 0, 0xff})
	f.Add(uint64(4), uint16(1536), uint8(26), uint8(16), uint8(4), uint8(255), []byte{1, 2, 3, 250, 250, 0x80})
	f.Fuzz(func(t *testing.T, seed uint64, cols uint16, rows, levels, low, sigma uint8, damage []byte) {
		rng := rand.New(rand.NewPCG(seed, 5))
		l, s := 2+int(levels)%31, int(low)%9
		c, tables, _ := coded(t, rng, 1+int(rows)%40, 1+int(cols)%4200, l, s, 12, float64(1+sigma)/16)
		for i := 0; i+3 <= len(damage); i += 3 {
			at := (int(damage[i])<<8 | int(damage[i+1])) * 7919 % len(c.Stream)
			c.Stream[at] ^= uint32(damage[i+2]) << (i % 25)
		}
		stride := c.Steps() * format.StepCols
		want := decodeAll(t, c, tables, Generic)
		for _, isa := range isas()[1:] {
			require.Equal(t, want, decodeAll(t, c, tables, isa), "%s", isa)
		}
		ref, err := codec.NewDecoder(c, tables)
		require.NoError(t, err)
		for g := range c.Groups() {
			codes, err := ref.Codes(g, nil)
			if err != nil {
				continue // damaged
			}
			for i, k := range codes {
				at := (g*c.Coding.RowsPerGroup+i/c.Cols)*stride + i%c.Cols
				require.Equal(t, uint16(k), want[at], "group %d, code %d", g, i)
			}
		}
	})
}
