package tokenizer

import (
	"fmt"
	"math/bits"
)

// pairTable maps a pair of neighbouring tokens to its merge: open addressing with linear probing.
type pairTable struct {
	entries []pairEntry // a power of two
	shift   uint        // 64 − log2(len(entries))
}

type pairEntry struct {
	key    uint64 // left<<32 | right, plus 1; 0: empty
	rank   uint32
	result int32
}

const noRank = ^uint32(0)

func pairKey(left, right int32) uint64 {
	return uint64(uint32(left))<<32 | uint64(uint32(right)) + 1
}

// newPairTable checks that merges join tokens of the vocabulary and indexes them. The rank is the position in
// the list; with scores, merges whose results score the same share a rank, and scores must not increase.
func newPairTable(s *spec) (pairTable, error) {
	log := uint(max(4, bits.Len(uint(len(s.merges)+len(s.merges)/2))))
	p := pairTable{entries: make([]pairEntry, 1<<log), shift: 64 - log}
	n := int32(len(s.tokens))
	rank := uint32(0)
	for i, m := range s.merges {
		if uint32(m.left) >= uint32(n) || uint32(m.right) >= uint32(n) || uint32(m.result) >= uint32(n) {
			return p, fmt.Errorf("tokenizer: merge %d has ids %d, %d, %d outside the vocabulary of %d tokens",
				i, m.left, m.right, m.result, n)
		}
		l, r, both := s.tokens[m.left], s.tokens[m.right], s.tokens[m.result]
		if l == "" || r == "" || len(both) != len(l)+len(r) || both[:len(l)] != l || both[len(l):] != r {
			return p, fmt.Errorf("tokenizer: merge %d of %q and %q gives %q", i, l, r, both)
		}
		if i > 0 {
			rank++
			if s.scores != nil {
				previous, score := s.scores[s.merges[i-1].result], s.scores[m.result]
				if !(previous >= score) {
					return p, fmt.Errorf("tokenizer: merge %d has score %g after %g, expected descending order", i, score, previous)
				}
				if previous == score {
					rank--
				}
			}
		}
		if !p.insert(pairEntry{pairKey(m.left, m.right), rank, m.result}) {
			return p, fmt.Errorf("tokenizer: merge %d of %q and %q occurs twice", i, l, r)
		}
	}
	return p, nil
}

const hashFactor = 0x9E3779B97F4A7C15 // Fibonacci hashing (Knuth, TAOCP 6.4)

func (p *pairTable) insert(e pairEntry) bool {
	mask := uint64(len(p.entries) - 1)
	i := e.key * hashFactor >> p.shift
	for p.entries[i].key != 0 {
		if p.entries[i].key == e.key {
			return false
		}
		i = (i + 1) & mask
	}
	p.entries[i] = e
	return true
}

// find returns the entry of a pair with that hash; one of rank noRank if the pair does not merge.
func (p *pairTable) find(key, hash uint64) pairEntry {
	mask := uint64(len(p.entries) - 1)
	for i := hash >> p.shift; ; i = (i + 1) & mask {
		switch e := &p.entries[i]; e.key {
		case key:
			return *e
		case 0:
			return pairEntry{key, noRank, -1}
		}
	}
}

// A long word is merged in blocks: of fewSymbols while its tokens are short, of up to manySymbols where they are long.
const (
	fewSymbols  = 24
	manySymbols = 512
)

// merger applies merges to the symbols of one word, lowest rank first, leftmost first among equals
// (Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016).
//
// A long word is merged in blocks of symbols, with the same result, in memory that does not grow with the word.
// The next block begins with the last tokens found, taken apart again. Let the last tokens be … p, c₁, …, cₖ and the
// block's result r₁, r₂, …. If r₁ = c₁, the tokens … p, r₁, r₂, … are those of the whole word: no merge crosses a
// boundary of two neighbours t, u of the whole exactly if none crosses it when t and u are merged alone, since up to
// the first merge that crosses a boundary both sides merge as they do alone; and p, c₁ were neighbours in one result,
// r₁, r₂, … in another. Otherwise the block begins with more of the last tokens.
type merger struct {
	symbols []int32 // of the word, not merged yet
	size    int     // symbols of a block
	start   int     // where the word's tokens begin in the output
	block   []int32 // symbols of the last tokens and of the block; then its tokens

	pairs  []mergePair // of the block
	nodes  []mergeNode // of a long one
	heap   []uint64
	recent []pairEntry // looked up lately, by hash, a power of two: the whole table is in no near cache
}

