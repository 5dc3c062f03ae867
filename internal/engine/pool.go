package engine

import "slices"

// pool hands out the pages of a backend's cache. A page is written by one sequence; once it is full it is shared by all
// sequences that begin with the same tokens. A tree of prefixes remembers pages after their sequences have left, until they
// are needed, least recently used first.
type pool struct {
	refs  []int32   // of each page: the sequences that have it in their table
	nodes []*prefix // of each page: its place in the tree, or nil
	free  []int32   // pages that neither a sequence nor the tree has
	used  int       // pages that sequences have
	root  prefix
	clock int64

	stateRefs  []int32 // of each place for a state: the sequences and prefixes that have it; empty for models without a state
	freeStates []place
}

// prefix is a node of the tree: a page, which stands for all tokens from the beginning of a sequence to its last.
type prefix struct {
	parent   *prefix
	children map[uint64][]*prefix // full pages, by the hash of their tokens
	partial  []*prefix            // pages with fewer tokens
	after    int                  // length of children and partial together
	tokens   []int32
	page     int32
	state    place // after the last of tokens, or 0
	time     int64 // pool.clock at its last use
}

// table is what a sequence has of the pool.
type table struct {
	pages     []int32
	last      *prefix // node of the last page that the tree has, too
	committed int     // pages that the tree has, too
}

func newPool(pages, states int) *pool {
	p := &pool{refs: make([]int32, pages), nodes: make([]*prefix, pages), free: make([]int32, 0, pages),
		stateRefs: make([]int32, states)}
	for i := states; i > 0; i-- {
		p.freeStates = append(p.freeStates, place(i))
	}
	for i := pages - 1; i >= 0; i-- {
		p.free = append(p.free, int32(i))
	}
	return p
}

// available returns how many pages sequences could get: free ones and those that only the tree has.
func (p *pool) available() int { return len(p.refs) - p.used }

func (p *pool) ref(page int32) {
	if p.refs[page]++; p.refs[page] == 1 {
		p.used++
	}
}

// unref takes a page from a sequence.
func (p *pool) unref(page int32) {
	if p.refs[page]--; p.refs[page] > 0 {
		return
	}
	p.used--
	if p.nodes[page] == nil {
		p.free = append(p.free, page)
	}
}

// alloc returns a page for a sequence to write to.
func (p *pool) alloc() (page int32, ok bool) {
	if len(p.free) == 0 && !p.drop() {
		return 0, false
	}
	page = p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.ref(page)
	return page, true
}

// grow adds pages to t until it holds n positions.
func (p *pool) grow(t *table, n int) bool {
	for len(t.pages) < PagesFor(n) {
		page, ok := p.alloc()
		if !ok {
			return false
		}
		t.pages = append(t.pages, page)
	}
	return true
}

// adopt appends to t the full pages that the tree has of tokens. t must hold nothing but pages that the tree has. It returns
// how many positions t holds then.
func (p *pool) adopt(t *table, tokens []int32) int {
	if t.last == nil {
		t.last = &p.root
	}
	for (t.committed+1)*PageTokens <= len(tokens) {
		next := t.last.child(tokens[t.committed*PageTokens:][:PageTokens])
		if next == nil {
			break
		}
		p.touch(next)
		p.ref(next.page)
		t.pages = append(t.pages, next.page)
		t.last = next
		t.committed++
	}
	return t.committed * PageTokens
}

// adoptPart looks, after adopt, for a page that begins with the next tokens. If there is one, t holds a copy, and adoptPart
// returns how many positions t holds then; where no page is free for a copy, t takes the page over, and From and To are the
// same. Of models with a state it has to be a page whose tokens are all among the next; state is the state after them, which
// the caller then shares.
func (p *pool) adoptPart(t *table, tokens []int32) (n int, c PageCopy, state place, ok bool) {
	best, same := t.last.longest(tokens[t.committed*PageTokens:], p.recurrent())
	if same == 0 {
		return 0, c, 0, false
	}
	state = p.shareState(best.state)
	p.touch(best)
	p.ref(best.page) // so that it is not dropped for the copy
	page, got := p.alloc()
	if got {
		p.unref(best.page)
	} else if p.refs[best.page] > 1 || best.after > 0 {
		p.unref(best.page)
		p.dropState(state)
		return 0, c, 0, false
	} else {
		page = best.page
		p.forget(best)
	}
	t.pages = append(t.pages, page)
	return t.committed*PageTokens + same, PageCopy{From: best.page, To: page}, state, true
}

// reset forgets all prefixes that no sequence uses.
func (p *pool) reset() {
	for p.drop() {
	}
	slices.SortFunc(p.free, func(a, b int32) int { return int(b - a) })
}

