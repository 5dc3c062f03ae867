package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/huff0"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// TestSample checks that both codings hold the same integers, and that products of decoded chunks run through all of them.
func TestSample(t *testing.T) {
	const rows, cols = 40, 192
	s, err := newSample(3.5, rows, cols)
	require.NoError(t, err)
	require.InDelta(t, 3.5, s.entropy, 0.1)
	require.InDelta(t, s.entropy, s.huffRate, 0.3)
	want, err := codec.Decode(s.coded, s.tables)
	require.NoError(t, err)
	scratch, _, err := huff0.ReadTable(s.table, nil)
	require.NoError(t, err)
	at := 0
	for i, b := range s.blocks {
		out, err := scratch.Decoder().Decompress4X(make([]byte, 0, s.lengths[i]), b)
		require.NoError(t, err)
		for _, v := range out {
			require.Equal(t, want[at], float32(int(v)-128), at)
			at++
		}
	}
	require.Equal(t, rows*cols, at)
	for i := isa.Generic; i <= decode.Best(); i++ {
		f, err := s.decoder(i)
		require.NoError(t, err)
		require.NoError(t, f())
		f, err = s.fused(i, dot.With(isa.Generic))
		require.NoError(t, err)
		require.NoError(t, f())
	}
}

func TestTokenProducts(t *testing.T) {
	s := shape{layers: 1, hidden: 130, kv: 64, ffn: 2200, vocab: 70}
	f, size := tokenProducts(dot.Best(), s.matrices())
	require.NoError(t, f())
	// Rows of 130 columns take 3 steps, those of 2200 take 35, of 40 bytes each.
	require.Equal(t, 40*(3*(130+128+130+4400+70)+35*130), size)
}

// BenchmarkCoding decodes the same integers with huff0 and with this project's decoders. It reports the mean of its runs and the
// best one, which says more on a machine that others use, too.
func BenchmarkCoding(b *testing.B) {
	for _, bits := range []float64{3, 4, 5} {
		s, err := newSample(bits, sampleRows, sampleCols)
		require.NoError(b, err)
		run := func(name string, f func() error, err error) {
			require.NoError(b, err)
			b.Run(fmt.Sprintf("%s/bits=%g", name, bits), func(b *testing.B) {
				best := time.Hour
				for b.Loop() {
					start := time.Now()
					require.NoError(b, f())
					best = min(best, time.Since(start))
				}
				b.ReportMetric(float64(s.weights)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
				b.ReportMetric(float64(s.weights)/best.Seconds()/1e9, "best-Gweights/s")
				b.ReportMetric(s.rate, "bits")
				b.ReportMetric(s.huffRate, "huff0bits")
			})
		}
		f, err := s.huff0()
		run("huff0", f, err)
		for i := isa.Generic; i <= decode.Best(); i++ {
			f, err = s.decoder(i)
			run("decode/"+i.String(), f, err)
			f, err = s.fused(i, dot.With(i))
			run("fused/"+i.String(), f, err)
		}
	}
}
