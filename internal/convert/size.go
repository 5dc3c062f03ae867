package convert

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Bytes of the container that are only estimated before it is written.
const (
	partGap      = 32        // on average, before each part of a tensor
	sectionGap   = 64 / 2    // on average, before each tensor
	indexBytes   = 40 + 60   // per tensor: record of the section table, entry of the deflated index
	metaBytes    = 2048      // metadata, header
	orderBits    = 4         // of each row's class, where rows are sorted
	tailBits     = 3         // of each lane's directory
	lanePadding  = 16        // bits, on average, at the end of each lane's string
	chunkPadding = 4*7/2 + 1 // bytes, on average, at the end of each chunk
)

// target returns the bits that the file should have. A size that must not be exceeded is aimed at from below.
func (j *job) target() float64 {
	bits := j.opt.BPW * float64(j.weights)
	if j.opt.Size != 0 {
		bits -= j.margin()
	}
	return bits
}

// margin returns the bits by which a file that has a limit stays below it.
func (j *job) margin() float64 {
	return 8 * max(sizeMargin*float64(j.opt.Size), minMargin)
}

// missesTarget tells whether the file is too far from its target.
func (j *job) missesTarget(tables []*huffman.Table) bool {
	miss, most := j.excessBits(tables), sizeTolerance*j.target()
	if j.opt.Size != 0 {
		return miss > j.margin() || miss < -max(most/2, j.margin())
	}
	return math.Abs(miss) > most
}

// tooLarge refuses a file that exceeds its limit after all corrections.
func (j *job) tooLarge(tables []*huffman.Table) error {
	if j.opt.Size == 0 {
		return nil
	}
	if over := j.excessBits(tables) - j.margin(); over > 0 {
		return fmt.Errorf("the file would take about %.0f bytes more than the %d asked for, and did not get closer: ask for that "+
			"many fewer", math.Ceil(over/8), j.opt.Size)
	}
	return nil
}

// excessBits returns the bits by which the file exceeds the target, once all tensors have been written.
func (j *job) excessBits(tables []*huffman.Table) float64 {
	return 8*float64(j.w.Size()+tableBytes(tables)+metaBytes+indexBytes*int64(len(j.tensors))) - j.target()
}

func tableBytes(tables []*huffman.Table) int64 {
	n := int64(0)
	for _, t := range tables {
		n += int64(2 + (t.Levels*t.Levels+1)/2)
	}
	return n
}

// rawBytes estimates what tensors that are stored as they are take.
func (j *job) rawBytes() int64 {
	n := int64(metaBytes)
	for _, t := range j.tensors {
		if t.quantizer == nil {
			n += 4*t.weights() + sectionGap + indexBytes
		}
	}
	return n
}

// overhead returns the bytes that coded matrices take beside code words and outliers: low bits, directories, padding, scales,
// tables.
func (j *job) overhead(tables []*huffman.Table) int64 {
	n := tableBytes(tables)
	for _, t := range j.tensors {
		if t.quantizer == nil {
			continue
		}
		c := t.shape()
		const parts = 8
		n += parts*partGap + sectionGap + indexBytes + 2*int64(c.Rows) // row_scale
		if t.order != nil {
			n += orderBits * int64(c.Rows) / 8
		}
		n += int64(c.Chunks()) * (3 + huffman.Lanes*(tailBits+lanePadding)/8 + chunkPadding)
		n += 4 * int64(c.MaxGuardWords()) / 2 // what usually remains of it
		if c.Coding.LowBits > 0 {
			n += 4 * int64(c.LowOffset(c.Groups(), 0))
		}
	}
	return n
}
