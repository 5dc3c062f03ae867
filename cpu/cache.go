package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// page is the number of positions of a page of the cache. Keys of a page are stored transposed, so that scores are sums over
// vectors of positions. Attention takes a page at a time: the result does not depend on how a prompt was split into batches.
const page = engine.PageTokens

// cacheUnit is how many values of a head share a scale in an 8-bit cache.
const cacheUnit = 32

// cache is the KV cache: for every layer and KV head the keys [page][dimension][64 positions], then the values [row][dimension],
// padded to whole vectors. Its elements are float16, or bytes q with a float16 scale d for each cacheUnit dimensions of a row,
// the value being d · q: for keys [page][unit][64 positions], then for values [row][unit]. Rows are numbered through all pages:
// row 64·p + i is position i of page p.
type cache struct {
	data     []uint16 // float16, or scales
	bytes    []int8
	q8       bool
	headDim  int
	valueDim int // headDim rounded up to whole vectors
	units    int // per head and row
	rows     int // of all pages together
	layers   int // that have a cache
	heads    int
}

func cacheShape(c *model.Config, layers, pages int, kvType string) cache {
	return cache{
		q8: kvType == engine.KVQ8, headDim: c.HeadDim, valueDim: buffer.RoundUp(c.HeadDim, vec.Lanes),
		units: (c.HeadDim + cacheUnit - 1) / cacheUnit,
		rows:  pages * page, heads: c.NKVHeads, layers: layers,
	}
}

// headSize returns how many keys and values of one layer a KV head has.
func (c *cache) headSize() int { return c.rows * (c.headDim + c.valueDim) }

// alloc makes the memory of all layers, or with dry set only counts its bytes.
func (c *cache) alloc(dry bool) (bytes int64) {
	heads := c.layers * c.heads
	if c.q8 {
		bytes += buffer.Reserve(&c.bytes, heads*c.headSize(), dry)
		return bytes + buffer.Reserve(&c.data, heads*2*c.rows*c.units, dry)
	}
	return buffer.Reserve(&c.data, heads*c.headSize(), dry)
}

// head returns the number of a KV head among all layers.
func (c *cache) head(layer, head int) int { return layer*c.heads + head }

// halves returns the keys and values of a head in a float16 cache.
func (c *cache) halves(head int) (keys, values []uint16) {
	d := c.data[head*c.headSize():][:c.headSize()]
	return d[:c.rows*c.headDim], d[c.rows*c.headDim:]
}

// codes returns the keys and values of a head in an 8-bit cache, and scales its scales.
func (c *cache) codes(head int) (keys, values []int8) {
	d := c.bytes[head*c.headSize():][:c.headSize()]
	return d[:c.rows*c.headDim], d[c.rows*c.headDim:]
}

func (c *cache) scales(head int) (keys, values []uint16) {
	n := c.rows * c.units
	d := c.data[head*2*n:][:2*n]
	return d[:n], d[n:]
}

// cacheRow returns the row of position pos of the sequence with the given page table.
func cacheRow(pages []int32, pos int) int { return int(pages[pos/page])*page + pos%page }

// store writes a token's keys and values, heads × headDim each, to a row.
func (c *cache) store(layer, row int, k, v []float32) {
	first, in := row/page*page, row%page
	for h := range c.heads {
		head, k, v := c.head(layer, h), k[h*c.headDim:][:c.headDim], v[h*c.headDim:][:c.headDim]
		if c.q8 {
			keys, values := c.codes(head)
			keyScales, valueScales := c.scales(head)
			quantizeCache(k, keys[first*c.headDim+in:], page, keyScales[first*c.units+in:], page)
			quantizeCache(v, values[row*c.valueDim:], 1, valueScales[row*c.units:], 1)
			continue
		}
		keys, values := c.halves(head)
		for i, f := range k {
			keys[first*c.headDim+i*page+in] = vec.ToHalf(f)
		}
		to := values[row*c.valueDim:]
		for i, f := range v {
			to[i] = vec.ToHalf(f)
		}
	}
}

// copyPage makes page `to` of all layers and heads a copy of page `from`.
func (c *cache) copyPage(from, to int) {
	for head := range c.layers * c.heads {
		if c.q8 {
			keys, values := c.codes(head)
			copyRows(keys, from, to, c.headDim)
			copyRows(values, from, to, c.valueDim)
			keyScales, valueScales := c.scales(head)
			copyRows(keyScales, from, to, c.units)
			copyRows(valueScales, from, to, c.units)
			continue
		}
		keys, values := c.halves(head)
		copyRows(keys, from, to, c.headDim)
		copyRows(values, from, to, c.valueDim)
	}
}

// copyRows copies a page of rows of n elements each.
func copyRows[T any](x []T, from, to, n int) {
	copy(x[to*page*n:][:page*n], x[from*page*n:])
}

// quantizeCache rounds x to bytes with a scale for each cacheUnit of them; stride and scaleStride are the distances of what it
// writes.
func quantizeCache(x []float32, q []int8, stride int, scale []uint16, scaleStride int) {
	for u := 0; u*cacheUnit < len(x); u++ {
		first := u * cacheUnit
		part := x[first:min(first+cacheUnit, len(x))]
		top := float32(0)
		for _, f := range part {
			top = max(top, f, -f)
		}
		h := vec.ToHalf(top / 127)
		scale[u*scaleStride] = h
		inv := float32(0)
		if d := vec.Half(h); d > 0 {
			inv = 1 / d
		}
		for i, f := range part {
			q[(first+i)*stride] = int8(math.RoundToEven(float64(min(max(f*inv, -127), 127))))
		}
	}
}

// pageFloats are a page's keys and values of one head.
type pageFloats struct {
	k            *vec.Kernels
	keys, values []float32
	units        []float32 // scales of an 8-bit cache: page
}

// load converts a page of keys and values, of which the first n positions are filled; first is its first row.
func (c *cache) load(p *pageFloats, head, first, n int) {
	filled := buffer.RoundUp(n, vec.Lanes) // what is after these is not used
	if !c.q8 {
		keys, values := c.halves(head)
		keys = keys[first*c.headDim:][:len(p.keys)]
		if filled == page {
			p.k.Half(p.keys, keys)
		} else {
			for d := 0; d < len(keys); d += page {
				p.k.Half(p.keys[d:], keys[d:d+filled])
			}
		}
		p.k.Half(p.values, values[first*c.valueDim:][:filled*c.valueDim])
		return
	}
	keys, values := c.codes(head)
	keyScales, valueScales := c.scales(head)
	for u := range c.units {
		dims := min(cacheUnit, c.headDim-u*cacheUnit)
		p.k.Half(p.units, keyScales[first*c.units+u*page:][:page])
		from := u * cacheUnit * page
		p.k.Scaled(p.keys[from:][:dims*page], keys[first*c.headDim+from:], p.units)
	}
	for row := range filled {
		for u := range c.units {
			d := vec.Half(valueScales[(first+row)*c.units+u])
			for i := range vec.Lanes {
				p.units[i] = d
			}
			from := row*c.valueDim + u*cacheUnit
			p.k.Scaled(p.values[from:][:min(cacheUnit, c.valueDim-u*cacheUnit)], values[first*c.valueDim+from:], p.units[:vec.Lanes])
		}
	}
}
