package cpu

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// fusedNode is a node of the program with its weights, or several products with the same input.
type fusedNode struct {
	node     model.Node
	products []linkedProduct  // OpMatMul
	tilings  []product.Tiling // OpMatMul: quantized forms of the input that the products take
	vector   []float32        // OpRMSNorm, OpShortConv, OpConv, OpDelta
	bias     []float32        // OpDelta
	matrix   *weights.Matrix  // OpEmbed
	entry    int              // of the profile
	cache    int              // OpAttention: number of the layer's cache
	state    int              // first float of the node's part of a state
}

// linkedProduct is a product's node with its weights.
type linkedProduct struct {
	node model.Node
	m    *weights.Matrix
	bias []float32
	slot int // number of the quantized activations it takes; −1: none, a floating-point product
}

// linked is a program with its weights.
type linked struct {
	nodes    []fusedNode
	matrices []*weights.Matrix // in file order
	vectors  map[string][]float32
	caches   int // attention nodes
	state    int // floats of a sequence's state
	tables   *decode.Tables
}

// linker makes it.
type linker struct {
	linked
	prog   *model.Program
	file   *format.Reader
	decode isa.ISA
	dot    dot.Kernels
	byName map[string]*weights.Matrix
}

// link checks and prepares every tensor that the program names. Nothing is decoded yet.
func (l *linker) link(ctx context.Context) (linked, error) {
	l.tables, l.vectors, l.byName = decode.NewTables(l.file.Tables()), map[string][]float32{}, map[string]*weights.Matrix{}
	for i := range l.prog.Nodes { // first, since shapes of tensors follow from buffers
		n := &l.prog.Nodes[i]
		if n.Dst >= model.NumBuffers || n.A >= model.NumBuffers || n.B >= model.NumBuffers || n.C >= model.NumBuffers ||
			n.Layer >= l.prog.Config.NLayers {
			return linked{}, fmt.Errorf("cpu: node with operation %d names a buffer or layer that does not exist", n.Op)
		}
	}
	for _, spec := range l.prog.Tensors() {
		if err := ctx.Err(); err != nil {
			return linked{}, err
		}
		if err := l.tensor(&spec); err != nil {
			return linked{}, err
		}
	}
	for i := range l.prog.Nodes {
		if err := l.node(&l.prog.Nodes[i]); err != nil {
			return linked{}, err
		}
	}
	return l.linked, nil
}

func (l *linker) node(n *model.Node) error {
	s := fusedNode{node: *n}
	switch n.Op {
	case model.OpMatMul:
		l.product(n)
		return nil
	case model.OpEmbed:
		s.matrix = l.byName[n.Weight]
		s.matrix.IndexRows()
	case model.OpRMSNorm:
		s.vector = l.vectors[n.Weight]
	case model.OpShortConv, model.OpConv, model.OpDelta:
		s.bias = l.vectors[n.Bias]
		s.vector, s.state = l.vectors[n.Weight], l.state
		l.state += l.prog.StateFloats(n)
	case model.OpAttention:
		s.cache = l.caches
		l.caches++
	case model.OpRoPE:
		if n.Rope < 0 || n.Rope >= len(l.prog.Ropes) {
			return fmt.Errorf("cpu: node names position embedding %d of %d", n.Rope, len(l.prog.Ropes))
		}
	case model.OpGLU, model.OpAdd, model.OpGateHeads:
	default:
		return fmt.Errorf("cpu: unknown operation %d", n.Op)
	}
	l.nodes = append(l.nodes, s)
	return nil
}

// product links a product, and joins it to the one before if both have the same input: one start of the threads less.
func (l *linker) product(n *model.Node) {
	p := linkedProduct{node: *n, m: l.byName[n.Weight], bias: l.vectors[n.Bias]}
	p.m.Multiplied = true
	if k := len(l.nodes) - 1; k < 0 || l.nodes[k].node.Op != model.OpMatMul || l.nodes[k].node.A != n.A ||
		l.nodes[k].node.Dst == n.A {
		l.nodes = append(l.nodes, fusedNode{node: *n})
	}
	l.nodes[len(l.nodes)-1].join(p, l.dot)
}

// join adds a product to a node.
func (s *fusedNode) join(p linkedProduct, d dot.Kernels) {
	p.slot = -1
	if !p.m.IsFloat() {
		l := product.TilingOf(p.m, d)
		p.slot = slices.IndexFunc(s.tilings, func(o product.Tiling) bool { return o.Same(&l) })
		if p.slot < 0 {
			p.slot = len(s.tilings)
			s.tilings = append(s.tilings, l)
		}
	}
	s.products = append(s.products, p)
}

// tensor finds and verifies a tensor that the program needs, and makes it a matrix or, what is only used as one, a vector.
func (l *linker) tensor(spec *model.TensorSpec) error {
	t, ok := l.file.Tensor(spec.Name)
	if !ok {
		return fmt.Errorf("cpu: the model has no tensor %s", spec.Name)
	}
	if t.Rows != spec.Rows || t.Cols != spec.Cols {
		return fmt.Errorf("cpu: tensor %s is %d × %d, expected %d × %d", spec.Name, t.Rows, t.Cols, spec.Rows, spec.Cols)
	}
	if err := l.file.Verify(t); err != nil {
		return err
	}
	vector := spec.Vector()
	if vector && (t.Raw == nil || spec.Use&(model.UseRows|model.UseProduct) != 0) {
		return fmt.Errorf("cpu: vector %s is coded or used as a matrix, expected raw numbers", spec.Name)
	}
	m, err := weights.NewMatrix(t, l.tables, l.decode)
	if err != nil {
		return err
	}
	if vector {
		l.vectors[spec.Name] = m.Vector()
		return nil
	}
	l.byName[spec.Name] = m
	l.matrices = append(l.matrices, m)
	return nil
}

// name is what a profile calls the node: products by the kind of their weights.
func (s *fusedNode) name() string {
	if s.node.Op != model.OpMatMul {
		return s.node.Name()
	}
	var kinds []string
	for i := range s.products {
		weight := s.products[i].node.Weight
		if parts := strings.Split(weight, "."); len(parts) > 2 {
			weight = parts[len(parts)-2] // of blk.N.name.weight
		}
		kinds = append(kinds, strings.TrimSuffix(weight, ".weight"))
	}
	return strings.Join(kinds, "+")
}

// readBytes returns the bytes of weights that the node reads for one token, or for a batch of them.
func (s *fusedNode) readBytes() (n float64) {
	for i := range s.products {
		n += s.products[i].m.ReadBytes()
	}
	return n
}
