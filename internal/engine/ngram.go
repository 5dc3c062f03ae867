package engine

const (
	ngramMin   = 2  // tokens of the shortest suffix that is looked up
	ngramMax   = 32 // longer matches are not told apart
	ngramTries = 64 // earlier places that one look-up compares
	ngramBits  = 13 // of the hash table
)

// ngrams finds where the suffix of a text occurred before. Places are chained by a hash of two tokens, the latest first.
type ngrams struct {
	head    []int32 // last place of each hash, plus 1
	prev    []int32 // of each place: the one before with the same hash, plus 1
	indexed int     // places; place i stands for tokens i−1 and i
}

// longest returns the place before the end of tokens whose preceding tokens agree with the suffix of tokens for longest, and
// for how long: at least ngramMin, or 0 for nothing found. Later places win over earlier ones.
func (g *ngrams) longest(tokens []int32) (place, length int) {
	if g.head == nil {
		g.head = make([]int32, 1<<ngramBits)
	}
	end := len(tokens) - 1
	for ; g.indexed < end; g.indexed++ {
		i := g.indexed
		if i == 0 {
			g.prev = append(g.prev, 0)
			continue
		}
		h := ngramHash(tokens[i-1], tokens[i])
		g.prev = append(g.prev, g.head[h])
		g.head[h] = int32(i + 1)
	}
	if end < ngramMin {
		return 0, 0
	}
	at := g.head[ngramHash(tokens[end-1], tokens[end])]
	for tries := 0; at > 0 && tries < ngramTries && length < ngramMax; tries++ {
		i := int(at) - 1
		n := 0
		for n <= i && n < ngramMax && tokens[i-n] == tokens[end-n] {
			n++
		}
		if n >= ngramMin && n > length {
			place, length = i, n
		}
		at = g.prev[i]
	}
	return place, length
}

// propose appends to dst the n tokens that followed place. What the text has not reached yet repeats from place on.
func (g *ngrams) propose(dst, tokens []int32, place, n int) []int32 {
	for i := range n {
		if at := place + 1 + i; at < len(tokens) {
			dst = append(dst, tokens[at])
		} else {
			dst = append(dst, dst[i-(len(tokens)-place-1)])
		}
	}
	return dst
}

func ngramHash(a, b int32) uint32 {
	return (uint32(a)*0x9E3779B1 ^ uint32(b)*0x85EBCA77) * 0xC2B2AE3D >> (32 - ngramBits)
}
