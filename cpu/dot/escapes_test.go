package dot

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// packEscaped packs rows of codes as w says, with some bytes between the rows' escapes.
func packEscaped(k Kernels, w Rows, rows, steps int, codes []byte) *Rows {
	w.NibbleStride, w.BitsStride, w.Count, w.Steps, w.StartStride = steps*NibbleBytes(w.Width), steps*BitBytes(w.Width), rows,
		steps, 2
	w.Nibble, w.Bits, w.Start = make([]byte, rows*w.NibbleStride), make([]byte, rows*w.BitsStride), make([]uint32, 2*rows)
	w.Scratch = make([]byte, ScratchBytes(steps))
	buf := make([]byte, MaxEscapeBytes(steps))
	for r := range rows {
		n := k.PackEscapes(&w, 3, w.Nibble[r*w.NibbleStride:], w.Bits[r*w.BitsStride:], buf, codes[r*steps*StepCols:])
		w.Start[2*r], w.Most = uint32(len(w.Escape)), max(w.Most, EscapeCount(buf))
		w.Escape = append(append(w.Escape, buf[:n]...), 1, 2, 3)
	}
	w.Escape = append(w.Escape, make([]byte, EscapeSlack)...)
	clear(w.Scratch)
	return &w
}

// TestEscapes checks packing, unpacking and the dot product of rows with few, many and only escapes.
func TestEscapes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, form := range []Rows{{Width: 3, Escaped: true}, {Width: 4, Escaped: true}, {Width: 5, Escaped: true},
		{Width: 6, Escaped: true}} {
		for _, sigma := range []float64{0.5, 5, 20, 1000} {
			for _, steps := range []int{1, 3, 4, 9, 32} {
				const rows = 7
				codes := make([]byte, rows*steps*StepCols)
				for i := range codes {
					codes[i] = byte(min(max(RegularCode+1<<form.Width/2+int(math.Round(sigma*rng.NormFloat64())), 0), 255)) + 3
				}
				_, x, q := sample(rng, 4, rows, steps)
				With(isa.Generic).Quantize(q, x)
				reference := packEscaped(With(isa.Generic), form, rows, steps, codes)
				for _, k := range Available() {
					name := fmt.Sprintf("%s width %d sigma %g steps %d", k, form.Width, sigma, steps)
					w := packEscaped(k, form, rows, steps, codes)
					require.Equal(t, reference.Nibble, w.Nibble, name)
					require.Equal(t, reference.Escape, w.Escape, name)
					require.Equal(t, reference.Start, w.Start, name)
					out, row := make([]int32, 2*rows), make([]byte, steps*StepCols)
					k.Dot(out, w, q)
					all := make([]byte, len(codes))
					k.UnpackRows(w, all, 0)
					for r := range rows {
						k.UnpackRow(w, r, row)
						require.Equal(t, row, all[r*len(row):][:len(row)], name)
						want := int64(0)
						for c, u := range row {
							require.Equal(t, codes[r*len(row)+c]-3, u, name)
							want += int64(u) * value(q, c)
						}
						require.Equal(t, want, int64(out[2*r])*256+int64(out[2*r+1]), name)
					}
				}
			}
		}
	}
}

func BenchmarkDotEscapes(b *testing.B) {
	rng := rand.New(rand.NewPCG(6, 6))
	for width := 3; width <= 6; width++ {
		for _, steps := range []int{9, 24} {
			const rows = 32
			codes := make([]byte, rows*steps*StepCols)
			sigma := []float64{2.4, 5, 8, 14}[width-3]
			for i := range codes {
				codes[i] = byte(min(max(RegularCode+3+1<<width/2+int(math.Round(sigma*rng.NormFloat64())), 0), 255))
			}
			_, x, q := sample(rng, 4, rows, steps)
			With(isa.Generic).Quantize(q, x)
			w := packEscaped(Best(), Rows{Width: width, Escaped: true}, rows, steps, codes)
			out := make([]int32, 2*rows)
			b.Run(fmt.Sprintf("width=%d/steps=%d", width, steps), func(b *testing.B) {
				for b.Loop() {
					Best().Dot(out, w, q)
				}
				b.ReportMetric(float64(len(codes))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
			})
		}
	}
}

func BenchmarkUnpackRows(b *testing.B) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, form := range []Rows{{Width: 4}, {Width: 5}, {Width: 6}, {Width: 3, Escaped: true}, {Width: 4, Escaped: true}} {
		for _, steps := range []int{9, 24} {
			for _, k := range Available() {
				if form.Escaped && !k.HasEscapes() {
					continue
				}
				codes := make([]byte, PanelRows*steps*StepCols)
				for i := range codes {
					codes[i] = byte(rng.IntN(1 << form.Width))
					if form.Escaped {
						off := math.Round(2.5 * float64(form.Width-2) * rng.NormFloat64())
						codes[i] = byte(min(max(RegularCode+3+1<<form.Width/2+int(off), 0), 255))
					}
				}
				w := pack(k, form.Width, PanelRows, steps, codes)
				if form.Escaped {
					w = packEscaped(k, form, PanelRows, steps, codes)
				}
				b.Run(fmt.Sprintf("%s/width=%d/escapes=%v/steps=%d", k, form.Width, form.Escaped, steps), func(b *testing.B) {
					for b.Loop() {
						k.UnpackRows(w, codes, 0)
					}
					b.ReportMetric(float64(len(codes))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
				})
			}
		}
	}
}
