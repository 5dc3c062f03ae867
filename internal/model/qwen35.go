package model

// qwen35 is Qwen 3.5 (dense, text) and its successors: three of four layers are a gated delta rule, whose queries, keys and
// values have passed a short convolution; the others are attention with gates beside the queries, of whose heads a part
// rotates. Layers for predicting several tokens are left out.
func qwen35() *Arch {
	return &Arch{Name: "qwen35", HFTypes: []string{"qwen3_5_text", "qwen3_5"}, normOffset: 1, recurrent: LayerDelta,
		hf: qwen35Names(),
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(true)}
			p.decoder(func(l int) layerOptions {
				return layerOptions{preNorm: true, qkNorm: perHead, act: SiLU(), gated: true,
					delta: p.Config.layerKind(l) == LayerDelta, ffnNorm: "post_attention_norm"}
			}, has)
		}}
}

func qwen35Names() map[string]string {
	return map[string]string{
		"post_attention_norm": "post_attention_layernorm",
		"attn_qkv":            "linear_attn.in_proj_qkv",
		"attn_gate":           "linear_attn.in_proj_z",
		"ssm_conv1d":          "linear_attn.conv1d",
		"ssm_alpha":           "linear_attn.in_proj_a",
		"ssm_beta":            "linear_attn.in_proj_b",
		"ssm_a":               "linear_attn.A_log",
		"ssm_dt.bias":         "linear_attn.dt_bias",
		deltaNorm:             "linear_attn.norm",
		"ssm_out":             "linear_attn.out_proj",
	}
}

// deltaNorm normalizes what the delta rule reads. Its weights are as they are in Hugging Face's files, unlike those of other
// norms.
const deltaNorm = "ssm_norm"

// deltaRule appends a gated delta rule. Its states need every token.
func (b *sublayers) deltaRule() {
	c := &b.p.Config
	in := b.input("attn_norm", false)
	b.product(BufIn, in, "attn_qkv", 0, false)
	b.product(BufAlpha, in, "ssm_alpha", 0, false)
	b.product(BufBeta, in, "ssm_beta", 0, false)
	b.product(BufZ, in, "attn_gate", 0, false)
	b.p.add(Node{Op: OpConv, Layer: b.l, Dst: BufMix, A: BufIn, Weight: tensor(b.l, "ssm_conv1d.weight"), Kernel: c.ConvKernel},
		Node{Op: OpDelta, Layer: b.l, Dst: BufDelta, A: BufMix, B: BufAlpha, C: BufBeta, Weight: tensor(b.l, "ssm_a"),
			Bias: tensor(b.l, "ssm_dt.bias")})
	b.norm(BufDelta, BufDelta, deltaNorm, c.DeltaValueHeads, b.last)
	b.p.add(Node{Op: OpGLU, Layer: b.l, Dst: BufZ, A: BufZ, B: BufDelta, Act: SiLU(), Last: b.last})
	b.product(BufProj, BufZ, "ssm_out", 0, b.last)
	b.output("")
}
