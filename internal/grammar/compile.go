package grammar

import (
	"fmt"
	"maps"
	"slices"
)

// Limits of what a grammar may ask for. Grammars come with requests from strangers.
const (
	maxNodes  = 200_000 // places of the automaton: about 50 bytes each
	maxRepeat = 10_000  // in {m,n}, minItems, maxLength …
)

// A Grammar is an automaton over bytes whose rules may call each other. It does not change, so goroutines can share it.
type Grammar struct {
	nodes []node
	start int32 // where rule root starts
}

// node is a place in a rule.
type node struct {
	edges []edge  // bytes that lead on
	free  []int32 // places reached without a byte
	calls []call
	end   bool // the rule may end here
	only  bool // and nothing else
}

type edge struct {
	span byteSpan
	to   int32
}

// call enters a rule; text goes on at place back when the rule has ended.
type call struct{ start, back int32 }

// compiler turns expressions into nodes.
type compiler struct {
	nodes  []node
	rules  rules
	starts map[string]int32
	queue  []string
	err    error
}

// compile makes the automaton of r's rule root.
func compile(r rules) (*Grammar, error) {
	if _, ok := r["root"]; !ok {
		return nil, fmt.Errorf("the grammar has no rule %q, with which a text starts", "root")
	}
	c := &compiler{rules: r, starts: map[string]int32{}}
	start := c.rule("root")
	for len(c.queue) > 0 && c.err == nil {
		name := c.queue[0]
		c.queue = c.queue[1:]
		end := c.build(c.starts[name], c.rules[name])
		if c.err == nil {
			c.nodes[end].end = true
		}
	}
	if c.err == nil {
		c.err = c.prune()
	}
	if c.err == nil {
		c.err = c.checkLeftRecursion()
	}
	if c.err != nil {
		return nil, c.err
	}
	c.markEnds()
	return &Grammar{c.nodes, start}, nil
}

// rule returns where the rule starts, and queues it for building if it is new.
func (c *compiler) rule(name string) int32 {
	if at, ok := c.starts[name]; ok {
		return at
	}
	if _, ok := c.rules[name]; !ok {
		c.err = fmt.Errorf("rule %q is used, but not defined", name)
		return 0
	}
	at := c.node()
	c.starts[name] = at
	c.queue = append(c.queue, name)
	return at
}

func (c *compiler) node() int32 {
	if len(c.nodes) >= maxNodes {
		if c.err == nil {
			c.err = fmt.Errorf("the grammar needs more than %d places: lower its counts of repetition", maxNodes)
		}
		return 0
	}
	c.nodes = append(c.nodes, node{})
	return int32(len(c.nodes) - 1)
}

func (c *compiler) edge(from int32, s byteSpan, to int32) {
	c.nodes[from].edges = append(c.nodes[from].edges, edge{s, to})
}

func (c *compiler) free(from, to int32) { c.nodes[from].free = append(c.nodes[from].free, to) }

// build adds e after the node from and returns the node where it ends.
func (c *compiler) build(from int32, e expr) int32 {
	if c.err != nil {
		return from
	}
	switch e := e.(type) {
	case literal:
		for i := range len(e) {
			to := c.node()
			c.edge(from, byteSpan{e[i], e[i]}, to)
			from = to
		}
		return from
	case class:
		return c.class(from, e)
	case seq:
		for _, part := range e {
			from = c.build(from, part)
		}
		return from
	case alt:
		end := c.node()
		for _, part := range e {
			begin := c.node()
			c.free(from, begin)
			c.free(c.build(begin, part), end)
		}
		return end
	case rep:
		return c.repeat(from, e)
	case byRemainder:
		return c.remainder(from, e.m)
	case ref:
		start, back := c.rule(string(e)), c.node()
		c.nodes[from].calls = append(c.nodes[from].calls, call{start, back})
		return back
	}
	c.err = fmt.Errorf("grammar: expression of type %T", e)
	return from
}

func (c *compiler) class(from int32, e class) int32 {
	end := c.node()
	for _, s := range e.sequences() {
		at := from
		for i, span := range s {
			to := end
			if i < len(s)-1 {
				to = c.node()
			}
			c.edge(at, span, to)
			at = to
		}
	}
	return end
}

func (c *compiler) repeat(from int32, e rep) int32 {
	if e.min > maxRepeat || e.max > maxRepeat {
		c.err = fmt.Errorf("a repetition of more than %d times", maxRepeat)
		return from
	}
	for range e.min {
		from = c.build(from, e.e)
	}
	end := c.node()
	if e.max < 0 {
		loop := c.node()
		c.free(from, loop)
		c.free(c.build(loop, e.e), loop)
		c.free(loop, end)
		return end
	}
	c.free(from, end)
	for i := e.min; i < e.max && c.err == nil; i++ {
		// A node between repetitions keeps edges of one from loops of the next.
		begin := c.node()
		c.free(from, begin)
		from = c.build(begin, e.e)
		c.free(from, end)
	}
	return end
}

