package grammar

import "slices"

const (
	maxDepth   = 1000 // calls within calls: JSON nested deeper is not written
	maxThreads = 512  // ways in which a text may be read so far; further ones are dropped
	maxStates  = 1 << 15
)

// frame is a place to return to when a rule has ended, and the frames around it.
type frame struct {
	at    int32
	depth int32
	up    *frame
}

// hole stands for frames that are not known: a mask computed above it holds within any rule that calls.
var hole = &frame{at: -1}

// thread is one way to read the text so far: a place in a rule and the frames around it. up is nil in the rule root.
type thread struct {
	at int32
	up *frame
}

// state is all threads that are left after some text. States are shared and made when first reached.
type state struct {
	threads []thread // places with edges, sorted, each once
	ended   bool     // the text may end here
	holed   bool     // the frames known above hole have all ended
	next    *[256]*state
	mask    []uint64
}

// dead is the state after text that the grammar does not allow.
var dead = &state{}

func (s *state) isDead() bool { return len(s.threads) == 0 && !s.ended && !s.holed }

// machine makes states of a grammar. It belongs to one goroutine at a time.
type machine struct {
	g      *Grammar
	states map[string]*state
	frames map[frame]*frame
	ids    map[*frame]int32
	key    []byte
	seen   map[thread]bool
}

func newMachine(g *Grammar) *machine {
	m := &machine{g: g, seen: map[thread]bool{}}
	m.reset()
	return m
}

// reset forgets all states, of which there may be too many. Those that are held elsewhere stay valid.
func (m *machine) reset() {
	m.states, m.frames, m.ids = map[string]*state{}, map[frame]*frame{}, map[*frame]int32{hole: 1}
}

func (m *machine) frame(at int32, up *frame) *frame {
	f := frame{at: at, up: up}
	if up != nil {
		f.depth = up.depth + 1
	}
	if known := m.frames[f]; known != nil {
		return known
	}
	made := &f
	m.frames[f] = made
	m.id(up)
	m.id(made)
	return made
}

// id numbers frames, for the key of a state.
func (m *machine) id(f *frame) int32 {
	if f == nil {
		return 0
	}
	n, ok := m.ids[f]
	if !ok {
		n = int32(len(m.ids) + 1)
		m.ids[f] = n
	}
	return n
}

// closure returns the state of the given threads, after all steps that need no byte.
func (m *machine) closure(from []thread) *state {
	clear(m.seen)
	var s state
	todo := slices.Clone(from)
	for len(todo) > 0 && len(s.threads) < maxThreads {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if m.seen[t] {
			continue
		}
		m.seen[t] = true
		n := &m.g.nodes[t.at]
		if len(n.edges) > 0 {
			s.threads = append(s.threads, t)
		}
		for _, to := range n.free {
			todo = append(todo, thread{to, t.up})
		}
		for _, k := range n.calls {
			if t.up != nil && t.up.depth >= maxDepth {
				continue
			}
			up := t.up
			if !m.g.nodes[k.back].only {
				up = m.frame(k.back, t.up)
			}
			todo = append(todo, thread{k.start, up})
		}
		if n.end {
			switch t.up {
			case nil:
				s.ended = true
			case hole:
				s.holed = true
			default:
				todo = append(todo, thread{t.up.at, t.up.up})
			}
		}
	}
	return m.intern(s)
}

func (m *machine) intern(s state) *state {
	if s.isDead() {
		return dead
	}
	slices.SortFunc(s.threads, func(a, b thread) int {
		if a.at != b.at {
			return int(a.at) - int(b.at)
		}
		return int(m.id(a.up)) - int(m.id(b.up))
	})
	m.key = m.key[:0]
	for _, v := range []bool{s.ended, s.holed} {
		m.key = append(m.key, '0')
		if v {
			m.key[len(m.key)-1] = '1'
		}
	}
	for _, t := range s.threads {
		id := m.id(t.up)
		m.key = append(m.key, byte(t.at), byte(t.at>>8), byte(t.at>>16), byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	if known := m.states[string(m.key)]; known != nil {
		return known
	}
	if len(m.states) >= maxStates {
		key := string(m.key)
		m.reset()
		m.key = append(m.key[:0], key...)
		return &s // not shared: its frames are of the time before
	}
	made := &s
	m.states[string(m.key)] = made
	return made
}

// step returns the state after one more byte.
func (m *machine) step(s *state, b byte) *state {
	if s.next == nil {
		if len(s.threads) == 0 {
			return dead
		}
		s.next = new([256]*state)
	}
	if to := s.next[b]; to != nil {
		return to
	}
	var from []thread
	for _, t := range s.threads {
		for _, e := range m.g.nodes[t.at].edges {
			if e.span.lo <= b && b <= e.span.hi {
				from = append(from, thread{e.to, t.up})
			}
		}
	}
	to := dead
	if len(from) > 0 {
		to = m.closure(from)
	}
	s.next[b] = to
	return to
}
