package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// scheduler turns the program into actions. Small models spend their time starting kernels, so it joins what can be: products of the
// same input, the addition of a product to the residual stream, rotation and cache with attention, and the preparation of a product's
// input with the launch before it.
type scheduler struct {
	p       *pass
	byName  map[string]*weight
	actions []action
	tasks   []byte           // descriptions for kernels
	at      driver.DevicePtr // where they will be
	done    driver.DevicePtr // counters: of launches behind which something is prepared, then of attention tiles
	partial driver.DevicePtr
	// what the buffers' contents still need before they can be multiplied
	pending map[model.Buffer]*prepareAction
	holds   *prepareAction // whose vectors are the prepared ones
	rotated map[model.Buffer]bool
}

const (
	taskAlign = 16
	// maxTaskBytes bounds what a node of the program takes of task descriptions.
	maxTaskBytes = 320
)

// taskBytes bounds the size of all task descriptions and counters.
func taskBytes(prog *model.Program) int64 {
	return int64(len(prog.Nodes))*maxTaskBytes + counterBytes(&prog.Config)
}

func counterBytes(k *model.Config) int64 { return 4 * int64(1+gemvBatch*k.NHeads) }

// schedule compiles the program. Its actions refer to the buffers of p, which must be there.
func (p *pass) schedule(lay *layout, tasks, partial driver.DevicePtr, caches []cachePair) ([]action, error) {
	s := &scheduler{p: p, byName: make(map[string]*weight, len(lay.weights)), done: tasks, at: tasks + driver.DevicePtr(blockSpan(counterBytes(&p.prog.Config))),
		partial: partial, pending: map[model.Buffer]*prepareAction{}, rotated: map[model.Buffer]bool{}}
	for _, w := range lay.weights {
		s.byName[w.Name] = w
	}
	nodes := p.prog.Nodes
	for i := 0; i < len(nodes); {
		n, err := s.node(nodes[i:], &caches)
		if err != nil {
			return nil, err
		}
		for _, node := range nodes[i : i+n] { // what was prepared of it is so no more
			if node.Op != model.OpRMSNorm && node.Op != model.OpSwiGLU {
				delete(s.pending, node.Dst)
			}
		}
		i += n
	}
	s.merge()
	if err := s.describe(); err != nil {
		return nil, err
	}
	if err := p.dev.Memset(s.done, 0, counterBytes(&p.prog.Config)); err != nil {
		return nil, err
	}
	return s.actions, p.dev.CopyHtoD(s.at, s.tasks)
}

// node schedules the first of nodes, perhaps with some of the next, and returns how many.
func (s *scheduler) node(nodes []model.Node, caches *[]cachePair) (int, error) {
	n := &nodes[0]
	h := header{fmt.Sprintf("layer %d, operation %d", n.Layer, n.Op), n.Last}
	if n.Weight != "" {
		h.where = n.Weight
	}
	switch n.Op {
	case model.OpEmbed:
		s.add(&embedAction{h, s.byName[n.Weight], n.Dst})
	case model.OpRMSNorm:
		a := s.prepare(h, n.A, n.Dst)
		a.task.Norm, a.task.Eps = s.byName[n.Weight].vector, s.p.prog.Config.NormEps
	case model.OpSwiGLU:
		a := s.prepare(h, n.A, n.Dst)
		a.task.Up = s.p.buffers[n.B]
	case model.OpAdd:
		s.add(&addAction{h, n.Dst, n.A})
	case model.OpRoPE:
		s.rotated[n.Dst] = true
	case model.OpAttention:
		return 1, s.attend(h, n, caches)
	case model.OpMatMul:
		return s.products(nodes), nil
	default:
		return 0, fmt.Errorf("%s: unknown operation %d", h.where, n.Op)
	}
	return 1, nil
}

func (s *scheduler) add(a action) { s.actions = append(s.actions, a) }

