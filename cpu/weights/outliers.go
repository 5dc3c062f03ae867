package weights

import "github.com/ellm-gpu/ellm-gpu/format"

// byteTile is some columns of decoded rows, one byte each.
type byteTile struct {
	bytes     []byte
	stride    int
	from, end int // columns
}

// foldExceptions adds exception entries to the bytes as far as these stay below 1<<width, and appends those that do not fit to
// left.
func foldExceptions(list []uint32, t byteTile, shift uint, width int, left []uint32) []uint32 {
	for _, e := range list {
		o := format.UnpackOutlier(e)
		if o.Col < t.from || o.Col >= t.end {
			continue
		}
		b := &t.bytes[o.Row*t.stride+o.Col-t.from]
		if v := int(*b) + o.Delta<<shift; v >= 0 && v < 1<<width {
			*b = byte(v)
		} else {
			left = append(left, e)
		}
	}
	return left
}

// foldOutliers adds outliers to decoded bytes as far as these stay below 1<<m.Width, and appends the others to left. That keeps
// nearly all of them out of products with scales of blocks, whatever the plan: most outliers are pairs without a code word, their
// levels are ordinary ones.
func (m *Matrix) foldOutliers(list []uint32, t byteTile, left []uint32) []uint32 {
	return foldExceptions(list, t, m.outlierShift, m.Width, left)
}