// commit tells the tree which pages of t are full, tokens being those that t holds. Where the tree has an equal page, t goes
// on with that one. states are kept for the pages that end with them.
func (p *pool) commit(t *table, tokens []int32, states []stateAfter) {
	if t.last == nil {
		t.last = &p.root
	}
	for ; (t.committed+1)*PageTokens <= len(tokens); t.committed++ {
		at := &t.pages[t.committed]
		part := tokens[t.committed*PageTokens:][:PageTokens]
		next := t.last.child(part)
		if next == nil {
			next = p.remember(t.last, part, *at)
		} else {
			p.touch(next)
			p.ref(next.page)
			p.unref(*at)
			*at = next.page
		}
		for _, s := range states {
			if s.tokens == (t.committed+1)*PageTokens {
				p.keepState(next, s.at)
			}
		}
		t.last = next
	}
}

// release gives t's pages back. The tree remembers those that hold tokens, and the states after them.
func (p *pool) release(t *table, tokens []int32, states []stateAfter) {
	p.commit(t, tokens, states)
	rest, end := tokens[t.committed*PageTokens:], place(0)
	for _, s := range states {
		if s.tokens == len(tokens) {
			end = s.at
		}
	}
	switch {
	case len(rest) == 0 && t.last != &p.root:
		p.keepState(t.last, end)
	case len(rest) > 0 && (!p.recurrent() || end != 0):
		if _, same := t.last.longest(rest, p.recurrent()); same < len(rest) {
			p.keepState(p.remember(t.last, rest, t.pages[t.committed]), end)
		}
	}
	for _, page := range slices.Backward(t.pages) {
		p.unref(page)
	}
	t.pages, t.last, t.committed = t.pages[:0], nil, 0
}

// drop forgets the least recently used of the pages that no sequence has and that nothing follows in the tree.
func (p *pool) drop() bool {
	var oldest *prefix
	for _, x := range p.nodes {
		if x != nil && p.refs[x.page] == 0 && x.after == 0 && (oldest == nil || x.time < oldest.time) {
			oldest = x
		}
	}
	if oldest == nil {
		return false
	}
	p.forget(oldest)
	return true
}

// forget removes a leaf of the tree.
func (p *pool) forget(x *prefix) {
	parent, is := x.parent, func(c *prefix) bool { return c == x }
	if len(x.tokens) < PageTokens {
		parent.partial = slices.DeleteFunc(parent.partial, is)
	} else {
		h := hash(x.tokens)
		if parent.children[h] = slices.DeleteFunc(parent.children[h], is); len(parent.children[h]) == 0 {
			delete(parent.children, h)
		}
	}
	parent.after--
	p.dropState(x.state)
	x.state = 0
	p.nodes[x.page] = nil
	if p.refs[x.page] == 0 {
		p.free = append(p.free, x.page)
	}
}

// remember adds a page to the tree. Unused pages with a part of its tokens are forgotten.
func (p *pool) remember(parent *prefix, tokens []int32, page int32) *prefix {
	for _, c := range slices.Clone(parent.partial) {
		if p.refs[c.page] == 0 && len(c.tokens) <= len(tokens) && slices.Equal(c.tokens, tokens[:len(c.tokens)]) {
			p.forget(c)
		}
	}
	x := &prefix{parent: parent, tokens: slices.Clone(tokens), page: page}
	p.touch(x)
	p.nodes[page] = x
	parent.after++
	if len(tokens) < PageTokens {
		parent.partial = append(parent.partial, x)
		return x
	}
	if parent.children == nil {
		parent.children = map[uint64][]*prefix{}
	}
	h := hash(tokens)
	parent.children[h] = append(parent.children[h], x)
	return x
}

func (p *pool) touch(x *prefix) {
	p.clock++
	x.time = p.clock
}

// child returns the node of a full page after x.
func (x *prefix) child(tokens []int32) *prefix {
	for _, c := range x.children[hash(tokens)] {
		if slices.Equal(c.tokens, tokens) {
			return c
		}
	}
	return nil
}

// longest returns the page after x that shares most with the beginning of tokens, the last used of equals, and how many
// tokens it shares; recurrent: only pages with a state that share all of their tokens count.
func (x *prefix) longest(tokens []int32, recurrent bool) (best *prefix, same int) {
	try := func(c *prefix) {
		if recurrent && (c.state == 0 || len(c.tokens) > len(tokens) || !slices.Equal(c.tokens, tokens[:len(c.tokens)])) {
			return
		}
		n := 0
		for n < min(len(c.tokens), len(tokens)) && c.tokens[n] == tokens[n] {
			n++
		}
		if n > same || n == same && n > 0 && c.time > best.time {
			best, same = c, n
		}
	}
	for _, c := range x.partial {
		try(c)
	}
	for _, l := range x.children {
		for _, c := range l {
			try(c)
		}
	}
	return best, same
}

// hash is FNV-1a over token ids.
func hash(tokens []int32) uint64 {
	h := uint64(14695981039346656037)
	for _, t := range tokens {
		h = (h ^ uint64(uint32(t))) * 1099511628211
	}
	return h
}
