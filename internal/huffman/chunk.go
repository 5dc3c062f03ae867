package huffman

import (
	"errors"
	"fmt"
)

// ErrNoCode is returned when a matrix contains a pair that the table has no code for.
var ErrNoCode = errors.New("huffman: symbol without a code")

// ErrCorrupt is returned when a lane's bit string ends before its symbols do.
var ErrCorrupt = errors.New("huffman: corrupt stream")

// maxTail is the most words a lane may have after the interleaved part (its count is stored in a byte).
const maxTail = 255

// EncodeChunk appends one chunk to dst. levels holds rows × stride bytes, of which the first steps·64 of each row are coded.
// It returns the extended stream, the number of interleaved words per lane, and each lane's words after those.
func (t *Table) EncodeChunk(dst []uint32, levels []uint8, stride, steps, rows int) (words []uint32, mainWords int,
	tail [Lanes]uint8, err error) {
	codes := t.Codes()
	var lanes [Lanes][]uint32
	shortest, longest := -1, 0
	for lane := range lanes {
		w, err := t.encodeLane(codes, levels[2*lane:], stride, steps, rows)
		if err != nil {
			return nil, 0, tail, err
		}
		lanes[lane] = w
		if shortest < 0 || len(w) < shortest {
			shortest = len(w)
		}
		longest = max(longest, len(w))
	}
	mainWords = max(shortest, longest-maxTail)
	for i := range mainWords {
		for lane := range lanes {
			w := uint32(0)
			if i < len(lanes[lane]) {
				w = lanes[lane][i]
			}
			dst = append(dst, w)
		}
	}
	for lane, w := range lanes {
		if len(w) > mainWords {
			tail[lane] = uint8(len(w) - mainWords)
			dst = append(dst, w[mainWords:]...)
		}
	}
	return dst, mainWords, tail, nil
}

// encodeLane codes the pairs at levels[row*stride + step*64], +1 into words, first bit lowest.
func (t *Table) encodeLane(codes []uint16, levels []uint8, stride, steps, rows int) ([]uint32, error) {
	out := make([]uint32, 0, steps*rows/4+2)
	acc, n := uint64(0), uint(0)
	for r := range rows {
		for s := range steps {
			p := levels[r*stride+s*2*Lanes:]
			a0, a1 := int(p[0]), int(p[1])
			if a0 >= t.Levels || a1 >= t.Levels || t.Lens[a0*t.Levels+a1] == 0 {
				return nil, fmt.Errorf("%w: pair (%d, %d)", ErrNoCode, a0, a1)
			}
			sym := a0*t.Levels + a1
			acc |= uint64(codes[sym]) << n
			if n += uint(t.Lens[sym]); n >= 32 {
				out = append(out, uint32(acc))
				acc >>= 32
				n -= 32
			}
		}
	}
	if n > 0 {
		out = append(out, uint32(acc))
	}
	return out, nil
}

// DecodeChunk is the reference decoder. lookup and maxLen come from a valid Table, words starts at the chunk, tail holds 32
// counts. Row r of the chunk is written to dst[r*stride : r*stride + steps*64].
func DecodeChunk(lookup []uint32, maxLen int, words []uint32, mainWords int, tail []uint8, steps, rows int, dst []uint8,
	stride int) error {
	tailStart := Lanes * mainWords
	for lane := range Lanes {
		if err := decodeLane(lookup, maxLen, words, lane, mainWords, tailStart, int(tail[lane]), steps, rows, dst[2*lane:],
			stride); err != nil {
			return err
		}
		tailStart += int(tail[lane])
	}
	return nil
}

// decodeLane decodes one lane: its first mainWords words stand at words[32*w + lane], the others from words[tailStart] on.
func decodeLane(lookup []uint32, maxLen int, words []uint32, lane, mainWords, tailStart, tailWords, steps, rows int,
	dst []uint8, stride int) error {
	bitsLeft := 32 * (mainWords + tailWords)
	acc, n, next := uint64(0), 0, 0 // n valid bits in acc
	for r := range rows {
		for s := range steps {
			if n < maxLen && next < mainWords+tailWords {
				at := Lanes*next + lane
				if next >= mainWords {
					at = tailStart + next - mainWords
				}
				if at >= len(words) {
					return fmt.Errorf("%w: lane %d ends outside the stream", ErrCorrupt, lane)
				}
				acc |= uint64(words[at]) << n
				n += 32
				next++
			}
			e := lookup[acc&(1<<maxLen-1)]
			length := int(e >> 16)
			if bitsLeft -= length; bitsLeft < 0 {
				return fmt.Errorf("%w: lane %d ends at row %d, step %d", ErrCorrupt, lane, r, s)
			}
			p := dst[r*stride+s*2*Lanes:]
			p[0], p[1] = uint8(e), uint8(e>>8)
			acc >>= length
			n -= length
		}
	}
	return nil
}
