package main

import (
	"runtime"
	"slices"
)

// memoryBytes is what all cores together read: more than caches hold.
const memoryBytes = 1 << 30

// bandwidth measures what the machine's memory gives, again before every part of the benchmark. The most seen is the limit.
type bandwidth struct {
	parts   [][]uint64  // per core
	sums    []uint64    // so that reading has a result
	samples [][]float64 // bytes per second: reading on one core, on all, copying on one core, on all
}

func newBandwidth() *bandwidth {
	b := &bandwidth{parts: make([][]uint64, runtime.GOMAXPROCS(0)), samples: make([][]float64, 4)}
	for i := range b.parts {
		b.parts[i] = make([]uint64, memoryBytes/8/len(b.parts))
		for j := range b.parts[i] {
			b.parts[i][j] = uint64(j)
		}
	}
	b.sums = make([]uint64, 16*len(b.parts))
	return b
}

// measure adds samples.
func (b *bandwidth) measure(o *options) error {
	one := float64(8 * len(b.parts[0]))
	all := one * float64(len(b.parts))
	got, err := rates([]work{
		{one, func() error { b.read(0); return nil }},
		{all, func() error { inParallel(len(b.parts), b.read); return nil }},
		{one / 2, func() error { b.copy(0); return nil }},
		{all / 2, func() error { inParallel(len(b.parts), b.copy); return nil }},
	}, o.rounds, o.each)
	for i := range got {
		b.samples[i] = append(b.samples[i], got[i]...)
	}
	return err
}

func (b *bandwidth) read(i int) { b.sums[16*i] += sum(b.parts[i]) }
func (b *bandwidth) copy(i int) { copy(b.parts[i][:len(b.parts[i])/2], b.parts[i][len(b.parts[i])/2:]) }

// oneCore and allCores are the most bytes per second that were read.
func (b *bandwidth) oneCore() float64  { return slices.Max(b.samples[0]) }
func (b *bandwidth) allCores() float64 { return slices.Max(b.samples[1]) }

// rows returns lines of the table: ours is what was seen, the limit the most of it.
func (b *bandwidth) rows() (rows []row) {
	for i, what := range []string{"read, one core", "read, all cores", "copy, one core", "copy, all cores"} {
		s := scaled(b.samples[i], 1e-9)
		rows = append(rows, row{What: "memory: " + what, Unit: "GB/s", Ours: s, Limit: slices.Max(s), LimitName: "the most seen"})
	}
	return rows
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
