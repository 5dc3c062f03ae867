package dot

import "math"

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

// scales returns the scale for a tile whose largest magnitude is m, and its reciprocal.
func scales(m float32) (scale, inv float32) {
	if m < 1e-30 || m != m || m > 1e30 {
		return 0, 0
	}
	return m / MaxValue, MaxValue / m
}

func dotGeneric(out []int32, w *Rows, x []int8) {
	if w.Escaped {
		dotEscapesGeneric(out, w, x)
		return
	}
	var codes [StepCols]byte
	for r := range w.Count {
		hi, lo := int32(0), int32(0)
		for s := range w.Steps {
			u := w.step(&codes, r, s)
			xh, xl := x[2*StepCols*s:][:StepCols], x[2*StepCols*s+StepCols:][:StepCols]
			for c := range xh {
				hi += int32(u[c]) * int32(xh[c])
				lo += int32(u[c]) * int32(xl[c])
			}
		}
		out[2*r], out[2*r+1] = hi, lo
	}
}

// dotEscapesGeneric unpacks the rows first.
func dotEscapesGeneric(out []int32, w *Rows, x []int8) {
	row := make([]byte, w.Steps*StepCols)
	plain := Rows{Width: 8, Nibble: row, NibbleStride: len(row), Count: 1, Steps: w.Steps}
	for r := range w.Count {
		Generic.UnpackRow(w, r, row)
		dotGeneric(out[2*r:], &plain, x)
	}
}

func dotBlocksGeneric(out []float32, w *Rows, block int, x []int8) {
	var codes [StepCols]byte
	perStep := StepCols / block
	for r := range w.Count {
		sum := float32(0)
		for s := range w.Steps {
			u := w.step(&codes, r, s)
			xh, xl := x[2*StepCols*s:][:StepCols], x[2*StepCols*s+StepCols:][:StepCols]
			for b := range perStep {
				t := int32(0)
				for c := b * block; c < (b+1)*block; c++ {
					t += int32(u[c]) * (int32(xh[c])<<8 + int32(xl[c]))
				}
				sum += w.Scale[r*w.ScaleStride+s*perStep+b] * float32(t)
			}
		}
		out[r] = sum
	}
}

// step returns the 64 codes of a row's step.
func (w *Rows) step(buf *[StepCols]byte, r, s int) *[StepCols]byte {
	nb := NibbleBytes(w.Width)
	nibble := w.Nibble[r*w.NibbleStride+s*nb:][:nb]
	if w.Width >= 7 {
		return (*[StepCols]byte)(nibble)
	}
	bb := BitBytes(w.Width)
	unpackGeneric(w.Width, buf[:], nibble, w.Bits[min(len(w.Bits), r*w.BitsStride+s*bb):], 1)
	return buf
}

func packGeneric(width int, nibble, bits, codes []byte, steps int) {
	low, planes := mainBits(width), BitBytes(width)/8
	for s := range steps {
		u := codes[s*StepCols:][:StepCols]
		main := nibble[s*8*low:][:8*low]
		clear(main)
		for c, v := range u {
			main[c%len(main)] |= v & (1<<low - 1) << (c / len(main) * low)
		}
		for p := range planes {
			mask := bits[8*(s*planes+p):][:8]
			clear(mask)
			for c, v := range u {
				mask[c/8] |= v >> (low + p) & 1 << (c % 8)
			}
		}
	}
}

func unpackGeneric(width int, codes, nibble, bits []byte, steps int) {
	low, planes := mainBits(width), BitBytes(width)/8
	for s := range steps {
		u := codes[s*StepCols:][:StepCols]
		main := nibble[s*8*low:][:8*low]
		for c := range u {
			u[c] = main[c%len(main)] >> (c / len(main) * low) & (1<<low - 1)
		}
		for p := range planes {
			mask := bits[8*(s*planes+p):][:8]
			for c := range u {
				u[c] |= mask[c/8] >> (c % 8) & 1 << (low + p)
			}
		}
	}
}

func tileGeneric(dst, codes []byte, stride, steps int) {
	for g := range 16 * steps {
		for r := range TileRows {
			copy(dst[(g*TileRows+r)*4:][:4], codes[r*stride+4*g:])
		}
	}
}

func gemmGeneric(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	for t := range tokens {
		acc := out[t*2*TileRows:][:2*TileRows]
		clear(acc)
		for g := range 16 * steps {
			at := t*xStride + g/16*2*StepCols + g%16*4
			xh, xl := x[at:][:4], x[at+StepCols:][:4]
			w := tile[g*TileRows*4:][:TileRows*4]
			for r := range TileRows {
				for c := range 4 {
					acc[r] += int32(w[4*r+c]) * int32(xh[c])
					acc[TileRows+r] += int32(w[4*r+c]) * int32(xl[c])
				}
			}
		}
	}
}

func gemmBlocksGeneric(acc, rest, scale []float32, w *Rows, block int, x []int8, xStride, tokens int) {
	rows := *w
	rows.Width, rows.Count = 8, BlockRows
	var sums [BlockRows]float32
	for t := range tokens {
		dotBlocksGeneric(sums[:], &rows, block, x[t*xStride:])
		for r, s := range sums {
			s += rest[BlockRows*t+r]
			acc[BlockRows*t+r] += float32(scale[t] * s)
		}
	}
}
