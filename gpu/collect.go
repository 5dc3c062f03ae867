package gpu

import (
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// maxHeadDim is the largest head that the attention kernel takes.
const maxHeadDim = 256

// collector finds the tensors of a program and checks that the kernels can run it.
type collector struct {
	file    *format.Reader
	prog    *model.Program
	byName  map[string]*weight
	weights []*weight
	caches  int // attention nodes
}

func (c *collector) collect() error {
	if err := c.checkConfig(); err != nil {
		return err
	}
	for i := range c.prog.Nodes {
		if err := c.node(&c.prog.Nodes[i]); err != nil {
			return fmt.Errorf("forward pass: node %d: %w", i, err)
		}
	}
	for _, spec := range c.prog.Tensors() {
		if spec.Use == model.UseDivisors { // rotationFreqs reads them
			continue
		}
		if err := c.tensor(&spec); err != nil {
			return err
		}
	}
	for _, w := range c.weights {
		if w.use&model.UseVector != 0 {
			continue
		}
		if err := w.describe(c.file.Tables()); err != nil {
			return err
		}
	}
	return nil
}

// node checks a node and counts its caches.
func (c *collector) node(n *model.Node) error {
	if n.Dst == model.BufLogits && (n.Op != model.OpMatMul || !n.Last) || n.A == model.BufLogits || n.B == model.BufLogits {
		return errors.New("logits come from a product for the last tokens and nothing else uses them")
	}
	switch n.Op {
	case model.OpAttention:
		c.caches++
	case model.OpShortConv, model.OpConv:
		return checkConv(c.prog, n)
	case model.OpDelta:
		return checkDelta(c.prog, n)
	case model.OpGateHeads:
		return checkGateHeads(c.prog, n)
	case model.OpEmbed, model.OpRMSNorm, model.OpMatMul, model.OpRoPE, model.OpGLU, model.OpAdd:
	default:
		return fmt.Errorf("the GPU does not know operation %d", n.Op)
	}
	return nil
}

func (c *collector) checkConfig() error {
	k := &c.prog.Config
	switch {
	case k.HeadDim < 8 || k.HeadDim > maxHeadDim || k.HeadDim%8 != 0:
		return fmt.Errorf("heads of %d dimensions; the GPU's attention takes multiples of 8 up to %d (use --device cpu)", k.HeadDim,
			maxHeadDim)
	case k.NKVHeads < 1 || k.NHeads < 1 || k.NHeads%k.NKVHeads != 0:
		return fmt.Errorf("%d query heads do not share %d key heads", k.NHeads, k.NKVHeads)
	}
	for i := range c.prog.Ropes {
		if d := c.prog.Ropes[i].Dim; d < 0 || d > k.HeadDim || d%2 != 0 {
			return fmt.Errorf("rotation of %d dimensions of heads of %d", d, k.HeadDim)
		}
	}
	for b := range model.NumBuffers {
		unused := b >= model.BufIn && b != model.BufLogits // by most models
		if w := c.prog.Width(b); w < 1 && !unused || w > format.MaxRows {
			return fmt.Errorf("activation buffer %d has %d values per token, expected 1 to %d", b, w, format.MaxRows)
		}
	}
	return nil
}

// tensor registers a tensor that the program needs and checks its shape.
func (c *collector) tensor(spec *model.TensorSpec) error {
	name := spec.Name
	w := c.byName[name]
	if w == nil {
		t, ok := c.file.Tensor(name)
		if !ok {
			return fmt.Errorf("%s: tensor %s is missing", c.file.Path(), name)
		}
		w = &weight{Tensor: t}
		c.byName[name] = w
		c.weights = append(c.weights, w)
	}
	w.use |= spec.Use
	if w.Rows != spec.Rows || w.Cols != spec.Cols {
		return fmt.Errorf("%s: tensor %s is %d × %d, the model needs %d × %d", c.file.Path(), name, w.Rows, w.Cols, spec.Rows,
			spec.Cols)
	}
	if w.use&model.UseVector != 0 && (w.Raw == nil || w.use != model.UseVector) {
		return fmt.Errorf("%s: tensor %s is a vector, but coded or used as a matrix", c.file.Path(), name)
	}
	if w.Coded != nil && len(w.Coded.Coding.Values) > 0 && len(w.Coded.Outliers) > 0 {
		return fmt.Errorf("%s: tensor %s has both a list of values and outliers", c.file.Path(), name)
	}
	return nil
}