// prune removes what leads to places from which a rule's end cannot be reached, and refuses grammars whose text could never end.
func (c *compiler) prune() error {
	finite := c.finite()
	for _, name := range slices.Sorted(maps.Keys(c.starts)) {
		if !finite[c.starts[name]] {
			if name == "root" {
				return fmt.Errorf("rule %q matches no finite text", name)
			}
		}
	}
	for i := range c.nodes {
		n := &c.nodes[i]
		n.edges = slices.DeleteFunc(n.edges, func(e edge) bool { return !finite[e.to] })
		n.free = slices.DeleteFunc(n.free, func(to int32) bool { return !finite[to] })
		n.calls = slices.DeleteFunc(n.calls, func(k call) bool { return !finite[k.start] || !finite[k.back] })
	}
	return nil
}

// markEnds finds the nodes after which a rule can only end, so that a call there needs no frame to return to.
func (c *compiler) markEnds() {
	before := make([][]int32, len(c.nodes))
	more := make([]bool, len(c.nodes)) // a byte or a call may follow
	var todo []int32
	for i := range c.nodes {
		n := &c.nodes[i]
		for _, to := range n.free {
			before[to] = append(before[to], int32(i))
		}
		if len(n.edges)+len(n.calls) > 0 {
			more[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range before[n] {
			if !more[from] {
				more[from] = true
				todo = append(todo, from)
			}
		}
	}
	for i := range c.nodes {
		c.nodes[i].only = !more[i]
	}
}

// finite returns, for every node, whether its rule's end can be reached from it.
func (c *compiler) finite() []bool {
	type caller struct {
		from int32
		call
	}
	before := make([][]int32, len(c.nodes)) // by edges and free steps
	callers := make([][]caller, len(c.nodes))
	var todo []int32
	for i := range c.nodes {
		n := &c.nodes[i]
		for _, e := range n.edges {
			before[e.to] = append(before[e.to], int32(i))
		}
		for _, to := range n.free {
			before[to] = append(before[to], int32(i))
		}
		for _, k := range n.calls {
			callers[k.start] = append(callers[k.start], caller{int32(i), k})
			callers[k.back] = append(callers[k.back], caller{int32(i), k})
		}
		if n.end {
			todo = append(todo, int32(i))
		}
	}
	finite := make([]bool, len(c.nodes))
	mark := func(n int32) {
		if !finite[n] {
			finite[n] = true
			todo = append(todo, n)
		}
	}
	for _, n := range todo {
		finite[n] = true
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range before[n] {
			mark(from)
		}
		for _, k := range callers[n] {
			if finite[k.start] && finite[k.back] {
				mark(k.from)
			}
		}
	}
	return finite
}

// checkLeftRecursion refuses rules that call themselves before any byte: states could not be enumerated.
func (c *compiler) checkLeftRecursion() error {
	names := map[int32]string{}
	for name, start := range c.starts {
		names[start] = name
	}
	empty := c.emptyRules()
	first := map[int32][]int32{} // rules that a rule calls before any byte
	for _, start := range c.starts {
		first[start] = c.firstCalls(start, empty)
	}
	const open, done = 1, 2
	mark := map[int32]int{}
	var visit func(at int32) error
	visit = func(at int32) error {
		mark[at] = open
		for _, next := range first[at] {
			if mark[next] == open {
				return fmt.Errorf("rule %q is left-recursive: it calls itself before any character", names[next])
			}
			if mark[next] == 0 {
				if err := visit(next); err != nil {
					return err
				}
			}
		}
		mark[at] = done
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.starts)) {
		if at := c.starts[name]; mark[at] == 0 {
			if err := visit(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// emptyRules returns the starts of rules that match the empty text.
func (c *compiler) emptyRules() map[int32]bool {
	empty := map[int32]bool{}
	for grown := true; grown; {
		grown = false
		for _, start := range c.starts {
			if empty[start] {
				continue
			}
			c.freeWalk(start, empty, func(n *node) {
				if n.end && !empty[start] {
					empty[start], grown = true, true
				}
			})
		}
	}
	return empty
}

// firstCalls returns the rules that are called at start before any byte.
func (c *compiler) firstCalls(start int32, empty map[int32]bool) []int32 {
	var out []int32
	c.freeWalk(start, empty, func(n *node) {
		for _, k := range n.calls {
			out = append(out, k.start)
		}
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// freeWalk visits the nodes of a rule that are reached without a byte.
func (c *compiler) freeWalk(from int32, empty map[int32]bool, f func(*node)) {
	seen, todo := map[int32]bool{from: true}, []int32{from}
	visit := func(n int32) {
		if !seen[n] {
			seen[n] = true
			todo = append(todo, n)
		}
	}
	for len(todo) > 0 {
		n := &c.nodes[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		f(n)
		for _, to := range n.free {
			visit(to)
		}
		for _, k := range n.calls {
			if empty[k.start] {
				visit(k.back)
			}
		}
	}
}
