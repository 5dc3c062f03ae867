package cpu

import "github.com/ellm-gpu/ellm-gpu/internal/model"

// What current.from and current.to have in place of a place's number.
const (
	sameState  = -1 // the state is that of the token before; it is not kept
	emptyState = -2 // the sequence begins
)

// convChannels is how many channels an item computes.
const convChannels = 64

// stateAt returns the part of a place that belongs to the current node.
func (b *Backend) stateAt(place int32, n int) []float32 {
	return b.states[int(place)*b.state+b.run.fused.state:][:n]
}

// shortConv computes some channels of a convolution over time for all tokens, one after the other.
func (b *Backend) shortConv(w *worker, item int) error {
	r, n := &b.run, &b.run.fused.node
	width, kernel, past := b.prog.Width(n.Dst), n.Kernel, n.Kernel-1
	first := item * convChannels
	channels := min(convChannels, width-first)
	weights := r.fused.vector[first*kernel:][:channels*kernel]
	var ones [convChannels]float32
	for c := range ones {
		ones[c] = 1
	}
	var seen [model.MaxKernel][convChannels]float32 // products b·x, the oldest first, the present one last
	for t := range r.tokens {
		switch from := r.from[t]; from {
		case sameState:
		case emptyState:
			clear(seen[:past])
		default:
			state := b.stateAt(from, past*width)
			for k := range past {
				copy(seen[k][:channels], state[k*width+first:])
			}
		}
		in, out := b.row(n.A, t), b.row(n.Dst, t)[first:][:channels]
		copy(seen[past][:channels], in[first:])
		if n.Op == model.OpShortConv {
			for c, x := range in[2*width+first:][:channels] {
				seen[past][c] *= x
			}
		}
		var sums [convChannels]float32
		for c := range out {
			for k, x := range weights[c*kernel:][:kernel] {
				sums[c] += float32(x * seen[k][c])
			}
		}
		if n.Op == model.OpShortConv {
			for c, x := range in[width+first:][:channels] {
				out[c] = x * sums[c]
			}
		} else {
			w.k.SwiGLU(sums[:], sums[:], ones[:])
			copy(out, sums[:])
		}
		for k := range past {
			copy(seen[k][:channels], seen[k+1][:channels])
		}
		if to := r.to[t]; to != sameState {
			state := b.stateAt(to, past*width)
			for k := range past {
				copy(state[k*width+first:][:channels], seen[k][:channels])
			}
		}
	}
	return nil
}
