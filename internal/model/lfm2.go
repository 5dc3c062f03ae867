package model

// embeddingNorm is what LFM2's files call the norm before the output matrix.
const embeddingNorm = "token_embd_norm.weight"

// lfm2 is LFM2 and LFM2.5 (dense): most layers are gated short convolutions over time, the others attention with queries and keys
// normalized per head (Amini et al., LFM2 Technical Report, 2025, arXiv 2511.23404).
func lfm2() *Arch {
	return &Arch{Name: "lfm2", HFTypes: []string{"lfm2"}, recurrent: LayerConv, outputNorm: embeddingNorm, hf: lfm2Names(),
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(true)}
			p.decoder(func(l int) layerOptions {
				return layerOptions{preNorm: true, qkNorm: perHead, act: SiLU(), conv: p.Config.layerKind(l) == LayerConv,
					window: p.Config.windowOf(l)}
			}, has)
		}}
}

func lfm2Names() map[string]string {
	return map[string]string{
		embeddingNorm: "model.embedding_norm.weight",

		"attn_norm":          "operator_norm",
		"attn_output":        "self_attn.out_proj",
		"attn_q_norm":        "self_attn.q_layernorm",
		"attn_k_norm":        "self_attn.k_layernorm",
		"shortconv.in_proj":  "conv.in_proj",
		"shortconv.conv":     "conv.conv",
		"shortconv.out_proj": "conv.out_proj",
		"ffn_norm":           "ffn_norm",
		"ffn_gate":           "feed_forward.w1",
		"ffn_up":             "feed_forward.w3",
		"ffn_down":           "feed_forward.w2",
	}
}

// shortConv appends a gated short convolution. Its state needs every token.
func (b *sublayers) shortConv() {
	in := b.input("attn_norm", false)
	b.product(BufIn, in, "shortconv.in_proj", 0, false)
	b.p.add(Node{Op: OpShortConv, Layer: b.l, Dst: BufMix, A: BufIn, Weight: tensor(b.l, "shortconv.conv.weight"),
		Kernel: b.p.Config.ConvKernel})
	b.product(BufProj, BufMix, "shortconv.out_proj", 0, b.last)
	b.output("post_attention_norm")
}
