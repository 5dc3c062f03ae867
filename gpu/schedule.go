package gpu

import (
	"fmt"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// scheduler turns the program into actions. Small models spend their time starting kernels, so it joins what can be: products of
// the same input, the addition of a product to the residual stream, rotation and cache with attention, and the preparation of a
// product's input with the launch before it.
type scheduler struct {
	p       *pass
	byName  map[string]*weight
	actions []action
	tasks   []byte           // descriptions for kernels
	at      driver.DevicePtr // where they will be
	done    driver.DevicePtr // counters: of launches after which something is prepared, then of query groups
	partial driver.DevicePtr
	// what the buffers' contents still need before they can be multiplied
	pending map[model.Buffer]*prepareAction
	holds   *prepareAction       // whose vectors are the prepared ones
	ropes   map[model.Buffer]int // number of the position embedding that rotates a buffer, plus 1
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

// schedule compiles the program to the actions of p, whose buffers they refer to. Before they run, the tasks have to be uploaded.
func (p *pass) schedule(weights []*weight, tasks, partial driver.DevicePtr, caches []cachePair) (*scheduler, error) {
	s := &scheduler{p: p, byName: make(map[string]*weight, len(weights)), done: tasks,
		at:      tasks + driver.DevicePtr(allocationBytes(counterBytes(&p.prog.Config))),
		partial: partial, pending: map[model.Buffer]*prepareAction{}, ropes: map[model.Buffer]int{}}
	for _, w := range weights {
		s.byName[w.Name] = w
	}
	nodes := p.prog.Nodes
	for i := 0; i < len(nodes); {
		n, err := s.node(nodes[i:], &caches)
		if err != nil {
			return nil, err
		}
		for _, node := range nodes[i : i+n] { // overwriting the buffer invalidates its prepared vectors
			if node.Op != model.OpRMSNorm && node.Op != model.OpGLU {
				delete(s.pending, node.Dst)
			}
		}
		i += n
	}
	s.merge()
	if err := s.describe(); err != nil {
		return nil, err
	}
	p.actions = s.actions
	return s, nil
}

// upload brings the descriptions of all tasks to the device.
func (s *scheduler) upload() error {
	if err := s.p.Dev.Memset(s.done, 0, counterBytes(&s.p.prog.Config)); err != nil {
		return err
	}
	return s.p.Dev.CopyHtoD(s.at, s.tasks)
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
		s.add(&embedAction{h, s.byName[n.Weight], n.Dst, factor(n)})
	case model.OpRMSNorm:
		if n.Heads > 1 || s.p.prog.Width(n.A) != s.p.prog.Width(n.Dst) {
			return 1, s.normHeads(h, n)
		}
		a := s.prepare(h, n.A, n.Dst)
		a.task.Norm, a.task.Eps = s.byName[n.Weight].vector, n.Eps
	case model.OpGLU:
		a := s.prepare(h, n.A, n.Dst)
		a.task.Up, a.task.ActLinear, a.task.ActCubic = s.p.buffers[n.B], n.Act.Linear, n.Act.Cubic
	case model.OpAdd:
		s.add(&addAction{h, n.Dst, n.A, factor(n)})
	case model.OpRoPE:
		s.ropes[n.Dst] = n.Rope + 1
	case model.OpAttention:
		return 1, s.attend(h, n, caches)
	case model.OpShortConv, model.OpConv:
		s.conv(h, n)
	case model.OpDelta:
		s.delta(h, n)
	case model.OpGateHeads:
		s.add(&gateHeadsAction{h, n.Dst, n.A, n.Heads})
	case model.OpMatMul:
		return s.products(nodes), nil
	default:
		return 0, fmt.Errorf("%s: unknown operation %d", h.where, n.Op)
	}
	return 1, nil
}

// factor returns a node's factor, of which 0 stands for 1.
func factor(n *model.Node) float32 {
	if n.Scale == 0 {
		return 1
	}
	return n.Scale
}

// normHeads schedules the normalization of every head of a buffer, or of what each head of a wider one begins with.
func (s *scheduler) normHeads(h header, n *model.Node) error {
	heads := max(n.Heads, 1)
	if from, to := s.p.prog.Width(n.A), s.p.prog.Width(n.Dst); from%heads != 0 || to%heads != 0 || from < to {
		return fmt.Errorf("%s: %d values do not have %d normalized ones of %d heads", h.where, from, to, heads)
	}
	s.add(&normHeadsAction{header: h, a: n.A, dst: n.Dst, weight: s.byName[n.Weight].vector, heads: heads, eps: n.Eps})
	return nil
}

func (s *scheduler) add(a action) { s.actions = append(s.actions, a) }

// prepare schedules what turns buffer a into buffer dst. The caller says what that is.
func (s *scheduler) prepare(h header, a, dst model.Buffer) *prepareAction {
	p := &prepareAction{header: h, values: true}
	p.task = kernels.PrepareTask{X: s.p.buffers[a], Y: s.p.buffers[dst], Cols: int32(s.p.prog.Width(dst))}
	s.add(p)
	s.pending[dst] = p
	return p
}

// sameInput returns how many products of the same input are at the head of nodes.
func sameInput(nodes []model.Node) int {
	n := 1
	for n < len(nodes) && nodes[n].Op == model.OpMatMul && nodes[n].A == nodes[0].A && nodes[n].Dst != nodes[0].A {
		n++
	}
	return n
}

// addsToResidual tells whether add does nothing but add the result of product to the residual stream.
func addsToResidual(product, add *model.Node) bool {
	return add.Op == model.OpAdd && factor(add) == 1 && add.A == product.Dst && add.Dst == model.BufX && add.Last == product.Last
}

// products schedules the products of the same input at the head of nodes.
func (s *scheduler) products(nodes []model.Node) int {
	n := sameInput(nodes)
	used := n
	residual := n == 1 && len(nodes) > 1 && addsToResidual(&nodes[0], &nodes[1])
	if residual {
		used++
	}
	var groups []*productAction
	for i := range nodes[:n] {
		o := s.operands(&nodes[i])
		g := joinable(groups, o)
		if g == nil {
			g = &productAction{header: header{o.Weight, o.Last}, kernel: o.weight.product.gemv, input: s.p.buffers[o.A],
				residual: residual}
			if o.weight.scaledColumns() {
				g.input = s.p.scaled
			}
			groups = append(groups, g)
		}
		g.last = g.last && o.Last
		g.products = append(g.products, o)
	}
	for _, g := range groups {
		s.input(g)
		if g.products[0].Dst == model.BufLogits {
			s.add(&logitsAction{*g})
		} else {
			s.add(g)
		}
	}
	return used
}

func (s *scheduler) operands(n *model.Node) *productOperands {
	o := &productOperands{Node: n, weight: s.byName[n.Weight]}
	if n.Bias != "" {
		o.bias = s.byName[n.Bias].vector
	}
	return o
}

// scaledColumns tells whether inputs of w are to be multiplied by column scales.
func (w *weight) scaledColumns() bool { return w.Coded != nil && w.Coded.ColScale != nil }

// joinable returns the launch that o can join, which then has the kernel that does both; nil = none.
func joinable(groups []*productAction, o *productOperands) *productAction {
	for _, g := range slices.Backward(groups) {
		if kernel, ok := g.takes(o); ok {
			g.kernel = kernel
			return g
		}
	}
	return nil
}

// takes tells whether o can join the launch, and which kernel does both.
func (a *productAction) takes(o *productOperands) (kernels.ID, bool) {
	first, w := a.products[0], o.weight
	if first.weight.scaledColumns() || w.scaledColumns() || first.Dst == model.BufLogits || o.Dst == model.BufLogits {
		return 0, false
	}
	kernel, ok := mixedGemv(a.kernel, w.product.gemv)
	return kernel, ok && first.weight.desc.Tiles == w.desc.Tiles && first.weight.desc.StepsPerTile == w.desc.StepsPerTile
}

// input schedules the preparation of g's input if it is missing.
func (s *scheduler) input(g *productAction) {
	w, buf := g.products[0].weight, g.products[0].A
	a := s.pending[buf]
	if g.input == s.p.scaled {
		a = s.prepare(g.header, buf, buf)
		delete(s.pending, buf) // what is prepared is this product's only
		a.task.Y, a.task.ColScale, a.last = s.p.scaled, w.desc.ColScale, g.last
	}
	needs := false
	for _, o := range g.products {
		needs = needs || o.weight.product.prepared || o.weight.product.halfGemm
	}
	if !needs {
		return
	}
	geometry := [2]int32{w.desc.StepsPerTile, w.desc.Tiles}
	if a == nil || a.task.Side != 0 && (s.holds != a || [2]int32{a.task.StepsPerTile, a.task.Tiles} != geometry) ||
		a.last != g.last {
		// Rounding only: of what nothing computes, or once more, in another order or for other tokens.
		a = s.prepare(g.header, buf, buf)
		a.values, a.task.Y, a.last = false, 0, g.last
	}
	s.holds = a
	a.task.Xp, a.task.XpStride, a.task.Side, a.task.Done = s.p.prepared, s.p.preparedStride, s.p.side, s.done
	a.task.Steps, a.task.StepsPerTile, a.task.Tiles = w.desc.Steps, w.desc.StepsPerTile, w.desc.Tiles
	for _, o := range g.products {
		a.forGemv = a.forGemv || o.weight.product.prepared
		a.forGemm = a.forGemm || o.weight.product.halfGemm
	}
}

// merge lets launches prepare what the next action would.
func (s *scheduler) merge() {
	for i := range len(s.actions) - 1 {
		next, ok := s.actions[i+1].(*prepareAction)
		if !ok {
			continue
		}
		switch a := s.actions[i].(type) {
		case *productAction:
			if a.last != next.last {
				continue
			}
			a.after = next
		case *attendAction:
			if a.last != next.last {
				continue
			}
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
	for _, o := range a.products {
		w := o.weight
		t := kernels.GemvTask{W: w.descDev, Bias: o.bias, Y: s.p.buffers[o.Dst], Blocks: int32(w.product.gemvGrid)}
		if a.residual {
			t.Y, t.Accumulate = s.p.buffers[model.BufX], 1
		}
		b, err := structBytes(&t)
		if err != nil {
			return err
		}
		s.tasks = append(s.tasks, b...)
		a.blocks += w.product.gemvGrid
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
