package tokenizer

import (
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"unicode/utf8"
)

// maxPieceBytes bounds the length of a piece of a Unigram or scored vocabulary; those of known models have less than 200 bytes.
const maxPieceBytes = 1 << 10

// unknownPenalty is how much an unknown character scores below the worst piece (Kudo, "Subword Regularization", 2018,
// section 3.2; the value is that of the SentencePiece library).
const unknownPenalty = 10

// pieceTrie finds the pieces that a text begins with. Nodes are numbered breadth first, so the children of a node
// are neighbours, in the order of their bytes.
type pieceTrie struct {
	children []int32 // of node n: children[n] up to children[n+1]
	labels   []byte  // the byte that leads to a node
	ids      []int32 // of the piece that ends at a node; −1: none
	root     [256]int32
	longest  int // bytes of the longest piece
}

// newPieceTrie indexes the pieces that text can be split into.
func newPieceTrie(s *spec) (*pieceTrie, error) {
	var order []int32
	longest := 0
	for id, text := range s.tokens {
		if typ := s.attrs[id] & typeMask; text == "" || typ != typeNormal && typ != typeUser {
			continue
		}
		if len(text) > maxPieceBytes {
			return nil, fmt.Errorf("tokenizer: token %d is %d bytes long, at most %d are supported", id, len(text), maxPieceBytes)
		}
		order = append(order, int32(id))
		longest = max(longest, len(text))
	}
	sort.SliceStable(order, func(i, j int) bool { return s.tokens[order[i]] < s.tokens[order[j]] })
	t := &pieceTrie{labels: []byte{0}, ids: []int32{-1}, longest: longest}
	type span struct{ from, to, depth int } // pieces below a node
	queue := []span{{0, len(order), 0}}
	for n := 0; n < len(queue); n++ {
		q := queue[n]
		t.children = append(t.children, int32(len(queue)))
		for i := q.from; i < q.to; {
			text := s.tokens[order[i]]
			if len(text) == q.depth { // the piece of this node; later equal ones do not count
				i++
				continue
			}
			j, child := i+1, int32(-1)
			for j < q.to && s.tokens[order[j]][q.depth] == text[q.depth] {
				j++
			}
			if len(text) == q.depth+1 {
				child = order[i]
			}
			t.labels = append(t.labels, text[q.depth])
			t.ids = append(t.ids, child)
			queue = append(queue, span{i, j, q.depth + 1})
			i = j
		}
	}
	t.children = append(t.children, int32(len(queue)))
	for b := range t.root {
		t.root[b] = t.search(0, byte(b))
	}
	return t, nil
}

// next returns the child of node n by byte b, −1 if there is none.
func (t *pieceTrie) next(n int32, b byte) int32 {
	if n == 0 {
		return t.root[b]
	}
	return t.search(n, b)
}

// find returns the id of a piece, −1 if text is none.
func (t *pieceTrie) find(text string) int32 {
	n := int32(0)
	for i := 0; i < len(text); i++ {
		if n = t.next(n, text[i]); n < 0 {
			return -1
		}
	}
	return t.ids[n]
}

func (t *pieceTrie) search(n int32, b byte) int32 {
	from, to := t.children[n], t.children[n+1]
	for to-from > 8 {
		if mid := (from + to) / 2; t.labels[mid] <= b {
			from = mid
		} else {
			to = mid
		}
	}
	for ; from < to; from++ {
		if t.labels[from] == b {
			return from
		}
	}
	return -1
}

// lattice finds the split of a word into pieces with the largest sum of scores (Viterbi, "Error Bounds for Convolutional
// Codes", 1967). It takes two bytes per byte of the word.
type lattice struct {
	lengths []uint16  // of the last token on the best path to each byte; 0: no path ends there
	scores  []float64 // of the best paths to the latest bytes; a ring of a power of two
}

// unigram encodes a word.
func (e *encoder) unigram(w string) {
	if w == "" {
		return
	}
	t, l := e.t, &e.lattice
	if cap(l.lengths) <= len(w) {
		l.lengths = make([]uint16, len(w)+1)
	}
	l.lengths = l.lengths[:len(w)+1]
	clear(l.lengths)
	if l.scores == nil {
		l.scores = make([]float64, 1<<bits.Len(uint(t.trie.longest+utf8.UTFMax)))
	}
	l.scores[0] = 0
	for at := 0; at < len(w); {
		_, size := utf8.DecodeRuneInString(w[at:])
		if at == 0 || l.lengths[at] != 0 {
			l.extend(t, w, at, size)
		}
		at += size
	}
	l.turn()
	e.settle(w)
}

// extend adds the pieces that begin at byte at of w to the paths. size is the length of the character there.
func (l *lattice) extend(t *Tokenizer, w string, at, size int) {
	score := l.scores[at&(len(l.scores)-1)]
	single := false
	for n, end := int32(0), at; end < len(w); {
		if n = t.trie.next(n, w[end]); n < 0 {
			break
		}
		end++
		if id := t.trie.ids[n]; id >= 0 {
			l.offer(end, end-at, score+t.weights[id])
			single = single || end-at == size
		}
	}
	if !single {
		l.offer(at+size, size, score+t.unknownScore)
	}
}

// offer keeps the better of two paths to byte end, the earlier one among equals.
func (l *lattice) offer(end, length int, score float64) {
	old := &l.scores[end&(len(l.scores)-1)]
	if l.lengths[end] == 0 || score > *old {
		*old = score
		l.lengths[end] = uint16(length)
	}
}

// turn walks the best path from its end and leaves the length of each token at its first byte.
func (l *lattice) turn() {
	at := len(l.lengths) - 1
	for length := l.lengths[at]; at > 0; {
		at -= int(length)
		length, l.lengths[at] = l.lengths[at], length
	}
}

// settle appends the tokens of the path that turn left. A run of unknown characters is one unknown text.
func (e *encoder) settle(w string) {
	t := e.t
	tokens := 0
	for at := 0; at < len(w); tokens++ {
		at += int(e.lattice.lengths[at])
	}
	if len(w) > maxCachedWord { // for shorter ones there is room
		e.left = max(0, e.left-len(w))
		e.out = slices.Grow(e.out, tokens)
	}
	unknown := -1 // where the run of unknown characters begins
	for at := 0; at < len(w); {
		length := int(e.lattice.lengths[at])
		if id := t.trie.find(w[at : at+length]); id < 0 {
			if unknown < 0 {
				unknown = at
			}
		} else {
			if unknown >= 0 {
				e.unknown(w[unknown:at])
				unknown = -1
			}
			e.out = append(e.out, id)
		}
		at += length
	}
	if unknown >= 0 {
		e.unknown(w[unknown:])
	}
}

// unknown encodes a text without pieces: its bytes, if all have a token, else UNK.
func (e *encoder) unknown(text string) {
	for i := 0; i < len(text); i++ {
		if e.t.bytes[text[i]] < 0 {
			e.out = append(e.out, e.t.unk)
			return
		}
	}
	for i := 0; i < len(text); i++ {
		e.out = append(e.out, e.t.bytes[text[i]])
	}
}
