package cpu

import "testing"

func BenchmarkKernels(b *testing.B) {
	w, x, out := make([]float32, 4*1024), make([]float32, 4*1024), make([]float32, 16)
	src, sc := make([]uint8, 4096), make([]float32, 128)
	for _, k := range append(simdKernels(), genericKernels()) {
		b.Run(k.name+"/dot4x1", func(b *testing.B) {
			for b.Loop() {
				k.dot4(out, w, 1024, x, 1024, 1, 1024)
			}
			b.ReportMetric(4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
		b.Run(k.name+"/dot4x4", func(b *testing.B) {
			for b.Loop() {
				k.dot4(out, w, 1024, x, 1024, 4, 1024)
			}
			b.ReportMetric(4*4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
		b.Run(k.name+"/dequant", func(b *testing.B) {
			for b.Loop() {
				k.dequant(w, src, 3, 1, 0)
			}
			b.ReportMetric(4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gw/s")
		})
		b.Run(k.name+"/dequantBlocks", func(b *testing.B) {
			for b.Loop() {
				k.dequantBlocks(w, src, 3, 32, sc, sc)
			}
			b.ReportMetric(4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gw/s")
		})
		b.Run(k.name+"/weighted", func(b *testing.B) {
			for b.Loop() {
				k.weighted(x[:64], sc[:64], w, 64)
			}
			b.ReportMetric(4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}
