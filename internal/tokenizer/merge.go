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
			return p, fmt.Errorf("tokenizer: merge %d has ids %d, %d, %d outside the vocabulary of %d tokens", i, m.left, m.right, m.result, n)
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

func (p *pairTable) slot(key uint64) uint64 {
	return key * 0x9E3779B97F4A7C15 >> p.shift // Fibonacci hashing (Knuth, TAOCP 6.4)
}

func (p *pairTable) insert(e pairEntry) bool {
	mask := uint64(len(p.entries) - 1)
	i := p.slot(e.key)
	for p.entries[i].key != 0 {
		if p.entries[i].key == e.key {
			return false
		}
		i = (i + 1) & mask
	}
	p.entries[i] = e
	return true
}

func (p *pairTable) find(left, right int32) (rank uint32, result int32) {
	key := pairKey(left, right)
	mask := uint64(len(p.entries) - 1)
	for i := p.slot(key); ; i = (i + 1) & mask {
		switch e := &p.entries[i]; e.key {
		case key:
			return e.rank, e.result
		case 0:
			return noRank, -1
		}
	}
}

// merger applies merges to the tokens of one word, lowest rank first, leftmost first among equals
// (Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016). The tokens
// form a linked list; a heap of rank<<32 | position holds the candidates, stale ones among them.
type merger struct {
	nodes []mergeNode
	heap  []uint64
}

type mergeNode struct {
	id         int32
	prev, next int32
	rank       uint32 // of the pair that begins here; noRank: none, or the node is gone
	result     int32  // of that pair
}

func (m *merger) reset() {
	m.nodes = m.nodes[:0]
}

func (m *merger) add(id int32) {
	n := int32(len(m.nodes))
	m.nodes = append(m.nodes, mergeNode{id: id, prev: n - 1, next: n + 1})
}

// run merges the added tokens and appends what remains to out.
func (m *merger) run(p *pairTable, out []int32) []int32 {
	if len(m.nodes) == 0 {
		return out
	}
	m.nodes[len(m.nodes)-1].next = -1
	m.heap = m.heap[:0]
	for i := range m.nodes {
		m.candidate(p, int32(i))
	}
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
	for i := int32(0); i >= 0; i = m.nodes[i].next {
		out = append(out, m.nodes[i].id)
	}
	return out
}

// candidate looks up the pair that begins at node i.
func (m *merger) candidate(p *pairTable, i int32) {
	n := &m.nodes[i]
	n.rank = noRank
	if n.next < 0 {
		return
	}
	n.rank, n.result = p.find(n.id, m.nodes[n.next].id)
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
