package cpu

import (
	"encoding/binary"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

var _ engine.PageStore = (*Backend)(nil)

// PageLayout implements engine.PageStore.
func (b *Backend) PageLayout() string {
	if b.state > 0 { // pages do not hold all that a sequence needs
		return ""
	}
	c, kind := &b.cache, engine.KVF16
	if c.q8 {
		kind = engine.KVQ8
	}
	return fmt.Sprintf("cpu %s, %d layers of %d heads, %d and %d dimensions, %d positions", kind, c.layers, c.heads,
		c.headDim, c.valueDim, page)
}

// PageBytes implements engine.PageStore.
func (b *Backend) PageBytes() int {
	c := &b.cache
	row := 2 * (c.headDim + c.valueDim)
	if c.q8 {
		row = c.headDim + c.valueDim + 2*2*c.units
	}
	return c.layers * c.heads * page * row
}

// ReadPage implements engine.PageStore. Numbers are stored in little-endian order.
func (b *Backend) ReadPage(n int32, to []byte) {
	b.eachPart(int(n), func(codes []int8, halves []uint16) {
		for i, v := range codes {
			to[i] = byte(v)
		}
		to = to[len(codes):]
		for i, v := range halves {
			binary.LittleEndian.PutUint16(to[2*i:], v)
		}
		to = to[2*len(halves):]
	})
}

// WritePage implements engine.PageStore.
func (b *Backend) WritePage(n int32, from []byte) {
	b.eachPart(int(n), func(codes []int8, halves []uint16) {
		for i := range codes {
			codes[i] = int8(from[i])
		}
		from = from[len(codes):]
		for i := range halves {
			halves[i] = binary.LittleEndian.Uint16(from[2*i:])
		}
		from = from[2*len(halves):]
	})
}

// eachPart calls f with everything that page n has, in a fixed order.
func (b *Backend) eachPart(n int, f func(codes []int8, halves []uint16)) {
	c := &b.cache
	for head := range c.layers * c.heads {
		if !c.q8 {
			keys, values := c.halves(head)
			f(nil, pageRows(keys, n, c.headDim))
			f(nil, pageRows(values, n, c.valueDim))
			continue
		}
		keys, values := c.codes(head)
		keyScales, valueScales := c.scales(head)
		f(pageRows(keys, n, c.headDim), pageRows(keyScales, n, c.units))
		f(pageRows(values, n, c.valueDim), pageRows(valueScales, n, c.units))
	}
}

// pageRows returns page n of rows of `width` elements.
func pageRows[T any](x []T, n, width int) []T { return x[n*page*width:][:page*width] }
