package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// cacheBlock is the number of positions that attention takes at a time. Keys of a block are stored transposed, so that scores are sums over vectors of
// positions. Blocks start at multiples of it: the result does not depend on how a prompt was split into batches.
const cacheBlock = 64

// attentionTokens is the number of tokens for which a worker uses a converted block of the cache.
const attentionTokens = 16

// attention is a worker's scratch memory for attention, and the query of each head and token it works on.
type attention struct {
	keys, values []float32 // one block
	units        []float32 // of an 8-bit cache: cacheBlock
	scores       []float32 // cacheBlock
	queries      []query
	qFloats      []float32
}

// query is the state of one head of one token: softmax with a running maximum (Milakov and Gimelshein, 2018).
type query struct {
	q, acc   []float32 // scaled query; weighted sum of values
	max, sum float32
}

func newAttention(c *model.Config) attention {
	n, v := attentionTokens*(c.NHeads/c.NKVHeads), roundUp(c.HeadDim, lanes)
	a := attention{
		keys:    make([]float32, c.HeadDim*cacheBlock),
		values:  make([]float32, v*cacheBlock),
		units:   make([]float32, cacheBlock),
		scores:  make([]float32, cacheBlock),
		queries: make([]query, n),
		qFloats: make([]float32, 2*n*v),
	}
	for i := range a.queries {
		a.queries[i].q = a.qFloats[2*i*v:][:c.HeadDim]
		a.queries[i].acc = a.qFloats[(2*i+1)*v:][:v]
	}
	return a
}

// attentionFloats returns the length of all of newAttention's slices together.
func attentionFloats(c *model.Config) int {
	v := roundUp(c.HeadDim, lanes)
	return (c.HeadDim+v+2)*cacheBlock + 2*v*attentionTokens*(c.NHeads/c.NKVHeads)
}

// attend is causal attention of `heads` query heads from head0 on, all of one KV head, for up to attentionTokens tokens. q and out are the tokens' rows of
// queries and results, stride floats apart; the first token has position pos of the text that begins at position text of the cache.
func (w *worker) attend(c *cache, layer, kvHead, head0, heads int, q, out []float32, stride, tokens, text, pos int) {
	scale := float32(1 / math.Sqrt(float64(c.headDim)))
	for i := range heads * tokens {
		s := &w.queries[i]
		s.max, s.sum = float32(math.Inf(-1)), 0
		clear(s.acc)
		row := q[i/heads*stride+(head0+i%heads)*c.headDim:][:c.headDim]
		for j, f := range row {
			s.q[j] = f * scale
		}
	}
	for first := 0; first < pos+tokens; first += cacheBlock {
		w.loadBlock(c, c.head(layer, kvHead), text+first, min(cacheBlock, pos+tokens-first))
		for i := range heads * tokens {
			if n := min(cacheBlock, pos+i/heads+1-first); n > 0 {
				w.block(&w.queries[i], n, c.valueDim)
			}
		}
	}
	for i := range heads * tokens {
		s := &w.queries[i]
		row := out[i/heads*stride+(head0+i%heads)*c.headDim:][:c.headDim]
		for j := range row {
			row[j] = s.acc[j] / s.sum
		}
	}
}

// block adds the first n positions of the converted block to a query's state.
func (w *worker) block(s *query, n, valueDim int) {
	scores := w.scores[:roundUp(n, lanes)]
	clear(scores)
	w.k.weighted(scores, s.q, w.keys, cacheBlock)
	top := s.max
	for _, f := range scores[:n] {
		top = max(top, f)
	}
	for i := n; i < len(scores); i++ {
		scores[i] = float32(math.Inf(-1))
	}
	if top > s.max {
		shrink := float32(math.Exp(float64(s.max - top)))
		s.sum *= shrink
		for i := range s.acc {
			s.acc[i] *= shrink
		}
		s.max = top
	}
	s.sum += w.k.exp(scores, top)
	w.k.weighted(s.acc, scores[:n], w.values, valueDim)
}
