package main

import (
	"bytes"
	"runtime"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// memoryBytes is what all cores together read: more than caches hold.
const memoryBytes = 1 << 30

// bandwidth measures what the machine's memory gives, again before every part of the benchmark. The most seen is the limit.
type bandwidth struct {
	parts   [][]byte    // per core
	found   []int       // per core, so that reading has a result
	samples [][]float64 // bytes per second: reading on one core, on all, copying on one core, on all
}

func newBandwidth(size int) *bandwidth {
	b := &bandwidth{parts: make([][]byte, runtime.GOMAXPROCS(0)), found: make([]int, runtime.GOMAXPROCS(0)),
		samples: make([][]float64, 4)}
	for i := range b.parts {
		b.parts[i] = make([]byte, size/len(b.parts))
		for j := range b.parts[i] {
			b.parts[i][j] = 1 // pages of its own, not the system's page of zeros
		}
	}
	return b
}

// measure adds samples.
func (b *bandwidth) measure(o *options) error {
	one := float64(len(b.parts[0]))
	all := one * float64(len(b.parts))
	got, err := rates([]work{
		{one, func() error { b.read(0); return nil }},
		{all, func() error { parallel.Do(len(b.parts), b.read); return nil }},
		{one / 2, func() error { b.copy(0); return nil }},
		{all / 2, func() error { parallel.Do(len(b.parts), b.copy); return nil }},
	}, o.rounds, o.each)
	for i := range got {
		b.samples[i] = append(b.samples[i], got[i]...)
	}
	return err
}

// read looks for a byte that is not there, which the standard library does with vector instructions.
func (b *bandwidth) read(i int) {
	b.found[i] = bytes.IndexByte(b.parts[i], 2)
}

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

func scaled(v []float64, by float64) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = x * by
	}
	return out
}
