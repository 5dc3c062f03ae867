package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// cacheUnit is how many values of a head share a scale in an 8-bit cache.
const cacheUnit = 32

// cache is the KV cache: for every layer and KV head the keys [block][dimension][64 positions], then the values [position][dimension],
// padded to whole vectors. Its elements are float16, or bytes q with a float16 scale d for each cacheUnit dimensions of a position, the value being d · q:
// for keys [block][unit][64 positions], then for values [position][unit].
type cache struct {
	data      []uint16 // float16, or scales
	bytes     []int8
	q8        bool
	headDim   int
	valueDim  int // headDim rounded up to whole vectors
	units     int // per head and position
	positions int // of all texts together
	text      int // positions of one text, whole blocks
	heads     int
}

func cacheShape(c *model.Config, nCtx, texts int, kvType string) cache {
	return cache{
		q8: kvType == engine.KVQ8, headDim: c.HeadDim, valueDim: roundUp(c.HeadDim, lanes), units: (c.HeadDim + cacheUnit - 1) / cacheUnit,
		positions: roundUp(nCtx, cacheBlock) * texts, text: roundUp(nCtx, cacheBlock), heads: c.NKVHeads,
	}
}

// headSize returns how many keys and values of one layer a KV head has.
func (c *cache) headSize() int { return c.positions * (c.headDim + c.valueDim) }

// alloc makes the memory of all layers, or with dry set only counts its bytes.
func (c *cache) alloc(layers int, dry bool) (bytes int64) {
	heads := layers * c.heads
	if c.q8 {
		bytes += reserve(&c.bytes, heads*c.headSize(), dry)
		return bytes + reserve(&c.data, heads*2*c.positions*c.units, dry)
	}
	return reserve(&c.data, heads*c.headSize(), dry)
}

// head returns the number of a KV head among all layers.
func (c *cache) head(layer, head int) int { return layer*c.heads + head }

// halves returns the keys and values of a head in a float16 cache.
func (c *cache) halves(head int) (keys, values []uint16) {
	d := c.data[head*c.headSize():][:c.headSize()]
	return d[:c.positions*c.headDim], d[c.positions*c.headDim:]
}

// codes returns the keys and values of a head in an 8-bit cache, and scales its scales.
func (c *cache) codes(head int) (keys, values []int8) {
	d := c.bytes[head*c.headSize():][:c.headSize()]
	return d[:c.positions*c.headDim], d[c.positions*c.headDim:]
}

func (c *cache) scales(head int) (keys, values []uint16) {
	n := c.positions * c.units
	d := c.data[head*2*n:][:2*n]
	return d[:n], d[n:]
}

// store writes a token's keys and values, heads × headDim each.
func (c *cache) store(layer, pos int, k, v []float32) {
	block, in := pos/cacheBlock*cacheBlock, pos%cacheBlock
	for h := range c.heads {
		head, k, v := c.head(layer, h), k[h*c.headDim:][:c.headDim], v[h*c.headDim:][:c.headDim]
		if c.q8 {
			keys, values := c.codes(head)
			keyScales, valueScales := c.scales(head)
			quantizeCache(k, keys[block*c.headDim+in:], cacheBlock, keyScales[block*c.units+in:], cacheBlock)
			quantizeCache(v, values[pos*c.valueDim:], 1, valueScales[pos*c.units:], 1)
			continue
		}
		keys, values := c.halves(head)
		for i, f := range k {
			keys[block*c.headDim+i*cacheBlock+in] = toHalf(f)
		}
		row := values[pos*c.valueDim:]
		for i, f := range v {
			row[i] = toHalf(f)
		}
	}
}

// quantizeCache rounds x to bytes with a scale for each cacheUnit of them; stride and scaleStride are the distances of what it writes.
func quantizeCache(x []float32, q []int8, stride int, scale []uint16, scaleStride int) {
	for u := 0; u*cacheUnit < len(x); u++ {
		first := u * cacheUnit
		part := x[first:min(first+cacheUnit, len(x))]
		top := float32(0)
		for _, f := range part {
			top = max(top, f, -f)
		}
		h := toHalf(top / 127)
		scale[u*scaleStride] = h
		inv := float32(0)
		if d := half(h); d > 0 {
			inv = 1 / d
		}
		for i, f := range part {
			q[(first+i)*stride] = int8(math.RoundToEven(float64(min(max(f*inv, -127), 127))))
		}
	}
}

// loadBlock converts the block of keys and values from position first on, of which n are filled.
func (w *worker) loadBlock(c *cache, head, first, n int) {
	filled := roundUp(n, lanes) // values behind are not used
	if !c.q8 {
		keys, values := c.halves(head)
		w.k.half(w.keys, keys[first*c.headDim:][:len(w.keys)])
		w.k.half(w.values, values[first*c.valueDim:][:filled*c.valueDim])
		return
	}
	keys, values := c.codes(head)
	keyScales, valueScales := c.scales(head)
	for u := range c.units {
		dims := min(cacheUnit, c.headDim-u*cacheUnit)
		w.k.half(w.units, keyScales[first*c.units+u*cacheBlock:][:cacheBlock])
		from := u * cacheUnit * cacheBlock
		w.k.scaled(w.keys[from:][:dims*cacheBlock], keys[first*c.headDim+from:], w.units)
	}
	for p := range filled {
		for u := range c.units {
			d := half(valueScales[(first+p)*c.units+u])
			for i := range lanes {
				w.units[i] = d
			}
			from := p*c.valueDim + u*cacheUnit
			w.k.scaled(w.values[from:][:min(cacheUnit, c.valueDim-u*cacheUnit)], values[first*c.valueDim+from:], w.units[:lanes])
		}
	}
}