// mergePair is the merge of a token with the one after it; the last token has none.
type mergePair struct {
	rank   uint32 // noRank: none
	result int32
}

func newMerger(length int) merger {
	return merger{recent: make([]pairEntry, 1<<max(4, min(12, bits.Len(uint(length/4)))))}
}

// begin starts a word whose tokens go to the end of out.
func (m *merger) begin(out []int32) {
	m.symbols = m.symbols[:0]
	m.size = fewSymbols
	m.start = len(out)
}

// add adds a symbol to the word. The output may grow by tokens of the word that later symbols can change.
func (m *merger) add(t *Tokenizer, id int32, out []int32) []int32 {
	m.symbols = append(m.symbols, id)
	if len(m.symbols) >= m.size {
		out = m.flush(t, out)
	}
	return out
}

// flush merges the added symbols with the last tokens of the word.
func (m *merger) flush(t *Tokenizer, out []int32) []int32 {
	if len(m.symbols) == 0 {
		return out
	}
	for carry := 2; ; carry *= 2 {
		at := max(m.start, len(out)-carry)
		m.block = m.block[:0]
		for _, id := range out[at:] {
			m.block = t.appendSymbols(m.block, id)
		}
		m.size = max(fewSymbols, min(4*len(m.block), manySymbols))
		m.block = append(m.block, m.symbols...)
		m.merge(&t.pairs)
		if at == m.start || m.block[0] == out[at] {
			out = out[:at]
			break
		}
	}
	m.symbols = m.symbols[:0]
	return append(out, m.block...)
}

// find looks up a pair of tokens.
func (m *merger) find(p *pairTable, left, right int32) (rank uint32, result int32) {
	key := pairKey(left, right)
	hash := key * hashFactor
	c := &m.recent[hash>>32&uint64(len(m.recent)-1)]
	if c.key != key {
		*c = p.find(key, hash)
	}
	return c.rank, c.result
}

// merge merges the symbols of m.block: in rounds while one pair is frequent, as in texts that repeat themselves, then one by one.
func (m *merger) merge(p *pairTable) {
	m.findPairs(p)
	for {
		best, count := noRank, 0
		for i := range m.pairs {
			switch rank := m.pairs[i].rank; {
			case rank < best:
				best, count = rank, 1
			case rank == best:
				count++
			}
		}
		switch {
		case best == noRank:
			return
		case count >= max(2, len(m.block)/frequent) && m.round(p, best):
		case len(m.block) <= 2*fewSymbols:
			m.mergeFew(p)
			return
		default:
			m.mergeHeap(p)
			return
		}
	}
}

// findPairs looks up the pairs of the symbols of m.block.
func (m *merger) findPairs(p *pairTable) {
	m.pairs = m.pairs[:0]
	for i, id := range m.block {
		pair := mergePair{rank: noRank}
		if i+1 < len(m.block) {
			pair.rank, pair.result = m.find(p, id, m.block[i+1])
		}
		m.pairs = append(m.pairs, pair)
	}
}

