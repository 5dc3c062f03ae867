package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// check verifies that every page is free, in the tree, or in a table, and that counts agree.
func (p *pool) check(t *testing.T, tables []*table) {
	t.Helper()
	refs, free := make([]int32, len(p.refs)), map[int32]bool{}
	for _, tab := range tables {
		for _, page := range tab.pages {
			refs[page]++
		}
	}
	require.Equal(t, refs, p.refs)
	for _, page := range p.free {
		require.False(t, free[page], "page %d is free twice", page)
		free[page] = true
	}
	used, nodes := 0, 0
	for page, n := range p.nodes {
		if refs[page] > 0 {
			used++
		}
		require.Equal(t, n == nil && refs[page] == 0, free[int32(page)], "page %d", page)
		if n != nil {
			nodes++
			require.EqualValues(t, page, n.page)
		}
	}
	require.Equal(t, used, p.used)
	require.Equal(t, nodes, p.root.count())
}

// count returns the nodes after x.
func (x *prefix) count() (n int) {
	for _, l := range x.children {
		for _, c := range l {
			n += 1 + c.count()
		}
	}
	return n + len(x.partial)
}

// Sequences with few different tokens, so that they share much, come, grow, go and are preempted in random order. A page that
// a table holds has the tokens of its sequence: a shadow of the pages' contents tells.
func TestPoolNeverLosesOrMixesPages(t *testing.T) {
	const pages = 24
	rng := rand.New(rand.NewPCG(7, 8))
	p := newPool(pages, 0)
	content := make([][PageTokens]int32, pages)
	type seq struct {
		table
		tokens []int32
		cached int
	}
	var seqs []*seq
	for round := range 20000 {
		switch i := rng.IntN(10); {
		case i == 0 && len(seqs) < 6:
			s := &seq{}
			for range 1 + rng.IntN(5) {
				v := int32(rng.IntN(2))
				for range 20 + 22*rng.IntN(2) {
					s.tokens = append(s.tokens, v)
				}
			}
			s.cached = p.adopt(&s.table, s.tokens)
			if n, c, _, ok := p.adoptPart(&s.table, s.tokens); ok {
				s.cached = n
				content[c.To] = content[c.From]
			}
			seqs = append(seqs, s)
		case i < 8 && len(seqs) > 0:
			s := seqs[rng.IntN(len(seqs))]
			n := min(rng.IntN(40), len(s.tokens)-s.cached)
			if !p.grow(&s.table, s.cached+n) {
				continue
			}
			for pos := s.cached; pos < s.cached+n; pos++ {
				content[s.pages[pos/PageTokens]][pos%PageTokens] = s.tokens[pos]
			}
			s.cached += n
			p.commit(&s.table, s.tokens[:s.cached], nil)
		case len(seqs) > 0:
			i := rng.IntN(len(seqs))
			p.release(&seqs[i].table, seqs[i].tokens[:seqs[i].cached], nil)
			seqs = append(seqs[:i], seqs[i+1:]...)
		}
		var tables []*table
		for _, s := range seqs {
			tables = append(tables, &s.table)
			for pos, tok := range s.tokens[:s.cached] {
				require.Equal(t, tok, content[s.pages[pos/PageTokens]][pos%PageTokens], "round %d", round)
			}
		}
		p.check(t, tables)
	}
	for _, s := range seqs {
		p.release(&s.table, s.tokens[:s.cached], nil)
	}
	p.reset()
	require.Len(t, p.free, pages)
}

func TestPoolDropsTheLeastRecentlyUsed(t *testing.T) {
	p := newPool(3, 0)
	text := func(v int32) (tokens []int32) {
		for range PageTokens {
			tokens = append(tokens, v)
		}
		return tokens
	}
	for v := range int32(3) {
		var tab table
		require.True(t, p.grow(&tab, PageTokens))
		p.release(&tab, text(v), nil)
	}
	var again, more, kept table
	require.Equal(t, PageTokens, p.adopt(&again, text(0)))
	p.release(&again, text(0), nil)
	require.True(t, p.grow(&more, 1)) // 1 was not used for longest
	require.Zero(t, p.adopt(&kept, text(1)))
	require.Equal(t, PageTokens, p.adopt(&kept, text(0)))
	require.Equal(t, 1, p.available())
	require.False(t, p.grow(&more, 3*PageTokens))
}
