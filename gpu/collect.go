package gpu

import (
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
		n := &c.prog.Nodes[i]
		if n.Dst == model.BufLogits && (n.Op != model.OpMatMul || !n.Last) || n.A == model.BufLogits || n.B == model.BufLogits {
			return fmt.Errorf("forward pass: node %d: logits come from a product for the last tokens and nothing else uses them", i)
		}
		if err := c.node(n); err != nil {
			return err
		}
	}
	for _, w := range c.weights {
		if w.use&useVector != 0 {
			continue
		}
		if err := w.describe(c.file.Tables()); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) checkConfig() error {
	k := &c.prog.Config
	switch {
	case k.HeadDim < 8 || k.HeadDim > maxHeadDim || k.HeadDim%8 != 0:
		return fmt.Errorf("heads of %d dimensions; the GPU's attention takes multiples of 8 up to %d (use --device cpu)", k.HeadDim, maxHeadDim)
	case k.RopeDim < 0 || k.RopeDim > k.HeadDim || k.RopeDim%2 != 0:
		return fmt.Errorf("rope_dim is %d with heads of %d dimensions", k.RopeDim, k.HeadDim)
	case k.NKVHeads < 1 || k.NHeads < 1 || k.NHeads%k.NKVHeads != 0:
		return fmt.Errorf("%d query heads do not share %d key heads", k.NHeads, k.NKVHeads)
	}
	for b := range model.NumBuffers {
		if w := c.prog.Width(b); w < 1 || w > format.MaxRows {
			return fmt.Errorf("activation buffer %d has %d values per token, expected 1 to %d", b, w, format.MaxRows)
		}
	}
	return nil
}

// node registers the tensors of a node and checks their shapes.
func (c *collector) node(n *model.Node) error {
	dst := c.prog.Width(n.Dst)
	switch n.Op {
	case model.OpEmbed:
		return c.tensor(n.Weight, useEmbed, c.prog.Config.NVocab, dst)
	case model.OpRMSNorm:
		return c.tensor(n.Weight, useVector, 1, dst)
	case model.OpMatMul:
		if n.Bias != "" {
			if err := c.tensor(n.Bias, useVector, 1, dst); err != nil {
				return err
			}
		}
		return c.tensor(n.Weight, useProduct, dst, c.prog.Width(n.A))
	case model.OpAttention:
		c.caches++
	case model.OpRoPE, model.OpSwiGLU, model.OpAdd:
	default:
		return fmt.Errorf("forward pass: the GPU does not know operation %d", n.Op)
	}
	return nil
}

func (c *collector) tensor(name string, u use, rows, cols int) error {
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
	w.use |= u
	if w.Rows != rows || w.Cols != cols {
		return fmt.Errorf("%s: tensor %s is %d × %d, the model needs %d × %d", c.file.Path(), name, w.Rows, w.Cols, rows, cols)
	}
	if w.use&useVector != 0 && (w.Raw == nil || w.use != useVector) {
		return fmt.Errorf("%s: tensor %s is a vector, but coded or used as a matrix", c.file.Path(), name)
	}
	if w.Coded != nil && len(w.Coded.Coding.Values) > 0 && len(w.Coded.Outliers) > 0 {
		return fmt.Errorf("%s: tensor %s has both a list of values and outliers", c.file.Path(), name)
	}
	return nil
}
