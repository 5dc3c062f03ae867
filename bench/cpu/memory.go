package main

import (
	"runtime"
	"sync"
)

// memoryBytes is what one core reads or copies: more than its share of any cache.
const memoryBytes = 512 << 20

// benchMemory measures what the machine's memory gives.
func benchMemory(o *options, r *report) error {
	cores := runtime.GOMAXPROCS(0)
	parts := make([][]uint64, cores)
	for i := range parts {
		parts[i] = make([]uint64, memoryBytes/8)
		for j := range parts[i] {
			parts[i][j] = uint64(j)
		}
	}
	sums := make([]uint64, 16*cores)
	together := func(f func(i int)) func() error {
		return func() error {
			var wg sync.WaitGroup
			for i := range parts {
				wg.Go(func() { f(i) })
			}
			wg.Wait()
			return nil
		}
	}
	read := func(i int) { sums[16*i] += sum(parts[i]) }
	half := memoryBytes / 16
	got, err := rates([]work{
		{memoryBytes, func() error { read(0); return nil }},
		{float64(cores) * memoryBytes, together(read)},
		{memoryBytes / 2, func() error { copy(parts[0][:half], parts[0][half:]); return nil }},
		{float64(cores) * memoryBytes / 2, together(func(i int) { copy(parts[i][:half], parts[i][half:]) })},
	}, o.rounds, o.each)
	if err != nil {
		return err
	}
	for i, what := range []string{"read, one core", "read, all cores", "copy, one core", "copy, all cores"} {
		r.add(row{What: "memory: " + what, Unit: "GB/s", Ours: scaled(got[i], 1e-9)})
	}
	r.read = [2]float64{median(got[0]), median(got[1])}
	return nil
}

func sum(v []uint64) uint64 {
	var a, b, c, d uint64
	for ; len(v) >= 8; v = v[8:] {
		a += v[0] + v[4]
		b += v[1] + v[5]
		c += v[2] + v[6]
		d += v[3] + v[7]
	}
	return a + b + c + d
}

func scaled(v []float64, by float64) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = x * by
	}
	return out
}
