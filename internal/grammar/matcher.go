package grammar

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// maxMasks bounds the memory of masks kept for states and places, in bytes.
const maxMasks = 64 << 20

// A Constraint is a grammar over a vocabulary, with what was computed of it so far. Goroutines can share it.
type Constraint struct {
	v  *Vocabulary
	mu sync.Mutex
	m  *machine
	// places has what is known of tokens after a place, whatever rule called: by node.
	places map[int32]*placeMask
	start  *state
	kept   int // bytes of masks kept
	path   []*state
}

// placeMask tells which tokens are allowed at a place without leaving its rule, and where in the trie the rule may have ended.
type placeMask struct {
	allowed []uint64
	ends    []int32 // trie nodes with others below
}

// NewConstraint prepares g for the tokens of v.
func NewConstraint(g *Grammar, v *Vocabulary) *Constraint {
	c := &Constraint{v: v, m: newMachine(g), places: map[int32]*placeMask{}}
	c.start = c.m.closure([]thread{{g.start, nil}})
	return c
}

// A Position is a place in a text that the grammar allows. Its zero value is not one; Constraint.Start makes the first.
// Positions are values: whoever keeps an old one can go back to it.
type Position struct{ s *state }

// Start returns the position before the first token.
func (c *Constraint) Start() Position { return Position{c.start} }

// ErrNotAllowed tells that a token does not fit the grammar.
var ErrNotAllowed = errors.New("the grammar does not allow this token")

// Accept returns the position after a token. Tokens that end a generation are accepted where the text may end.
func (c *Constraint) Accept(p Position, token int32) (Position, error) {
	if token < 0 || int(token) >= c.v.size {
		return p, fmt.Errorf("token %d is not in the vocabulary of %d", token, c.v.size)
	}
	if slices.Contains(c.v.ends, token) {
		if p.s.ended {
			return p, nil
		}
		return p, ErrNotAllowed
	}
	text := c.v.texts[token]
	if len(text) == 0 {
		return p, ErrNotAllowed
	}
	return c.AcceptText(p, text)
}

// AcceptText returns the position after some bytes.
func (c *Constraint) AcceptText(p Position, text []byte) (Position, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := p.s
	for _, b := range text {
		if s = c.m.step(s, b); s == dead {
			return p, ErrNotAllowed
		}
	}
	return Position{s}, nil
}

// MayEnd reports whether the text may end here.
func (p Position) MayEnd() bool { return p.s.ended }

// MustEnd reports whether the text can only end here.
func (p Position) MustEnd() bool { return p.s.ended && len(p.s.threads) == 0 }

// Mask writes into mask which tokens may come at p: bit i%64 of word i/64 for token i. mask has (Size+63)/64 words.
func (c *Constraint) Mask(p Position, mask []uint64) error {
	if len(mask) != words(c.v.size) {
		return fmt.Errorf("grammar: a mask of %d words for %d tokens", len(mask), c.v.size)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.s.mask != nil {
		copy(mask, p.s.mask)
		return nil
	}
	clear(mask)
	for _, t := range p.s.threads {
		if t.up != nil && t.up.depth > maxDepth/2 {
			c.walk(c.m.closure([]thread{t}), 0, mask, nil) // the depth that is left matters
			continue
		}
		place := c.place(t.at)
		for i, w := range place.allowed {
			mask[i] |= w
		}
		if len(place.ends) > 0 && t.up != nil {
			up := c.m.closure([]thread{{t.up.at, t.up.up}})
			for _, n := range place.ends {
				c.walk(up, n, mask, nil)
			}
		}
	}
	if p.s.ended {
		for _, id := range c.v.ends {
			set(mask, id)
		}
	}
	c.makeRoom(len(mask))
	p.s.mask = slices.Clone(mask)
	return nil
}

func words(size int) int { return (size + 63) / 64 }

func set(mask []uint64, id int32) { mask[id>>6] |= 1 << (id & 63) }

// makeRoom counts one more mask of that many words, and forgets all others when they take more than maxMasks.
func (c *Constraint) makeRoom(words int) {
	if c.kept+8*words > maxMasks {
		for _, s := range c.m.states {
			s.mask = nil
		}
		clear(c.places)
		c.kept = 0
	}
	c.kept += 8 * words
}

// place returns what is known of tokens at node at within its rule.
func (c *Constraint) place(at int32) *placeMask {
	if p := c.places[at]; p != nil {
		return p
	}
	p := &placeMask{allowed: make([]uint64, words(c.v.size))}
	c.walk(c.m.closure([]thread{{at, hole}}), 0, p.allowed, &p.ends)
	c.makeRoom(len(p.allowed))
	c.places[at] = p
	return p
}

// walk sets the bits of tokens below trie node root that s allows, root standing for the text so far. Nodes where the frames
// known to s have ended are added to ends, if ends is given and they have others below them.
func (c *Constraint) walk(s *state, root int32, mask []uint64, ends *[]int32) {
	v := c.v
	base := v.depth[root]
	c.path = append(c.path[:0], s)
	for n := root + 1; n < v.after[root]; {
		d := v.depth[n] - base
		to := c.m.step(c.path[d-1], v.bytes[n])
		if to == dead {
			n = v.after[n]
			continue
		}
		for _, id := range v.order[v.tokens[n]:v.tokens[n+1]] {
			set(mask, id)
		}
		if to.holed && ends != nil && n+1 < v.after[n] {
			*ends = append(*ends, n)
		}
		c.path = append(c.path[:d], to)
		n++
	}
}
