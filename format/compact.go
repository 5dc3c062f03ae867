package format

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Row order, lanes' directories and outliers are kept in a shorter form in the file than in memory: docs/format.md, 6.1, 6.3 and
// 6.5.

// packOrder returns the row_order part: a byte b, then b bits for every row that tell in which ascending run of order it is.
func packOrder(order []uint32) []byte {
	if len(order) == 0 {
		return nil
	}
	run, last := make([]uint32, len(order)), uint32(0)
	runs := uint32(0)
	for i, row := range order {
		if i > 0 && row < last {
			runs++
		}
		run[row], last = runs, row
	}
	n := max(1, uint(bits.Len32(runs)))
	w := bitWriter{b: make([]byte, 0, 2+len(order)*int(n)/8)}
	w.put(uint64(n), 8)
	for _, r := range run {
		w.put(uint64(r), n)
	}
	return w.bytes()
}

// unpackOrder is the inverse of packOrder.
func unpackOrder(b []byte, rows int, reserve func(int64) error) ([]uint32, error) {
	r := bitReader{b: b}
	n := uint(r.get(8))
	if most := max(1, bits.Len(uint(rows-1))); n < 1 || n > uint(most) {
		return nil, fmt.Errorf("row_order: runs of rows are numbered in %d bits, expected 1 to %d", n, most)
	}
	if want := 1 + (rows*int(n)+7)/8; len(b) != want {
		return nil, fmt.Errorf("row_order: %d bytes, expected %d for %d rows of %d bits", len(b), want, rows, n)
	}
	if err := reserve(4*int64(rows) + 4<<n); err != nil {
		return nil, err
	}
	// next[v] is the stored position of the next row of run v: counts, then their sums, then advancing.
	next := make([]uint32, 1<<n+1)
	for range rows {
		next[r.get(n)+1]++
	}
	for v := range 1 << n {
		next[v+1] += next[v]
	}
	order := make([]uint32, rows)
	r.at = 8
	for row := range order {
		v := r.get(n)
		order[next[v]] = uint32(row)
		next[v]++
	}
	return order, r.end("row_order")
}

// maxTailBits bounds the parameter of the Rice codes of lanes' tails.
const maxTailBits = 8

// packTails returns the lane_tail part: a byte, the parameter, then a Rice code for each lane of each chunk.
func (c *Coded) packTails() []byte {
	var w bitWriter
	k := leastRice(len(c.LaneTail), maxTailBits, func(i int) int { return int(c.LaneTail[i]) })
	w.put(uint64(k), 8)
	for _, t := range c.LaneTail {
		w.rice(uint64(t), k)
	}
	return w.bytes()
}

// leastRice returns the parameter, up to most, with which n values take the fewest bits.
func leastRice(n int, most uint, value func(i int) int) uint {
	best, least := uint(0), math.MaxInt
	for k := range most + 1 {
		bits := n * int(k)
		for i := range n {
			bits += value(i) >> k
		}
		if bits < least {
			best, least = k, bits
		}
	}
	return best
}

// unpackTails is the inverse of packTails: it sets LaneTail and ChunkOffset. MainWords and Stream must be set.
func (c *Coded) unpackTails(b []byte, reserve func(int64) error) error {
	r := bitReader{b: b}
	k, n := uint(r.get(8)), huffman.Lanes*c.Chunks()
	if k > maxTailBits || r.left() < n {
		return fmt.Errorf("lane_tail: %d bytes with codes of %d low bits, expected more than %d and at most %d", len(b), k, n/8,
			maxTailBits)
	}
	if err := reserve(int64(n) + 4*int64(c.Chunks()+1)); err != nil {
		return err
	}
	tails := make([]uint8, n)
	for i := range tails {
		t := r.rice(k)
		if t > math.MaxUint8 || r.left() < 0 {
			return fmt.Errorf("lane_tail: near byte %d, number %d of %d is %d: cut off or out of range", r.at/8, i, n, t)
		}
		tails[i] = uint8(t)
	}
	if err := r.end("lane_tail"); err != nil {
		return err
	}
	c.LaneTail = tails
	var err error
	c.ChunkOffset, err = c.streamOffsets()
	return err
}

// streamOffsets returns ChunkOffset as it follows from MainWords and LaneTail, if the stream has that length.
func (c *Coded) streamOffsets() ([]uint32, error) {
	offset, end := make([]uint32, c.Chunks()+1), int64(0)
	for i, m := range c.MainWords {
		words := huffman.Lanes * int64(m)
		for _, t := range c.LaneTail[huffman.Lanes*i:][:huffman.Lanes] {
			words += int64(t)
		}
		if end += alignUp(words, 8); end > min(int64(len(c.Stream)), math.MaxUint32) {
			return nil, fmt.Errorf("stream of %d words, but chunk %d ends at %d", len(c.Stream), i, end)
		}
		offset[i+1] = uint32(end)
	}
	if guard := c.guardWords(offset); int64(len(c.Stream)) != end+int64(guard) {
		return nil, fmt.Errorf("stream of %d words, expected %d + %d", len(c.Stream), end, guard)
	}
	return offset, nil
}