// prepare schedules what turns buffer a into buffer dst. The caller says what that is.
func (s *scheduler) prepare(h header, a, dst model.Buffer) *prepareAction {
	p := &prepareAction{header: h, values: true}
	p.task = prepareTaskDesc{X: s.p.buffers[a], Y: s.p.buffers[dst], Cols: int32(s.p.prog.Width(dst))}
	s.add(p)
	s.pending[dst] = p
	return p
}

// products schedules the products of the same input at the head of nodes.
func (s *scheduler) products(nodes []model.Node) int {
	n := 1
	for n < len(nodes) && nodes[n].Op == model.OpMatMul && nodes[n].A == nodes[0].A && nodes[n].Dst != nodes[0].A {
		n++
	}
	used := n
	residual := n == 1 && len(nodes) > 1 && nodes[1].Op == model.OpAdd && nodes[1].A == nodes[0].Dst && nodes[1].Dst == model.BufX && nodes[1].Last == nodes[0].Last
	if residual {
		used++
	}
	var groups []*productAction
	for i := range nodes[:n] {
		st := s.step(&nodes[i])
		scaled := st.weight.Coded != nil && st.weight.Coded.ColScale != nil
		var g *productAction
		for _, have := range groups {
			if kernel, ok := have.takes(st); ok && !scaled {
				g, have.kernel = have, kernel
			}
		}
		if g == nil {
			g = &productAction{header: header{st.where, st.Last}, kernel: st.weight.product.gemv, input: s.p.buffers[st.A], residual: residual}
			if scaled {
				g.input = s.p.scaled
			}
			groups = append(groups, g)
		}
		g.last = g.last && st.Last
		g.steps, g.weights = append(g.steps, st), append(g.weights, st.weight)
	}
	for _, g := range groups {
		s.input(g)
		if g.steps[0].Dst == model.BufLogits {
			s.add(&logitsAction{*g})
		} else {
			s.add(g)
		}
	}
	return used
}

func (s *scheduler) step(n *model.Node) *step {
	st := &step{Node: n, where: n.Weight, weight: s.byName[n.Weight]}
	if n.Bias != "" {
		st.vector = s.byName[n.Bias].vector
	}
	return st
}

// takes tells whether st can join the launch, and which kernel does both.
func (a *productAction) takes(st *step) (kernelID, bool) {
	first, w := a.steps[0], st.weight
	kernel, ok := mixedGemv(a.kernel, w.product.gemv)
	return kernel, ok && first.weight.desc.Tiles == w.desc.Tiles && first.weight.desc.StepsPerTile == w.desc.StepsPerTile &&
		(first.weight.Coded == nil || first.weight.Coded.ColScale == nil) && st.Dst != model.BufLogits && first.Dst != model.BufLogits
}

// input sees to it that the input of g is prepared.
func (s *scheduler) input(g *productAction) {
	w, buf := g.weights[0], g.steps[0].A
	a := s.pending[buf]
	if g.input == s.p.scaled {
		a = s.prepare(g.header, buf, buf)
		delete(s.pending, buf) // what is prepared is this product's only
		a.task.Y, a.task.ColScale, a.last = s.p.scaled, w.desc.ColScale, g.last
	}
	needs := false
	for _, w := range g.weights {
		needs = needs || w.product.prepared || w.product.halfGemm
	}
	if !needs {
		return
	}
	geometry := [2]int32{w.desc.StepsPerTile, w.desc.Tiles}
	if a == nil || a.task.Xp != 0 && (s.holds != a || [2]int32{a.task.StepsPerTile, a.task.Tiles} != geometry) || a.last != g.last {
		// Rounding only: of what nothing computes, or once more, in another order or for other tokens.
		a = s.prepare(g.header, buf, buf)
		a.values, a.task.Y, a.last = false, 0, g.last
	}
	s.holds = a
	a.task.Xp, a.task.XpStride, a.task.Done = s.p.prepared, s.p.preparedStride, s.done
	a.task.Steps, a.task.StepsPerTile, a.task.Tiles = w.desc.Steps, w.desc.StepsPerTile, w.desc.Tiles
	for _, w := range g.weights {
		a.few = a.few || w.product.prepared
		a.many = a.many || w.product.halfGemm
	}
}

