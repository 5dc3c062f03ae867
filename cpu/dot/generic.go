package dot

import (
	"encoding/binary"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

func quantizeGeneric(dst []int8, x []float32, steps int) (scale float32, sum int64) {
	scale, inv := scales(absMax(x))
	clear(dst[:2*StepCols*steps])
	for c, f := range x {
		v := int(math.RoundToEven(float64(f * inv)))
		hi := (v + 128) >> 8
		at := c/StepCols*2*StepCols + c%StepCols
		dst[at], dst[at+StepCols] = int8(hi), int8(v-hi<<8)
		sum += int64(v)
	}
	return scale, sum
}

func absMax(x []float32) float32 {
	m := float32(0)
	for _, v := range x {
		m = max(m, v, -v)
	}
	return m
}

// Magnitudes that activations may have. Smaller ones are as good as zero.
const (
	leastActivation = 1e-30
	mostActivation  = 1e30
)

// scales returns the scale for a tile whose largest magnitude is m, and its reciprocal. What is not finite or too large has the
// scale NaN, which every product with the tile becomes: it must not turn into an answer.
func scales(m float32) (scale, inv float32) {
	switch {
	case m < leastActivation:
		return 0, 0
	case m <= mostActivation:
		return m / MaxValue, MaxValue / m
	}
	return float32(math.NaN()), 0
}

// MaxSteps is the longest tile.
const MaxSteps = 32

// wide are a tile's activations as whole numbers, v = 256·hi + lo.
type wide [MaxSteps * StepCols]int32

func (v *wide) join(x []int8, steps int) {
	for s := range steps {
		xh, xl := (*[StepCols]int8)(x[2*StepCols*s:]), (*[StepCols]int8)(x[2*StepCols*s+StepCols:])
		out := (*[StepCols]int32)(v[StepCols*s:])
		for c := range out {
			out[c] = int32(xh[c])<<8 + int32(xl[c])
		}
	}
}

// widen is join for activations of k.
func (k Kernels) widen(v *wide, x []int8, steps int) {
	if !k.Factored() {
		v.join(x, steps)
		return
	}
	for c := range steps * StepCols {
		v[c] = int32(k.At(x, c))
	}
}

// stepFour returns Σ u·v of 64 columns of four rows, which fit 32 bits.
func stepFour(u0, u1, u2, u3 *[StepCols]byte, v *[StepCols]int32) (s0, s1, s2, s3 int32) {
	for c := 0; c < StepCols; c += 2 {
		x := v[c]
		s0 += int32(u0[c]) * x
		s1 += int32(u1[c]) * x
		s2 += int32(u2[c]) * x
		s3 += int32(u3[c]) * x
		x = v[c+1]
		s0 += int32(u0[c+1]) * x
		s1 += int32(u1[c+1]) * x
		s2 += int32(u2[c+1]) * x
		s3 += int32(u3[c+1]) * x
	}
	return s0, s1, s2, s3
}

// dotFour returns Σ u·v of up to four rows, stride bytes apart; sums of rows after the last of n have no meaning.
func dotFour(u []byte, stride, n int, v *wide, steps int) (sums [4]int64) {
	var row [4][]byte
	for r := range row {
		row[r] = u[min(r, n-1)*stride:][:steps*StepCols]
	}
	for s := range steps {
		at := s * StepCols
		s0, s1, s2, s3 := stepFour((*[StepCols]byte)(row[0][at:]), (*[StepCols]byte)(row[1][at:]), (*[StepCols]byte)(row[2][at:]),
			(*[StepCols]byte)(row[3][at:]),
			(*[StepCols]int32)(v[at:]))
		sums[0] += int64(s0)
		sums[1] += int64(s1)
		sums[2] += int64(s2)
		sums[3] += int64(s3)
	}
	return sums
}

func (k Kernels) dotGeneric(out []int32, w *Rows, x []int8) {
	var v wide
	k.widen(&v, x, w.Steps)
	if w.Width < 7 || w.Escaped {
		k.dotUnpacked(out, w, &v)
		return
	}
	for r := 0; r < w.Count; r += 4 {
		putFour(out[2*r:2*w.Count], dotFour(w.Nibble[r*w.NibbleStride:], w.NibbleStride, min(4, w.Count-r), &v, w.Steps))
	}
}

// dotUnpacked is dotGeneric for rows that are not bytes.
func (k Kernels) dotUnpacked(out []int32, w *Rows, v *wide) {
	var rows [4 * MaxSteps * StepCols]byte
	stride := w.Steps * StepCols
	for r := 0; r < w.Count; r += 4 {
		n := min(4, w.Count-r)
		for i := range n {
			row := rows[i*stride:][:stride]
			copy(row, w.codes(k, r+i, row))
		}
		putFour(out[2*r:2*w.Count], dotFour(rows[:], stride, n, v, w.Steps))
	}
}

// putFour stores the two parts of as many sums as fit.
func putFour(out []int32, sums [4]int64) {
	for k := range min(4, len(out)/2) {
		out[2*k], out[2*k+1] = int32(sums[k]>>8), int32(sums[k]&0xff)
	}
}

// codes returns the codes of row r, in buf if they must be unpacked.
func (w *Rows) codes(k Kernels, r int, buf []byte) []byte {
	n := w.Steps * StepCols
	nibble := w.Nibble[r*w.NibbleStride:]
	switch {
	case w.Escaped: // other instruction sets than AVX-512 keep no such rows
		row := make([]byte, n)
		k.UnpackRow(w, r, row)
		return row
	case w.Width < 7:
		k.unpackGeneric(w.Width, buf[:n], nibble, w.Bits[min(len(w.Bits), r*w.BitsStride):], w.Steps)
		return buf[:n]
	}
	return nibble[:n]
}

func (k Kernels) dotBlocksGeneric(out []float32, w *Rows, block int, x []int8) {
	var v wide
	var row [MaxSteps * StepCols]byte
	v.join(x, w.Steps)
	n := w.Steps * StepCols / block
	for r := range w.Count {
		sum := float32(0)
		u := w.codes(k, r, row[:])
		for b, scale := range w.Scale[r*w.ScaleStride:][:n] {
			sum += float32(scale * float32(dotShort(u[b*block:][:block], v[b*block:][:block])))
		}
		out[r] = sum
	}
}

// dotShort returns Σ u·v of up to 64 columns, a multiple of 16.
func dotShort(u []byte, v []int32) int32 {
	var s0, s1, s2, s3 int32
	for len(u) >= 16 && len(v) >= 16 {
		p, q := (*[16]byte)(u), (*[16]int32)(v)
		for c := 0; c < len(p); c += 4 {
			s0 += int32(p[c]) * q[c]
			s1 += int32(p[c+1]) * q[c+1]
			s2 += int32(p[c+2]) * q[c+2]
			s3 += int32(p[c+3]) * q[c+3]
		}
		u, v = u[16:], v[16:]
	}
	return s0 + s1 + s2 + s3
}

const ones = 0x0101010101010101

// packGeneric takes eight columns at a time. AVX-512's planes are the others with rows and columns of the bits exchanged.
// pairsBits reports whether the two high bits of codes lie side by side.
func (k Kernels) pairsBits(width int) bool { return width == 6 && k.ISA == isa.AVX2 }

func (k Kernels) packGeneric(width int, nibble, bits, codes []byte, steps int) {
	low, planes := mainBits(width), BitBytes(width)/8
	mask := uint64(1<<low-1) * ones
	for s := range steps {
		u := codes[s*StepCols:][:StepCols]
		var main [4]uint64
		var plane [2]uint64
		for a := range 8 {
			v := binary.LittleEndian.Uint64(u[8*a:])
			main[a&(low-1)] |= v & mask << (a &^ (low - 1))
			v >>= low
			if k.pairsBits(width) {
				plane[a%2] |= v & (3 * ones) << (a / 2 * 2)
				continue
			}
			for p := range planes {
				plane[p] |= v >> p & ones << a
			}
		}
		for k, m := range main[:low] {
			binary.LittleEndian.PutUint64(nibble[8*(s*low+k):], m)
		}
		for p, m := range plane[:planes] {
			if k.ISA == isa.AVX512 {
				m = exchange(m)
			}
			binary.LittleEndian.PutUint64(bits[8*(s*planes+p):], m)
		}
	}
}

// unpackGeneric is the inverse of packGeneric.
func (k Kernels) unpackGeneric(width int, codes, nibble, bits []byte, steps int) {
	low, planes := mainBits(width), BitBytes(width)/8
	mask := uint64(1<<low-1) * ones
	for s := range steps {
		u := codes[s*StepCols:][:StepCols]
		var plane [2]uint64
		for p := range planes {
			plane[p] = binary.LittleEndian.Uint64(bits[8*(s*planes+p):])
			if k.ISA == isa.AVX512 {
				plane[p] = exchange(plane[p])
			}
		}
		for a := range 8 {
			v := binary.LittleEndian.Uint64(nibble[8*(s*low+a&(low-1)):]) >> (a &^ (low - 1)) & mask
			if k.pairsBits(width) {
				v |= plane[a%2] >> (a / 2 * 2) & (3 * ones) << low
			} else {
				for p, m := range plane[:planes] {
					v |= m >> a & ones << (low + p)
				}
			}
			binary.LittleEndian.PutUint64(u[8*a:], v)
		}
	}
}

// exchange swaps bit b of byte i with bit i of byte b (Warren, Hacker's Delight, 7-3).
func exchange(m uint64) uint64 {
	for _, k := range [...]struct {
		mask  uint64
		shift int
	}{{0x00aa00aa00aa00aa, 7}, {0x0000cccc0000cccc, 14}, {0x00000000f0f0f0f0, 28}} {
		t := (m ^ m>>k.shift) & k.mask
		m ^= t ^ t<<k.shift
	}
	return m
}

// panelRows leaves the order of the codes.
func panelRows(dst, codes []byte, stride, steps int) {
	for r := range PanelRows {
		copy(dst[r*StepCols*steps:][:StepCols*steps], codes[r*stride:])
	}
}

func gemmGeneric(out []int32, panel []byte, steps int, x Tokens) {
	var v wide
	for t := range x.Count {
		v.join(x.from(t), steps)
		acc := out[t*2*PanelRows:][:2*PanelRows]
		for r := 0; r < PanelRows; r += 4 {
			for k, sum := range dotFour(panel[r*StepCols*steps:], StepCols*steps, 4, &v, steps) {
				acc[r+k], acc[PanelRows+r+k] = int32(sum>>8), int32(sum&0xff)
			}
		}
	}
}

func (k Kernels) gemmBlocksGeneric(acc, rest, scale []float32, w *Rows, block int, x Tokens) {
	rows := *w
	rows.Width, rows.Count = 8, BlockRows
	var sums [BlockRows]float32
	for t := range x.Count {
		k.DotBlocks(sums[:], &rows, block, x.from(t))
		for r, s := range sums {
			s += rest[BlockRows*t+r]
			acc[BlockRows*t+r] += float32(scale[t] * s)
		}
	}
}
