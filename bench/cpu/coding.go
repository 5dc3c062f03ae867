package main

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// benchCoding compares this project's decoders with huff0's on the same integers, on one core.
func benchCoding(o *options, r *report, _ *bandwidth) error {
	for _, bits := range []float64{3, 4, 5} {
		s, err := newSample(bits, sampleRows, sampleCols)
		if err != nil {
			return err
		}
		f, err := s.huff0()
		if err != nil {
			return err
		}
		works, names := []work{{float64(s.weights), f}}, []string{""}
		for i := isa.Generic; i <= decode.Best(); i++ {
			d, err := s.decoder(i)
			if err != nil {
				return err
			}
			p, err := s.fused(i, dot.With(min(i, dot.Best().ISA)))
			if err != nil {
				return err
			}
			works = append(works, work{float64(s.weights), d}, work{float64(s.weights), p})
			names = append(names, "decoding, "+i.String(), "decoding and product, "+i.String())
		}
		got, err := rates(works, o.rounds, o.each)
		if err != nil {
			return err
		}
		for n, name := range names[1:] {
			r.add(row{
				What: fmt.Sprintf("%s: integers of %.2f bits of entropy in %.2f", name, s.entropy, s.rate), Unit: "G weights/s per core",
				Ours: scaled(got[n+1], 1e-9), Peer: scaled(got[0], 1e-9), PeerName: fmt.Sprintf("huff0, %.2f bits", s.huffRate),
				Bytes: s.rate / 8 * 1e9, LimitName: "reading them",
			})
		}
	}
	return nil
}