// mergeFew merges the symbols of m.block, whose pairs are m.pairs: it looks for the lowest rank among all, each time.
func (m *merger) mergeFew(p *pairTable) {
	b, pairs := m.block, m.pairs
	for {
		best := uint64(noRank) << 8
		for i := range pairs {
			best = min(best, uint64(pairs[i].rank)<<8|uint64(i))
		}
		if best >= uint64(noRank)<<8 {
			break
		}
		at := int(best & 0xFF)
		b[at] = pairs[at].result
		b, pairs = append(b[:at+1], b[at+2:]...), append(pairs[:at], pairs[at+1:]...)
		pairs[at].rank = noRank
		if at+1 < len(b) {
			pairs[at].rank, pairs[at].result = m.find(p, b[at], b[at+1])
		}
		if at > 0 {
			pairs[at-1].rank, pairs[at-1].result = m.find(p, b[at-1], b[at])
		}
	}
	m.block = b
}

// frequent is the share of symbols that a pair begins at for which a round over all symbols takes less time than the heap.
const frequent = 16

// round merges all pairs of a rank, the lowest there is, in m.block and m.pairs. It ends early, with false, if what it merged
// makes a pair that comes before the next one of that rank.
func (m *merger) round(p *pairTable, rank uint32) bool {
	b, pairs, n, ok := m.block, m.pairs, 0, true
	for i := 0; i < len(b); {
		if !ok || pairs[i].rank != rank {
			b[n], pairs[n] = b[i], pairs[i]
			i, n = i+1, n+1
			continue
		}
		merged, right := pairs[i].result, mergePair{rank: noRank}
		if i+2 < len(b) {
			right.rank, right.result = m.find(p, merged, b[i+2])
		}
		ok = right.rank >= rank
		if n > 0 {
			left := &pairs[n-1]
			left.rank, left.result = m.find(p, b[n-1], merged)
			ok = ok && left.rank > rank
		}
		i++
		b[i], pairs[i] = merged, right
	}
	m.block, m.pairs = b[:n], pairs[:n]
	return ok
}

// mergeNode is a token in the linked list of mergeHeap.
type mergeNode struct {
	id         int32
	prev, next int32
	rank       uint32 // of the pair that begins here; noRank: none, or the node is gone
	result     int32  // of that pair
}

// mergeHeap merges the symbols of m.block, whose pairs are m.pairs. A heap of rank<<32 | position holds the candidates, stale
// ones among them.
func (m *merger) mergeHeap(p *pairTable) {
	if cap(m.nodes) < len(m.block) {
		m.nodes = make([]mergeNode, len(m.block)+manySymbols)
	}
	m.nodes = m.nodes[:len(m.block)]
	m.heap = m.heap[:0]
	for i, id := range m.block {
		m.nodes[i] = mergeNode{id, int32(i) - 1, int32(i) + 1, m.pairs[i].rank, m.pairs[i].result}
		if rank := m.pairs[i].rank; rank != noRank {
			m.push(uint64(rank)<<32 | uint64(uint32(i)))
		}
	}
	m.nodes[len(m.nodes)-1].next = -1
	for len(m.heap) > 0 {
		top := m.pop()
		at := int32(uint32(top))
		left := &m.nodes[at]
		if left.rank != uint32(top>>32) {
			continue
		}
		right := &m.nodes[left.next]
		left.id, left.next = left.result, right.next
		right.rank = noRank
		if right.next >= 0 {
			m.nodes[right.next].prev = at
		}
		m.candidate(p, at)
		if left.prev >= 0 {
			m.candidate(p, left.prev)
		}
	}
	m.block = m.block[:0]
	for i := int32(0); i >= 0; i = m.nodes[i].next {
		m.block = append(m.block, m.nodes[i].id)
	}
}

// candidate looks up the pair that begins at node i.
func (m *merger) candidate(p *pairTable, i int32) {
	n := &m.nodes[i]
	n.rank = noRank
	if n.next < 0 {
		return
	}
	n.rank, n.result = m.find(p, n.id, m.nodes[n.next].id)
	if n.rank != noRank {
		m.push(uint64(n.rank)<<32 | uint64(uint32(i)))
	}
}

func (m *merger) push(v uint64) {
	h := append(m.heap, v)
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent] <= v {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = v
	m.heap = h
}

func (m *merger) pop() uint64 {
	h := m.heap
	top, v := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	m.heap = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if v <= h[c] {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = v
	return top
}
