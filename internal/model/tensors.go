package model

import (
	"fmt"
	"strings"
)

// Use is a set of ways in which a tensor is used.
type Use uint8

const (
	UseRows     Use = 1 << iota // rows are looked up by token
	UseProduct                  // a matrix that multiplies vectors
	UseVector                   // one row of factors or summands
	UseDivisors                 // one row that Rope.Frequencies takes
)

// TensorSpec is a tensor that a program uses.
type TensorSpec struct {
	Name       string // GGUF's
	HF         string // Hugging Face's; empty if its files do not have the tensor
	Rows, Cols int    // vectors: Rows = 1
	Use        Use
	// HeadDim > 0: the rows (of a vector: elements) are heads of HeadDim dimensions, which GGUF has in the order of rotated pairs
	// (2i, 2i + 1) and Hugging Face as halves (i, i + HeadDim/2).
	HeadDim int
	Offset  float32 // what Hugging Face's values lack
	Decay   bool    // Hugging Face's values are logarithms of the negatives
	Tiled   Tiled
	// Kernel > 0: model files have the vector as a matrix of Kernel columns, a row per channel: weights of a convolution.
	Kernel int
	Fused  Fused // for matrices: where else model files may have the rows
}

// Tiled says how the value heads of a delta rule are ordered. GGUF has head h at key head h mod KeyHeads; Hugging Face has the
// heads of a key head side by side. The zero value is for tensors and models where both are the same.
type Tiled struct {
	First    int  // row (of a vector: element; with Columns: column) from which on there are heads
	Size     int  // rows of a head
	KeyHeads int  // 0: there is no other order
	Each     int  // value heads per key head
	Columns  bool // columns are ordered, and not rows
}

// Stored returns where row i of GGUF's order is in Hugging Face's.
func (t *Tiled) Stored(i int) int {
	if t.KeyHeads == 0 || i < t.First {
		return i
	}
	head, at := (i-t.First)/t.Size, (i-t.First)%t.Size
	return t.First + (head%t.KeyHeads*t.Each+head/t.KeyHeads)*t.Size + at
}

// tiled returns the order of a tensor with value heads of the given size from `first` on.
func (p *Program) tiled(first, size int, columns bool) Tiled {
	c := &p.Config
	if c.DeltaKeyHeads == 0 || c.DeltaValueHeads == c.DeltaKeyHeads {
		return Tiled{}
	}
	return Tiled{First: first, Size: size, KeyHeads: c.DeltaKeyHeads, Each: c.DeltaValueHeads / c.DeltaKeyHeads, Columns: columns}
}

// tiledConv returns the order of the weights of a convolution.
func (p *Program) tiledConv(n *Node) Tiled {
	c := &p.Config
	return p.tiled(2*c.DeltaKeyHeads*c.DeltaKeyDim*n.Kernel, c.DeltaValueDim*n.Kernel, false)
}

// tiledIn returns the order of a product's matrix.
func (p *Program) tiledIn(n *Node) Tiled {
	c := &p.Config
	switch {
	case n.Dst == BufIn && c.DeltaKeyHeads > 0:
		return p.tiled(2*c.DeltaKeyHeads*c.DeltaKeyDim, c.DeltaValueDim, false)
	case n.Dst == BufZ:
		return p.tiled(0, c.DeltaValueDim, false)
	case n.Dst == BufAlpha || n.Dst == BufBeta:
		return p.tiled(0, 1, false)
	case n.A == BufZ:
		return p.tiled(0, c.DeltaValueDim, true)
	}
	return Tiled{}
}

// Fused is a tensor of a model file that joins the rows of several: queries, keys and values, or gate and up.
type Fused struct {
	Name, HF    string // GGUF's and Hugging Face's names; empty if there is none
	First, Rows int    // first of the rows there, and rows of the whole
}

