package cpu

import (
	"context"
	"fmt"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// stage is a node of the program with its weights, or several products with the same input.
type stage struct {
	node     model.Node
	products []linked  // OpMatMul
	layouts  []layout  // OpMatMul: quantized forms of the input that the products take
	vector   []float32 // OpRMSNorm
	matrix   *matrix   // OpEmbed
	entry    int       // of the profile
}

// linked is a product's node with its weights.
type linked struct {
	node model.Node
	m    *matrix
	bias []float32
	slot int // number of the quantized activations it takes; −1: none, a floating-point product
}

// linker finds the tensors of a program.
type linker struct {
	b     *Backend
	known map[string]*matrix
}

// link checks and prepares every tensor that the program names. Nothing is decoded yet.
func (b *Backend) link(ctx context.Context) error {
	b.tables = decode.NewTables(b.file.Tables())
	l := &linker{b: b, known: map[string]*matrix{}}
	for i := range b.prog.Nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.node(&b.prog.Nodes[i]); err != nil {
			return err
		}
	}
	b.profile.label(b.stages)
	return b.linkRope(l)
}

func (l *linker) node(n *model.Node) error {
	b := l.b
	if n.Dst >= model.NumBuffers || n.A >= model.NumBuffers || n.B >= model.NumBuffers || n.C >= model.NumBuffers || n.Layer >= b.prog.Config.NLayers {
		return fmt.Errorf("cpu: node with operation %d names a buffer or layer that does not exist", n.Op)
	}
	s := stage{node: *n}
	var err error
	switch n.Op {
	case model.OpMatMul:
		return l.product(n)
	case model.OpEmbed:
		s.matrix, err = l.matrix(n.Weight, b.prog.Config.NVocab, b.prog.Width(n.Dst))
		if err == nil {
			s.matrix.indexRows()
		}
	case model.OpRMSNorm:
		s.vector, err = l.vector(n.Weight, b.prog.Width(n.A))
	case model.OpRoPE, model.OpAttention, model.OpSwiGLU, model.OpAdd:
	default:
		err = fmt.Errorf("cpu: unknown operation %d", n.Op)
	}
	b.stages = append(b.stages, s)
	return err
}

// product links a product, and joins it to the one before if both have the same input: one start of the threads less.
func (l *linker) product(n *model.Node) error {
	b := l.b
	m, err := l.matrix(n.Weight, b.prog.Width(n.Dst), b.prog.Width(n.A))
	if err != nil {
		return err
	}
	m.multiplied = true
	p := linked{node: *n, m: m}
	if n.Bias != "" {
		if p.bias, err = l.vector(n.Bias, m.rows); err != nil {
			return err
		}
	}
	if k := len(b.stages) - 1; k < 0 || b.stages[k].node.Op != model.OpMatMul || b.stages[k].node.A != n.A || b.stages[k].node.Dst == n.A {
		b.stages = append(b.stages, stage{node: *n})
	}
	b.stages[len(b.stages)-1].join(p)
	return nil
}

// join adds a product to a stage.
func (s *stage) join(p linked) {
	p.slot = -1
	if p.m.floats == nil {
		l := layoutOf(p.m)
		p.slot = slices.IndexFunc(s.layouts, func(o layout) bool { return o.same(&l) })
		if p.slot < 0 {
			p.slot = len(s.layouts)
			s.layouts = append(s.layouts, l)
		}
	}
	s.products = append(s.products, p)
}

// tensor returns a verified tensor of the given shape.
func (l *linker) tensor(name string, rows, cols int) (*format.Tensor, error) {
	t, ok := l.b.file.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("cpu: the model has no tensor %s", name)
	}
	if t.Rows != rows || t.Cols != cols {
		return nil, fmt.Errorf("cpu: tensor %s is %d × %d, expected %d × %d", name, t.Rows, t.Cols, rows, cols)
	}
	return t, l.b.file.Verify(t)
}

func (l *linker) matrix(name string, rows, cols int) (*matrix, error) {
	if m, ok := l.known[name]; ok {
		if m.rows != rows || m.cols != cols {
			return nil, fmt.Errorf("cpu: tensor %s is %d × %d, expected %d × %d", name, m.rows, m.cols, rows, cols)
		}
		return m, nil
	}
	t, err := l.tensor(name, rows, cols)
	if err != nil {
		return nil, err
	}
	m, err := newMatrix(t, l.b.tables, l.b.decode)
	if err != nil {
		return nil, err
	}
	l.known[name] = m
	l.b.matrices = append(l.b.matrices, m)
	return m, nil
}

// vector returns a small raw tensor as floats.
func (l *linker) vector(name string, n int) ([]float32, error) {
	t, err := l.tensor(name, 1, n)
	if err != nil {
		return nil, err
	}
	if t.Raw == nil {
		return nil, fmt.Errorf("cpu: vector %s is coded, expected raw numbers", name)
	}
	m, err := newMatrix(t, l.b.tables, l.b.decode)
	if err != nil {
		return nil, err
	}
	v := make([]float32, n)
	m.floats.widen(v, 0, 0, n)
	return v, nil
}
