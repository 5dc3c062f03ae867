package model

import "fmt"

// Op is an operation of the forward pass.
type Op uint8

const (
	OpEmbed     Op = iota // Dst = Scale · row token of Weight
	OpRMSNorm             // Dst = A / √(mean(A²) + Eps) · Weight, by Heads equal parts of A or what of each Weight covers
	OpMatMul              // Dst = Weight · A (+ Bias); the logits are then multiplied by Scale and bounded by SoftCap
	OpRoPE                // rotate the heads of Dst, of HeadDim dimensions, in place by their position and Program.Ropes[Rope]
	OpAttention           // append B (keys) and C (values) to the layer's cache; Dst = causal attention of queries A within Window
	OpGLU                 // Dst = Act(A) · B
	OpAdd                 // Dst += Scale · A
	// Of A's thirds b, c and x: Dst = c · Σ Weight[k] · (b·x) of Kernel positions up to the present one, by channel; those
	// before the sequence's first are 0
	OpShortConv
	OpConv      // Dst = silu(Σ Weight[k] · A) of Kernel positions up to the present one, by channel
	OpDelta     // gated delta rule: see Program.StateFloats
	OpGateHeads // Dst *= σ(gates): the second halves of A's Heads equal parts
	NumOps
)

// operations says of each operation what it is called and which buffers it reads.
var operations = [NumOps]struct {
	name  string
	reads func(n *Node) []Buffer
}{
	OpEmbed:     {"embed", func(*Node) []Buffer { return nil }},
	OpRMSNorm:   {"rmsnorm", func(n *Node) []Buffer { return []Buffer{n.A} }},
	OpMatMul:    {"matmul", func(n *Node) []Buffer { return []Buffer{n.A} }},
	OpRoPE:      {"rope", func(n *Node) []Buffer { return []Buffer{n.Dst} }},
	OpAttention: {"attention", func(n *Node) []Buffer { return []Buffer{n.A, n.B, n.C} }},
	OpGLU:       {"glu", func(n *Node) []Buffer { return []Buffer{n.A, n.B} }},
	OpAdd:       {"add", func(n *Node) []Buffer { return []Buffer{n.A, n.Dst} }},
	OpShortConv: {"shortconv", func(n *Node) []Buffer { return []Buffer{n.A} }},
	OpConv:      {"conv", func(n *Node) []Buffer { return []Buffer{n.A} }},
	OpDelta:     {"delta", func(n *Node) []Buffer { return []Buffer{n.A, n.B, n.C} }},
	OpGateHeads: {"gateheads", func(n *Node) []Buffer { return []Buffer{n.A, n.Dst} }},
}

// String returns the operation's name: "rmsnorm".
func (o Op) String() string {
	if o >= NumOps {
		return fmt.Sprintf("operation %d", uint8(o))
	}
	return operations[o].name
}

// Buffer names an activation of one token; Program.Width gives its number of floats.
type Buffer uint8

const (
	BufX         Buffer = iota // residual stream
	BufNorm                    // normalized input of a sublayer
	BufQ                       // queries
	BufK                       // keys
	BufV                       // values
	BufAttn                    // attention output before the output projection
	BufProj                    // a sublayer's output before it is added to the residual stream
	BufGate                    // feed-forward gate; OpGLU writes its product here
	BufUp                      // feed-forward up
	BufIn                      // input projections of a layer with a state
	BufMix                     // what such a layer makes of them before the output projection
	BufQueryGate               // of every head the query, and the gate of what it attends to
	BufZ                       // gate of what the delta rule reads; OpGLU writes its product here
	BufAlpha                   // its decay, before the bias
	BufBeta                    // how much of a value it writes, before the sigmoid
	BufDelta                   // what it reads
	BufLogits                  // one score per vocabulary entry
	NumBuffers
)

// Act is the activation of a gated linear unit: x · σ(x · (Linear + Cubic·x²)) with σ(y) = 1 / (1 + exp(−y)).
type Act struct{ Linear, Cubic float32 }

// SiLU is x · σ(x) (Elfwing et al., 2017).
func SiLU() Act { return Act{Linear: 1} }

// GELU is the approximation x · (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2 (Hendrycks and Gimpel, 2016), which is x · σ(2·√(2/π)·(x
// + 0.044715·x³)).
func GELU() Act {
	const linear = 1.5957691216057308 // 2·√(2/π)
	return Act{Linear: linear, Cubic: linear * 0.044715}
}

