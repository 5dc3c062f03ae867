package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// rope holds the rotations of the current batch by one position embedding.
type rope struct {
	freq []float64 // radians per position, Dim/2 of them
	neox bool
	gain float32
	cos  []float32 // maxBatch × Dim/2
	sin  []float32
}

// newRopes computes the frequencies of the program's position embeddings, some of which are divided by a vector of the model.
func newRopes(prog *model.Program, vectors map[string][]float32, nCtx, maxBatch int) []rope {
	ropes := make([]rope, len(prog.Ropes))
	for i := range ropes {
		m := &prog.Ropes[i]
		r := rope{freq: m.Frequencies(vectors[m.DivisorsFor(nCtx)]), neox: m.Neox, gain: 1}
		if m.Gain != 0 {
			r.gain = m.Gain
		}
		r.cos = make([]float32, maxBatch*len(r.freq))
		r.sin = make([]float32, maxBatch*len(r.freq))
		ropes[i] = r
	}
	return ropes
}

// prepare computes the rotations of token t of the batch, which is at position pos.
func (r *rope) prepare(t, pos int) {
	k := len(r.freq)
	for i, f := range r.freq {
		s, c := math.Sincos(float64(pos) * f)
		r.cos[t*k+i], r.sin[t*k+i] = float32(c)*r.gain, float32(s)*r.gain
	}
}

// rotate rotates the heads of token t in place.
func (r *rope) rotate(x []float32, t, headDim int) {
	n := len(r.freq)
	cos, sin := r.cos[t*n:][:n], r.sin[t*n:][:n]
	for h := 0; h+headDim <= len(x); h += headDim {
		head := x[h : h+headDim]
		if r.neox {
			lo, hi := head[:n], head[n:2*n]
			for i, c := range cos {
				a, b := lo[i], hi[i]
				lo[i], hi[i] = a*c-b*sin[i], a*sin[i]+b*c
			}
			continue
		}
		for i, c := range cos {
			a, b := head[2*i], head[2*i+1]
			head[2*i], head[2*i+1] = a*c-b*sin[i], a*sin[i]+b*c
		}
	}
}

func (b *Backend) rotate(_ *worker, item int) error {
	n, t := &b.run.fused.node, b.run.lo+item
	b.ropes[n.Rope].rotate(b.row(n.Dst, t), t, b.prog.Config.HeadDim)
	return nil
}
