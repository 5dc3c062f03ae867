package decode

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// FuzzDecoders codes random weights of arbitrary geometry, damages the stream, and decodes it with every instruction set. All
// must agree, damaged or not, and with the reference decoder wherever that finds no fault.
func FuzzDecoders(f *testing.F) {
	f.Add(uint64(1), uint16(576), uint8(9), uint8(16), uint8(0), uint8(20), []byte{})
	f.Add(uint64(2), uint16(2112), uint8(1), uint8(32), uint8(3), uint8(50), []byte{})
	f.Add(uint64(3), uint16(65), uint8(31), uint8(2), uint8(7), uint8(1), []byte{0, 0, 0xff})
	f.Add(uint64(4), uint16(256), uint8(17), uint8(16), uint8(4), uint8(255), []byte{1, 2, 3, 250, 250, 0x80})
	f.Fuzz(func(t *testing.T, seed uint64, cols uint16, rows, levels, low, sigma uint8, damage []byte) {
		const most = 4500 // weights, for a thousand executions per second
		c := 1 + int(cols)%4200
		r := 1 + int(rows)%min(40, max(1, most/c))
		decodersAgree(t, seed, r, c, 2+int(levels)%31, int(low)%9, float64(1+sigma)/16, damage)
	})
}

// Lanes that are damaged read on, with AVX2 too, without touching what belongs to other lanes.
func TestDecodersAgreeOnDamagedLanes(t *testing.T) {
	decodersAgree(t, 114, 31, 1388, 11, 7, 218./16, []byte{1, 2, 3, 250, 250, 'i'})
}

// decodersAgree codes random weights, changes the stream at places that damage says, three bytes each, and compares decoders.
func decodersAgree(t *testing.T, seed uint64, rows, cols, levels, low int, sigma float64, damage []byte) {
	rng := rand.New(rand.NewPCG(seed, 5))
	c, tables, _ := coded(t, rng, rows, cols, levels, low, 12, sigma)
	for i := 0; i+3 <= len(damage); i += 3 {
		at := (int(damage[i])<<8 | int(damage[i+1])) * 7919 % len(c.Stream)
		c.Stream[at] ^= uint32(damage[i+2]) << (i % 25)
	}
	stride := c.Steps() * format.StepCols
	want := decodeAll(t, c, tables, isa.Generic)
	for _, isa := range isas()[1:] {
		for i, u := range decodeAll(t, c, tables, isa) {
			if u != want[i] {
				t.Fatalf("%s: row %d, column %d is %d, expected %d", isa, i/stride, i%stride, u, want[i])
			}
		}
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
			if uint16(k) != want[at] {
				t.Fatalf("group %d, code %d is %d, expected %d", g, i, want[at], k)
			}
		}
	}
}
