package grammar

import (
	"bytes"
	"cmp"
	"slices"
)

// A Vocabulary is the texts of a model's tokens as a trie. It does not change, so goroutines can share it.
type Vocabulary struct {
	size int
	ends []int32 // tokens that end a generation
	// The trie in preorder; node 0 is the empty text.
	bytes  []byte
	depth  []int32 // bytes from the root
	after  []int32 // the first node that is not below this one
	tokens []int32 // first of the node's tokens in order; the next node's first ends them
	order  []int32 // tokens with a text, sorted by text
	texts  [][]byte
}

// NewVocabulary takes the text of every token, nil for control tokens (which no grammar allows), and the tokens that end a
// generation.
func NewVocabulary(texts [][]byte, ends []int32) *Vocabulary {
	v := &Vocabulary{size: len(texts), ends: slices.Clone(ends), texts: texts}
	for id, text := range texts {
		if len(text) > 0 && !slices.Contains(ends, int32(id)) {
			v.order = append(v.order, int32(id))
		}
	}
	slices.SortFunc(v.order, func(a, b int32) int { return cmp.Or(bytes.Compare(texts[a], texts[b]), cmp.Compare(a, b)) })
	v.add(0, 0)
	var path []int32 // nodes from the root to the last token's
	var last []byte
	path = append(path, 0)
	for i, id := range v.order {
		text := texts[id]
		shared := commonPrefix(last, text)
		for len(path) > shared+1 {
			v.after[path[len(path)-1]] = int32(len(v.bytes))
			path = path[:len(path)-1]
		}
		for d := shared; d < len(text); d++ {
			path = append(path, v.add(text[d], int32(d+1)))
			v.tokens[len(v.tokens)-1] = int32(i)
		}
		last = text
	}
	for _, n := range path {
		v.after[n] = int32(len(v.bytes))
	}
	v.tokens = append(v.tokens, int32(len(v.order)))
	return v
}

// Size returns the number of tokens; a mask has one bit for each.
func (v *Vocabulary) Size() int { return v.size }

func (v *Vocabulary) add(b byte, depth int32) int32 {
	v.bytes = append(v.bytes, b)
	v.depth = append(v.depth, depth)
	v.after = append(v.after, 0)
	v.tokens = append(v.tokens, 0)
	return int32(len(v.bytes) - 1)
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
