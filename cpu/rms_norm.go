package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func (b *Backend) rmsNorm(_ *worker, item int) error {
	s, t := b.run.fused, b.run.lo+item
	rmsNorm(&s.node, b.row(s.node.Dst, t), b.row(s.node.A, t), s.vector)
	return nil
}

// rmsNorm normalizes the parts of a token's row separately, which share the weights. What a part has beyond them is left out.
func rmsNorm(n *model.Node, dst, x, weight []float32) {
	step := len(x) / max(n.Heads, 1)
	for len(x) > 0 {
		part, to := x[:len(weight)], dst[:len(weight)]
		f := float32(1 / math.Sqrt(sumSquares(part)/float64(len(part))+float64(n.Eps)))
		for i, v := range part {
			to[i] = v * f * weight[i]
		}
		x, dst = x[step:], dst[len(weight):]
	}
}

// sumSquares sums in four chains, which the processor can overlap.
func sumSquares(x []float32) float64 {
	var s0, s1, s2, s3 float64
	for ; len(x) >= 4; x = x[4:] {
		s0 += float64(x[0]) * float64(x[0])
		s1 += float64(x[1]) * float64(x[1])
		s2 += float64(x[2]) * float64(x[2])
		s3 += float64(x[3]) * float64(x[3])
	}
	for _, f := range x {
		s0 += float64(f) * float64(f)
	}
	return (s0 + s1) + (s2 + s3)
}
