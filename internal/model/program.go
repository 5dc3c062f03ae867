package model

// Op is an operation of the forward pass.
type Op uint8

const (
	OpEmbed     Op = iota // Dst[t] = row token[t] of Weight
	OpRMSNorm             // Dst = A / rms(A) * Weight
	OpMatMul              // Dst = Weight · A (+ Bias)
	OpRoPE                // rotate Dst in place, heads of HeadDim, by position
	OpAttention           // append B (keys) and C (values) to the layer's cache; Dst = causal attention of queries A
	OpSwiGLU              // Dst = silu(A) * B
	OpAdd                 // Dst += A
)

// Buffer names an activation of one token; Program.Width gives its number of floats.
type Buffer uint8

const (
	BufX      Buffer = iota // residual stream
	BufNorm                 // normalized input of a block
	BufQ                    // queries
	BufK                    // keys
	BufV                    // values
	BufAttn                 // attention output before the output projection
	BufProj                 // a block's output before it is added to the residual stream
	BufGate                 // feed-forward gate; SwiGLU writes its product here
	BufUp                   // feed-forward up
	BufLogits               // one score per vocabulary entry
	NumBuffers
)

// Node is one operation with its operands.
type Node struct {
	Op           Op
	Layer        int // −1 outside the layers
	Dst, A, B, C Buffer
	Weight       string // GGUF tensor name
	Bias         string // GGUF tensor name, or empty
	Last         bool   // needed only for tokens whose logits are wanted
}

// Program is the forward pass of a model, in order of execution.
type Program struct {
	Config Config
	// RopeNeox says how a head's dimensions pair up for rotation: i with i + RopeDim/2 (true), or 2i with 2i + 1 (false).
	RopeNeox bool
	// RopeFreqs names a tensor of RopeDim/2 divisors of the rotation frequencies (Llama 3), or is empty.
	RopeFreqs string
	Nodes     []Node
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
	return 0
}