// Node is one operation with its operands and parameters. Parameters that the operation does not have are zero.
type Node struct {
	Op           Op
	Layer        int // −1 outside the layers
	Dst, A, B, C Buffer
	Weight       string // GGUF tensor name
	Bias         string // GGUF tensor name, or empty
	Last         bool   // needed only for tokens whose logits are wanted

	Heads  int     // OpRMSNorm: parts of A that are normalized separately by the same Weight; 0 = 1
	Eps    float32 // OpRMSNorm
	Rope   int     // OpRoPE: index into Program.Ropes
	Act    Act     // OpGLU
	Window int     // OpAttention: positions that a token sees, itself included; 0 = all
	Scale  float32 // OpAttention: factor on products of queries and keys; OpEmbed, OpAdd, logits: factor, 0 = 1
	// OpAttention: queries at position p are scaled by 1 + Temperature·ln(1 + ⌊p/TemperatureCtx⌋); 0 = they are not
	Temperature    float32
	TemperatureCtx int
	Kernel         int     // OpShortConv, OpConv: positions
	SoftCap        float32 // OpAttention, logits: bound c of scores, which become c·tanh(score/c); 0 = none
}

// Reads returns the buffers whose content n uses, in the order of its operands; of an unknown operation none.
func (n *Node) Reads() []Buffer {
	if n.Op >= NumOps {
		return nil
	}
	return operations[n.Op].reads(n)
}

// Name returns the name of n's operation; a gated linear unit is named by its activation (Shazeer, GLU variants improve
// transformer, 2020).
func (n *Node) Name() string {
	switch {
	case n.Op != OpGLU:
		return n.Op.String()
	case n.Act == SiLU():
		return "swiglu"
	}
	return "geglu"
}

// Program is the forward pass of a model, in order of execution.
type Program struct {
	Config Config
	Ropes  []Rope // that OpRoPE nodes name by index
	Nodes  []Node
	arch   *Arch
}

// Width returns the number of float32 values that buffer b holds per token.
func (p *Program) Width(b Buffer) int {
	c := &p.Config
	switch b {
	case BufX, BufNorm, BufProj:
		return c.NEmbd
	case BufQ, BufAttn:
		return c.NHeads * c.HeadDim
	case BufK, BufV:
		return c.NKVHeads * c.HeadDim
	case BufGate, BufUp:
		return c.NFF
	case BufLogits:
		return c.NVocab
	}
	return c.stateWidth(b)
}

// stateWidth returns the width of a buffer that only models with a state have.
func (c *Config) stateWidth(b Buffer) int {
	delta := c.DeltaValueHeads > 0
	switch b {
	case BufIn:
		if delta || c.Layers == "" {
			return c.stateWidth(BufMix)
		}
		return 3 * c.NEmbd
	case BufMix:
		switch {
		case delta:
			return 2*c.DeltaKeyHeads*c.DeltaKeyDim + c.stateWidth(BufDelta)
		case c.Layers == "":
			return 0
		}
		return c.NEmbd
	case BufQueryGate:
		if delta {
			return 2 * c.NHeads * c.HeadDim
		}
	case BufZ, BufDelta:
		return c.DeltaValueHeads * c.DeltaValueDim
	case BufAlpha, BufBeta:
		return c.DeltaValueHeads
	}
	return 0
}

// StateFloats returns the float32 values of node n's state, which it has per sequence; 0 for operations without one. The state
// of a short convolution is the products b·x of the last Kernel − 1 positions, the oldest first: [Kernel − 1][channel]; that
// of OpConv the last inputs likewise.
//
// That of OpDelta is a matrix S of each value head, [head][key dimension][value dimension], float32. A has the queries and
// keys of key heads and the values, B what gives the decay d = exp(Weight · ln(1 + exp(B + Bias))), C what gives β = σ(C).
// With keys k and queries q brought to length 1, and q divided by the root of their dimension, S becomes d·S + k·(β·(v −
// (d·S)ᵀ·k))ᵀ, and Dst = Sᵀ·q (Yang et al., Gated Delta Networks, 2024, arXiv 2412.06464).
func (p *Program) StateFloats(n *Node) int {
	switch n.Op {
	case OpShortConv, OpConv:
		return (n.Kernel - 1) * p.Width(n.Dst)
	case OpDelta:
		return p.Width(n.Dst) * p.Config.DeltaKeyDim
	}
	return 0
}

// NormEpsDelta is added to the squared lengths of OpDelta's queries and keys.
const NormEpsDelta = 1e-6

// Count returns how many nodes of an operation the program has.
func (p *Program) Count(op Op) (n int) {
	for i := range p.Nodes {
		if p.Nodes[i].Op == op {
			n++
		}
	}
	return n
}

// Recurrent reports whether the program has operations with a state: then a sequence goes on only from a position whose state has
// been kept.
func (p *Program) Recurrent() bool {
	for i := range p.Nodes {
		if p.StateFloats(&p.Nodes[i]) > 0 {
			return true
		}
	}
	return false
}

func (p *Program) add(nodes ...Node) { p.Nodes = append(p.Nodes, nodes...) }