// Tensors returns every tensor that the program uses, once each: in order of first use, but frequency divisors after the
// embedding and biases after the other tensors of their layer. A tensor that is used in two shapes appears once for each.
func (p *Program) Tensors() []TensorSpec {
	l := &tensorList{p: p, index: map[TensorSpec]int{}}
	var biases []TensorSpec
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if i > 0 && p.Nodes[i-1].Layer != n.Layer {
			l.add(biases...)
			biases = nil
		}
		switch n.Op {
		case OpEmbed:
			l.add(TensorSpec{Name: n.Weight, Rows: p.Config.NVocab, Cols: p.Width(n.Dst), Use: UseRows})
			for _, r := range p.Ropes {
				for _, name := range []string{r.Divisors, r.ShortDivisors} {
					if name != "" {
						l.add(TensorSpec{Name: name, Rows: 1, Cols: r.Dim / 2, Use: UseDivisors})
					}
				}
			}
		case OpRMSNorm:
			offset := p.normOffset()
			if strings.HasSuffix(n.Weight, deltaNorm+".weight") {
				offset = 0
			}
			l.add(TensorSpec{Name: n.Weight, Rows: 1, Cols: p.Width(n.Dst) / max(n.Heads, 1), Use: UseVector, Offset: offset})
		case OpDelta:
			heads := p.Config.DeltaValueHeads
			l.add(TensorSpec{Name: n.Weight, Rows: 1, Cols: heads, Use: UseVector, Decay: true,
				Tiled: p.tiled(0, 1, false)})
			l.add(TensorSpec{Name: n.Bias, Rows: 1, Cols: heads, Use: UseVector, Tiled: p.tiled(0, 1, false)})
		case OpShortConv, OpConv:
			l.add(TensorSpec{Name: n.Weight, Rows: 1, Cols: p.Width(n.Dst) * n.Kernel, Use: UseVector, Kernel: n.Kernel,
				Tiled: p.tiledConv(n)})
		case OpMatMul:
			head := 0
			if p.arch != nil && p.arch.adjacentPairs && (n.Dst == BufQ || n.Dst == BufK) {
				head = p.Config.HeadDim
			}
			rows := p.Width(n.Dst)
			l.add(TensorSpec{Name: n.Weight, Rows: rows, Cols: p.Width(n.A), Use: UseProduct, HeadDim: head, Fused: p.fusedIn(n),
				Tiled: p.tiledIn(n)})
			if n.Bias != "" {
				biases = append(biases, TensorSpec{Name: n.Bias, Rows: 1, Cols: rows, Use: UseVector, HeadDim: head})
			}
		}
	}
	l.add(biases...)
	return l.specs
}

func (p *Program) normOffset() float32 {
	if p.arch == nil {
		return 0
	}
	return p.arch.normOffset
}

// fusedIn returns the tensor that may hold the rows of product n.
func (p *Program) fusedIn(n *Node) Fused {
	if p.arch == nil || n.Layer < 0 {
		return Fused{}
	}
	rows := map[Buffer]int{BufQ: 0, BufK: p.Width(BufQ), BufV: p.Width(BufQ) + p.Width(BufK), BufGate: 0, BufUp: p.Width(BufGate)}
	first, ok := rows[n.Dst]
	f := Fused{First: first}
	switch {
	case !ok:
		return Fused{}
	case n.Dst == BufGate || n.Dst == BufUp:
		f.Name, f.Rows = tensor(n.Layer, "ffn_up.weight"), p.Width(BufGate)+p.Width(BufUp)
		f.HF = hfLayer(n.Layer, "mlp.gate_up_proj.weight")
	default:
		f.Name, f.Rows = tensor(n.Layer, "attn_qkv.weight"), p.Width(BufQ)+p.Width(BufK)+p.Width(BufV)
		f.HF = hfLayer(n.Layer, "self_attn.qkv_proj.weight")
	}
	return f
}

// tensorList joins the uses of tensors.
type tensorList struct {
	p     *Program
	specs []TensorSpec
	index map[TensorSpec]int // by name and shape
}

func (l *tensorList) add(specs ...TensorSpec) {
	for _, s := range specs {
		key := TensorSpec{Name: s.Name, Rows: s.Rows, Cols: s.Cols}
		if i, ok := l.index[key]; ok {
			l.specs[i].Use |= s.Use
			continue
		}
		if l.p.arch != nil {
			s.HF = l.p.arch.HFName(s.Name)
		}
		l.index[key] = len(l.specs)
		l.specs = append(l.specs, s)
	}
}

// Vector reports whether the tensor has one dimension.
func (s *TensorSpec) Vector() bool { return s.Use&(UseVector|UseDivisors) != 0 }

// Shape returns the rows and columns that model files have, and whether it is one-dimensional there.
func (s *TensorSpec) Shape() (rows, cols int, vector bool) {
	if s.Kernel > 0 {
		return s.Cols / s.Kernel, s.Kernel, false
	}
	return s.Rows, s.Cols, s.Vector()
}

// Check compares a tensor's shape in a model file with what the model's configuration implies.
func (s *TensorSpec) Check(rows, cols int, vector bool) error {
	if r, c, v := s.Shape(); rows != r || cols != c || vector != v {
		return fmt.Errorf("tensor %s has %d rows of %d columns, expected %d of %d by the model's configuration", s.Name, rows,
			cols, r, c)
	}
	return nil
}