// gapBits returns the parameter of the Rice codes of distances between the n outliers of a column.
func gapBits(rows, n int) uint { return uint(bits.Len(uint(rows / n / 2))) }

// maxDeltaBits bounds the parameter of the Rice codes of outliers' differences.
const maxDeltaBits = 8

// foldDelta returns 2·(|δ| − 1), one more where δ is negative, of an entry.
func foldDelta(v uint32) int {
	d := int(int32(v) >> 24)
	return 2*(max(d, -d)-1) + int(v>>31)
}

// packOutliers returns the outliers part: a byte, the parameter of the differences; how many outliers every column has; then the
// columns' outliers, by stored row. The outliers of c must be right (checkOutliers).
func (c *Coded) packOutliers() []byte {
	if len(c.Outliers) == 0 {
		return nil
	}
	start := make([]int, c.Cols+1) // of each column in sorted
	for _, v := range c.Outliers {
		start[v>>7&0x1ffff+1]++
	}
	for col := range c.Cols {
		start[col+1] += start[col]
	}
	type entry struct{ row, packed uint32 }
	sorted, next := make([]entry, len(c.Outliers)), append([]int(nil), start...)
	for g := range c.Groups() {
		for _, v := range c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]] {
			col := v >> 7 & 0x1ffff
			sorted[next[col]] = entry{uint32(g*c.Coding.RowsPerGroup) + v&0x7f, v}
			next[col]++
		}
	}
	deltaBits := leastRice(len(c.Outliers), maxDeltaBits, func(i int) int { return foldDelta(c.Outliers[i]) })
	var w bitWriter
	w.put(uint64(deltaBits), 8)
	for col := range c.Cols {
		w.gamma(uint64(start[col+1]-start[col]) + 1)
	}
	for col := range c.Cols {
		all, last := sorted[start[col]:start[col+1]], uint32(0)
		for _, e := range all {
			w.rice(uint64(e.row-last), gapBits(c.Rows, len(all)))
			w.rice(uint64(foldDelta(e.packed)), deltaBits)
			last = e.row
		}
	}
	return w.bytes()
}

// unpackOutliers is the inverse of packOutliers: it sets Outliers and OutlierStart.
func (c *Coded) unpackOutliers(b []byte, reserve func(int64) error) error {
	r := bitReader{b: b}
	deltaBits := uint(r.get(8))
	if deltaBits > maxDeltaBits {
		return fmt.Errorf("outliers: differences with %d low bits, expected at most %d", deltaBits, maxDeltaBits)
	}
	const leastBits = 2 // of an entry
	counts, total := make([]int, c.Cols), 0
	for col := range counts {
		n := r.unary()
		if n > 31 || r.left() < int(n) {
			return fmt.Errorf("outliers: the number of outliers in column %d is cut off or too large", col)
		}
		counts[col] = int(1<<n|r.get(n)) - 1
		if total += counts[col]; total > r.left()/leastBits || total > math.MaxUint32 {
			return fmt.Errorf("outliers: %d in columns 0 … %d do not fit the %d bytes that are left", total, col, r.left()/8)
		}
	}
	if err := reserve(12*int64(total) + 4*int64(c.Rows) + 8*int64(c.Cols)); err != nil { // byColumn and Outliers, start, counts
		return err
	}
	start := make([]uint32, c.Rows+1) // of each stored row
	byColumn := make([]uint64, 0, total)
	for col, n := range counts {
		if n == 0 {
			continue
		}
		row, gap := uint64(0), gapBits(c.Rows, n)
		for range n {
			row += r.rice(gap)
			folded := r.rice(deltaBits)
			size, sign := folded>>1+1, folded&1
			if r.left() < 0 || row >= uint64(c.Rows) || size > 127+sign {
				return fmt.Errorf("outliers: near byte %d, column %d: row %d of %d, a difference of %d: cut off or out of range", r.at/8,
					col, row, c.Rows, size)
			}
			delta := (uint32(size) ^ -uint32(sign)) + uint32(sign) // negated if sign is 1
			byColumn = append(byColumn, row<<32|uint64(delta<<24|uint32(col)<<7))
			start[row+1]++
		}
	}
	if err := r.end("outliers"); err != nil {
		return err
	}
	c.setOutliers(byColumn, start)
	return nil
}

// setOutliers sorts outliers, row in the upper half and packed without it in the lower one, by stored row. start[i+1] holds how
// many row i has.
func (c *Coded) setOutliers(byColumn []uint64, start []uint32) {
	for row := range c.Rows {
		start[row+1] += start[row]
	}
	per := c.Coding.RowsPerGroup
	c.OutlierStart = make([]uint32, c.Groups()+1)
	for g := range c.OutlierStart {
		c.OutlierStart[g] = start[min(g*per, c.Rows)]
	}
	c.Outliers = make([]uint32, len(byColumn))
	for _, v := range byColumn {
		row := uint32(v >> 32)
		c.Outliers[start[row]] = uint32(v) | row%uint32(per)
		start[row]++
	}
}
