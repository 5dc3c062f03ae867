package cpu

import "math"

// rope holds the rotations of the current batch.
type rope struct {
	freq []float64 // radians per position, RopeDim/2 of them
	cos  []float32 // maxBatch × RopeDim/2
	sin  []float32
}

// linkRope computes the frequencies: base^(−2i/dim), divided by the linear scale and by the model's own divisors (Llama 3).
func (b *Backend) linkRope(l *linker) error {
	c := &b.prog.Config
	n := c.RopeDim / 2
	b.rope.freq = make([]float64, n)
	for i := range b.rope.freq {
		b.rope.freq[i] = math.Pow(float64(c.RopeBase), -2*float64(i)/float64(c.RopeDim))
		if c.RopeScale > 0 {
			b.rope.freq[i] /= float64(c.RopeScale)
		}
	}
	if b.prog.RopeFreqs != "" {
		divisors, err := l.vector(b.prog.RopeFreqs, n)
		if err != nil {
			return err
		}
		for i, d := range divisors {
			b.rope.freq[i] /= float64(d)
		}
	}
	b.rope.cos = make([]float32, b.maxBatch*n)
	b.rope.sin = make([]float32, b.maxBatch*n)
	return nil
}

// prepare computes the rotations of token t of the batch, which is at position pos.
func (r *rope) prepare(t, pos int) {
	k := len(r.freq)
	for i, f := range r.freq {
		s, c := math.Sincos(float64(pos) * f)
		r.cos[t*k+i], r.sin[t*k+i] = float32(c), float32(s)
	}
}

// rotate rotates the heads of token t in place.
func (r *rope) rotate(x []float32, t, headDim int, neox bool) {
	n := len(r.freq)
	cos, sin := r.cos[t*n:][:n], r.sin[t*n:][:n]
	for h := 0; h+headDim <= len(x); h += headDim {
		head := x[h : h+headDim]
		if neox {
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
