package gguf

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

func TestF16ToFloat(t *testing.T) {
	for i := range 1 << 16 {
		want := float16.Frombits(uint16(i)).Float32()
		require.Equal(t, math.Float32bits(want), math.Float32bits(F16ToFloat(uint16(i))), "%#x", i)
		var dst [1]float32
		require.NoError(t, Dequantize(F16, []byte{byte(i), byte(i >> 8)}, dst[:]))
		require.Equal(t, math.Float32bits(want), math.Float32bits(dst[0]), "%#x", i)
	}
}

func BenchmarkF16(b *testing.B) {
	src, dst := make([]byte, 1<<13), make([]float32, 1<<12)
	for i := range src {
		src[i] = byte(i*37>>3&0x1f) | 0x20
	}
	for b.Loop() {
		_ = Dequantize(F16, src, dst)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(dst)), "ns/weight")
}
