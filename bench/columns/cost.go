package main

import (
	"math"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// matrix is a sample of rows, each divided by its root mean square.
type matrix struct {
	cols    int
	weights []float32
}

func sample(src source.Model, i, n int) (*matrix, error) {
	t := src.Tensors()[i]
	m := &matrix{cols: t.Cols}
	for _, r := range quant.Sample(t.Rows, n) {
		row := make([]float32, t.Cols)
		if err := src.ReadRows(i, r, r+1, row); err != nil {
			return nil, err
		}
		sum := 0.0
		for _, w := range row {
			sum += float64(w) * float64(w)
		}
		if f := float32(math.Sqrt(float64(t.Cols) / sum)); f-f == 0 {
			for c := range row {
				row[c] *= f
			}
			m.weights = append(m.weights, row...)
		}
	}
	return m, nil
}

// result is the rate plus what the error is worth, in bits per weight; only differences mean something.
type result struct{ single, classes float64 }

const (
	meanStep  = 0.5  // of a row's mean magnitude: about 3 bits
	levels    = 256  // counted one by one: −levels/2 … levels/2 − 1
	meanFloor = 1e-4 // of a mean square, relative to the columns' mean
	maxFactor = 8.   // of a column's step, up or down
	stepCols  = format.StepCols
	maxTile   = format.MaxTileSteps * stepCols
)

// cost rounds m with steps that go with d, column by column, and weighs errors by weight.
func cost(m *matrix, weight, d []float32, tiles int) result {
	hist := make([][levels]uint32, m.cols)
	squares := make([]float64, m.cols)
	noise := 0.0
	codes, scaled := make([]int32, m.cols), make([]float32, m.cols)
	for row := range slices.Chunk(m.weights, m.cols) {
		abs := 0.0
		for c, w := range row {
			scaled[c] = w / d[c]
			abs += math.Abs(float64(scaled[c])) / float64(m.cols)
		}
		scale, _ := quant.Row(codes, scaled, float32(meanStep*abs), true)
		for c, q := range codes {
			hist[c][min(max(q+levels/2, 0), levels-1)]++
			squares[c] += float64(q) * float64(q)
			e := (float64(scaled[c]) - float64(scale)*float64(q)) * float64(d[c])
			noise += e * e * float64(weight[c])
		}
	}
	n := float64(len(m.weights))
	order := make([]int, m.cols)
	for c := range order {
		order[c] = c
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(math.Copysign(1, squares[a]-squares[b])) })
	shape := format.Coded{Rows: 1, Cols: m.cols}
	tiles = max(tiles, shape.Tiles())
	width := (shape.Steps() + tiles - 1) / tiles * format.StepCols
	worth := math.Log2(noise/n) / 2
	return result{entropy(hist, order, m.cols)/n + worth, entropy(hist, order, width)/n + worth}
}

// entropy returns the bits of all levels if every `width` columns, in the given order, have a distribution of their own.
func entropy(hist [][levels]uint32, order []int, width int) (bits float64) {
	for part := range slices.Chunk(order, width) {
		var sum [levels]uint64
		total := uint64(0)
		for _, c := range part {
			for i, n := range hist[c] {
				sum[i] += uint64(n)
				total += uint64(n)
			}
		}
		bits += float64(total) * codec.Entropy(sum[:])
	}
	return bits
}
