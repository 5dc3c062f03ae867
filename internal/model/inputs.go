package model

// Input is a vector of activations that one or more matrices multiply, and where its elements could be rescaled: the matrices'
// columns divided by factors, and what produces the vector multiplied by them, leave the model's function unchanged.
type Input struct {
	Weights []string // the matrices, in order of execution
	Width   int      // elements of the vector = columns of the matrices
	// Scaled are the tensors whose rows (of vectors: elements) carry the factors: a norm's weight, or a matrix and its bias. Empty
	// if no tensor can absorb them.
	Scaled []string
	// Ordered are tensors whose rows (of vectors: elements) could be put in another order, and the matrices' columns likewise,
	// without a change of the model's function: the two matrices, and their biases, whose products a gated linear unit joins. Empty
	// if there are none.
	Ordered []string
	// Period and Repeat say which row element i belongs to (see Row). Heads that share their values give Repeat > 1.
	Period, Repeat int
}

// Row returns the row of the tensors Scaled that produces element i.
func (in *Input) Row(i int) int { return i/(in.Period*in.Repeat)*in.Period + i%in.Period }

// Inputs returns the inputs of all products, in order of execution.
func (p *Program) Inputs() []Input {
	f := p.flow()
	var out []Input
	index := map[int]int{} // node that writes the vector → element of out
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if n.Op != OpMatMul {
			continue
		}
		w := f.from[i][n.A]
		k, ok := index[w]
		if !ok {
			k = len(out)
			index[w] = k
			out = append(out, f.input(w, p.Width(n.A)))
		}
		out[k].Weights = append(out[k].Weights, n.Weight)
		if f.uses[n.Weight] > 1 {
			out[k].Scaled = nil
		}
	}
	return out
}

// flow says which node reads what.
type flow struct {
	p       *Program
	from    [][NumBuffers]int // per node: who wrote each buffer before it; −1: nobody
	readers [][]int           // per node: who reads what it writes
	uses    map[string]int    // per tensor
}

func (p *Program) flow() *flow {
	f := &flow{p: p, from: make([][NumBuffers]int, len(p.Nodes)), readers: make([][]int, len(p.Nodes)), uses: map[string]int{}}
	var writers [NumBuffers]int
	for b := range writers {
		writers[b] = -1
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		f.from[i] = writers
		for _, b := range n.Reads() {
			if w := writers[b]; w >= 0 {
				f.readers[w] = append(f.readers[w], i)
			}
		}
		f.uses[n.Weight]++
		writers[n.Dst] = i
	}
	return f
}

// input describes the vector of the given width that node w writes.
func (f *flow) input(w, width int) Input {
	in := Input{Width: width, Period: width, Repeat: 1}
	if w < 0 {
		return in
	}
	for _, r := range f.readers[w] { // anything but a product would see the vector rescaled
		if f.p.Nodes[r].Op != OpMatMul {
			return in
		}
	}
	n, c := &f.p.Nodes[w], &f.p.Config
	source := w
	switch n.Op {
	case OpRMSNorm:
	case OpGLU: // act(A)·B is linear in B
		source = f.from[w][n.B]
	case OpAttention: // a mean of values
		source = f.from[w][n.C]
		in.Period, in.Repeat = c.HeadDim, c.NHeads/c.NKVHeads
	default:
		return in
	}
	if n.Op == OpGLU {
		in.Ordered = f.ordered(w)
	}
	if source < 0 {
		return in
	}
	s := &f.p.Nodes[source]
	if source != w && (s.Op != OpMatMul || len(f.readers[source]) > 1) || f.uses[s.Weight] > 1 {
		return in
	}
	in.Scaled = []string{s.Weight}
	if s.Bias != "" {
		in.Scaled = append(in.Scaled, s.Bias)
	}
	return in
}

// ordered returns Input.Ordered of the vector that the gated linear unit at node w writes.
func (f *flow) ordered(w int) (tensors []string) {
	for _, buffer := range []Buffer{f.p.Nodes[w].A, f.p.Nodes[w].B} {
		source := f.from[w][buffer]
		if source < 0 {
			return nil
		}
		s := &f.p.Nodes[source]
		if s.Op != OpMatMul || len(f.readers[source]) > 1 || f.uses[s.Weight] > 1 {
			return nil
		}
		tensors = append(tensors, s.Weight)
		if s.Bias != "" {
			tensors = append(tensors, s.Bias)
		}
	}
	return tensors
}
