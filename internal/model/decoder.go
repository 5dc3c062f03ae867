package model

// noRope as layerOptions.rope: queries and keys are not rotated.
const noRope = -1

// layerOptions says how a layer is built. The zero value has no normalization at all.
type layerOptions struct {
	preNorm  bool   // normalize the input of a sublayer
	postNorm bool   // normalize the output of a sublayer before it is added to the residual stream
	qkNorm   qkNorm // normalize queries and keys
	biases   biases // which products have them
	rope     int    // index into Program.Ropes, or noRope
	window   int    // positions that a token sees; 0 = all
	act      Act    // of the feed-forward network
	conv     bool   // a gated short convolution in place of attention
	delta    bool   // a gated delta rule in place of attention
	gated    bool   // what attention reads is multiplied by gates, which are beside the queries
	ffnNorm  string // of the feed-forward network's input; empty: "ffn_norm"
}

// qkNorm is what queries and keys are normalized by.
type qkNorm uint8

const (
	noQKNorm qkNorm = iota
	perHead         // every head by itself
	whole           // all heads of a token together
)

// biases is a set of products.
type biases uint8

const (
	qkvBias   biases = 1 << iota // queries, keys and values
	outBias                      // output projection of attention
	ffnBiases                    // all three of the feed-forward network
)

// decoder appends the decoder that Llama and its relatives are: per layer, grouped-query attention and a gated feed-forward
// network, each added to the residual stream. layer describes the layers.
func (p *Program) decoder(layer func(l int) layerOptions, has func(tensor string) bool) {
	c := &p.Config
	p.add(Node{Op: OpEmbed, Layer: -1, Dst: BufX, Weight: TokenEmbd, Scale: c.EmbedScale})
	for l := range c.NLayers {
		b := sublayers{p: p, l: l, o: layer(l), last: l == c.NLayers-1}
		switch {
		case b.o.conv:
			b.shortConv()
		case b.o.delta:
			b.deltaRule()
		default:
			b.attention()
		}
		b.feedForward()
	}
	head := Output
	if !has(Output) {
		head = TokenEmbd
	}
	scale := float32(0)
	if c.LogitScale != 0 {
		scale = 1 / c.LogitScale
	}
	p.add(Node{Op: OpRMSNorm, Layer: -1, Dst: BufNorm, A: BufX, Weight: p.outputNorm(), Eps: c.NormEps, Last: true},
		Node{Op: OpMatMul, Layer: -1, Dst: BufLogits, A: BufNorm, Weight: head, Scale: scale, SoftCap: c.LogitSoftCap, Last: true})
}

// sublayers appends the two halves of a layer.
type sublayers struct {
	p    *Program
	l    int
	o    layerOptions
	last bool // after the last layer's cache write, only tokens with logits are needed
}

// norm appends a normalization of a to dst, of heads separately if heads > 1.
func (b *sublayers) norm(dst, a Buffer, name string, heads int, last bool) {
	b.p.add(Node{Op: OpRMSNorm, Layer: b.l, Dst: dst, A: a, Weight: tensor(b.l, name+".weight"), Heads: heads,
		Eps: b.p.Config.NormEps, Last: last})
}

// product appends a product, with a bias if the layer has those of the given set.
func (b *sublayers) product(dst, a Buffer, name string, set biases, last bool) {
	n := Node{Op: OpMatMul, Layer: b.l, Dst: dst, A: a, Weight: tensor(b.l, name+".weight"), Last: last}
	if b.o.biases&set != 0 {
		n.Bias = tensor(b.l, name+".bias")
	}
	b.p.add(n)
}

// input appends the normalization of the residual stream, if there is one, and returns the buffer that the sublayer reads.
func (b *sublayers) input(name string, last bool) Buffer {
	if !b.o.preNorm {
		return BufX
	}
	b.norm(BufNorm, BufX, name, 0, last)
	return BufNorm
}

// output appends the addition of BufProj to the residual stream.
func (b *sublayers) output(name string) {
	if b.o.postNorm {
		b.norm(BufProj, BufProj, name, 0, b.last)
	}
	b.p.add(Node{Op: OpAdd, Layer: b.l, Dst: BufX, A: BufProj, Scale: b.p.Config.ResidualScale, Last: b.last})
}

func (b *sublayers) attention() {
	c := &b.p.Config
	in := b.input("attn_norm", false)
	q := BufQ // or also gates
	if b.o.gated {
		q = BufQueryGate
	}
	b.product(q, in, "attn_q", qkvBias, b.last)
	b.product(BufK, in, "attn_k", qkvBias, false)
	b.product(BufV, in, "attn_v", qkvBias, false)
	switch b.o.qkNorm {
	case perHead:
		b.norm(BufQ, q, "attn_q_norm", c.NHeads, b.last)
		b.norm(BufK, BufK, "attn_k_norm", c.NKVHeads, false)
	case whole:
		b.norm(BufQ, BufQ, "attn_q_norm", 0, b.last)
		b.norm(BufK, BufK, "attn_k_norm", 0, false)
	}
	if b.o.rope != noRope {
		b.p.add(Node{Op: OpRoPE, Layer: b.l, Dst: BufQ, Rope: b.o.rope, Last: b.last},
			Node{Op: OpRoPE, Layer: b.l, Dst: BufK, Rope: b.o.rope})
	}
	b.p.add(Node{Op: OpAttention, Layer: b.l, Dst: BufAttn, A: BufQ, B: BufK, C: BufV, Scale: c.attnScale(), SoftCap: c.AttnSoftCap,
		Window: b.o.window, Temperature: c.Temperature, TemperatureCtx: c.RopeCtx, Last: b.last})
	if b.o.gated {
		b.p.add(Node{Op: OpGateHeads, Layer: b.l, Dst: BufAttn, A: BufQueryGate, Heads: c.NHeads, Last: b.last})
	}
	b.product(BufProj, BufAttn, "attn_output", outBias, b.last)
	b.output("post_attention_norm")
}

func (b *sublayers) feedForward() {
	name := "ffn_norm"
	if b.o.ffnNorm != "" {
		name = b.o.ffnNorm
	}
	in := b.input(name, b.last)
	b.product(BufGate, in, "ffn_gate", ffnBiases, b.last)
	b.product(BufUp, in, "ffn_up", ffnBiases, b.last)
	b.p.add(Node{Op: OpGLU, Layer: b.l, Dst: BufGate, A: BufGate, B: BufUp, Act: b.o.act, Last: b.last})
	b.product(BufProj, BufGate, "ffn_down", ffnBiases, b.last)
	b.output("post_ffw_norm")
}