// attend schedules attention with the rotations before it.
func (s *scheduler) attend(h header, n *model.Node, caches *[]cachePair) error {
	k, b := &s.p.prog.Config, &s.p.buffers
	if s.rotated[n.A] != s.rotated[n.B] || s.rotated[n.C] || len(*caches) == 0 {
		return fmt.Errorf("%s: the GPU rotates queries and keys, or neither", h.where)
	}
	a := &attendAction{header: h, q: n.A}
	a.task = attentionTaskDesc{Q: b[n.A], K: b[n.B], V: b[n.C], KCache: (*caches)[0].keys, VCache: (*caches)[0].values, Partial: s.partial, Done: s.done + 4, Y: b[n.Dst],
		NHeads: int32(k.NHeads), NKvHeads: int32(k.NKVHeads), HeadDim: int32(k.HeadDim), RopeDim: int32(k.RopeDim), NCtx: int32(s.p.nCtx), Scale: attentionScale(k.HeadDim)}
	if s.rotated[n.A] && k.RopeDim > 0 {
		a.task.InvFreq = s.p.freqs
	}
	if s.p.prog.RopeNeox {
		a.task.Neox = 1
	}
	*caches = (*caches)[1:]
	clear(s.rotated)
	s.add(a)
	return nil
}

// merge lets launches prepare what the next action would.
func (s *scheduler) merge() {
	for i := range len(s.actions) - 1 {
		next, ok := s.actions[i+1].(*prepareAction)
		_, last := s.actions[i].about()
		if !ok || next.last != last {
			continue
		}
		switch a := s.actions[i].(type) {
		case *productAction:
			a.after = next
		case *attendAction:
			a.after = next
		default:
			continue
		}
		next.merged, next.task.Done = true, s.done
	}
}

// describe writes the descriptions that kernels read.
func (s *scheduler) describe() error {
	for _, a := range s.actions {
		var err error
		switch a := a.(type) {
		case *prepareAction:
			a.dev, err = s.put(&a.task)
		case *attendAction:
			a.dev, err = s.put(&a.task)
		case *productAction:
			err = s.describeProducts(a)
		case *logitsAction:
			err = s.describeProducts(&a.productAction)
		}
		if err != nil {
			return err
		}
	}
	if room := taskBytes(s.p.prog); int64(len(s.tasks)) > room {
		return fmt.Errorf("gpu: task descriptions take %d bytes, %d were planned", len(s.tasks), room)
	}
	return nil
}

func (s *scheduler) describeProducts(a *productAction) error {
	s.tasks = append(s.tasks, make([]byte, -len(s.tasks)&(taskAlign-1))...)
	a.tasks = s.at + driver.DevicePtr(len(s.tasks))
	for _, st := range a.steps {
		w := st.weight
		t := gemvTaskDesc{W: w.descDev, Bias: st.vector, Y: s.p.buffers[st.Dst], Blocks: int32(w.product.gemvGrid)}
		if a.residual {
			t.Y, t.Accumulate = s.p.buffers[model.BufX], 1
		}
		b, err := structBytes(&t)
		if err != nil {
			return err
		}
		s.tasks = append(s.tasks, b...)
		a.blocks += w.product.gemvGrid
		a.shared = max(a.shared, w.product.gemvShared)
	}
	return nil
}

// put appends a description and returns its address.
func (s *scheduler) put(desc any) (driver.DevicePtr, error) {
	s.tasks = append(s.tasks, make([]byte, -len(s.tasks)&(taskAlign-1))...)
	b, err := structBytes(desc)
	at := s.at + driver.DevicePtr(len(s.tasks))
	s.tasks = append(s.tasks, b...)
	return at, err
}
