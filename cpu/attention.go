package cpu

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// attentionTokens is the most tokens for which a worker uses a converted page of the cache.
const attentionTokens = 16

// attention is a worker's scratch memory for attention, and the query of each head and token it works on.
type attention struct {
	pageFloats
	scores  []float32 // page
	queries []query
	qFloats []float32
}

// query is the state of one head of one token: softmax with a running maximum (Milakov and Gimelshein, 2018).
type query struct {
	q, acc   []float32 // scaled query; weighted sum of values
	max, sum float32
}

func newAttention(k *vec.Kernels, c *model.Config) attention {
	n, v := attentionTokens*(c.NHeads/c.NKVHeads), buffer.RoundUp(c.HeadDim, vec.Lanes)
	a := attention{
		pageFloats: pageFloats{k: k, keys: make([]float32, c.HeadDim*page), values: make([]float32, v*page),
			units: make([]float32, page)},
		scores:  make([]float32, page),
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
	v := buffer.RoundUp(c.HeadDim, vec.Lanes)
	return (c.HeadDim+v+2)*page + 2*v*attentionTokens*(c.NHeads/c.NKVHeads)
}

// attentionItem is what one call of attend computes: query heads head0 … head0+heads−1, all of KV head kvHead, for up to
// attentionTokens consecutive tokens of a sequence.
type attentionItem struct {
	node                 *model.Node
	cache                int // number of the layer's cache
	kvHead, head0, heads int
	q, out               []float32 // the tokens' rows of queries and results
	stride               int       // floats from one row to the next
	tokens               int
	pages                []int32 // page table of the sequence
	pos                  int     // of the first token
}

// attend is causal attention.
func (a *attention) attend(c *cache, it *attentionItem) {
	n, queries := it.node, it.heads*it.tokens
	for i := range queries {
		s, pos := &a.queries[i], it.pos+i/it.heads
		s.max, s.sum = float32(math.Inf(-1)), 0
		clear(s.acc)
		scale := n.QueryScale(pos)
		for j, f := range it.row(it.q, i, c.headDim) {
			s.q[j] = f * scale
		}
	}
	end := it.pos + it.tokens
	for first := firstSeen(n.Window, it.pos) / page * page; first < end; first += page {
		c.load(&a.pageFloats, c.head(it.cache, it.kvHead), cacheRow(it.pages, first), min(page, end-first))
		for i := range queries {
			at := it.pos + i/it.heads
			lo, hi := max(firstSeen(n.Window, at)-first, 0), min(page, at+1-first)
			if lo < hi {
				a.block(n, &a.queries[i], lo, hi, c.valueDim)
			}
		}
	}
	for i := range queries {
		s, row := &a.queries[i], it.row(it.out, i, c.headDim)
		for j := range row {
			row[j] = s.acc[j] / s.sum
		}
	}
}

// row returns query i's head in the tokens' rows.
func (it *attentionItem) row(rows []float32, i, headDim int) []float32 {
	return rows[i/it.heads*it.stride+(it.head0+i%it.heads)*headDim:][:headDim]
}

// firstSeen returns the first position that a token at pos sees in a window; 0 = all.
func firstSeen(window, pos int) int {
	if window == 0 {
		return 0
	}
	return max(0, pos-window+1)
}

// block adds positions lo … hi−1 of the converted page to a query's state.
func (a *attention) block(n *model.Node, s *query, lo, hi, valueDim int) {
	scores := a.scores[:buffer.RoundUp(hi, vec.Lanes)]
	clear(scores)
	a.k.Weighted(scores, s.q, a.keys, page)
	if n.SoftCap > 0 {
		a.k.SoftCap(scores, n.SoftCap)
	}
	top := s.max
	for _, f := range scores[lo:hi] {
		top = max(top, f)
	}
	for i := range lo {
		scores[i] = float32(math.Inf(-1))
	}
	for i := hi; i < len(scores); i++ {
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
	s.sum += a.k.Exp(scores, top)
	a.k.Weighted(s.acc, scores[:hi], a.values, valueDim)
}
