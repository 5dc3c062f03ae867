"""Makes quantized checkpoints of one layer, NAME.safetensors, and in quantized.json what belongs into their config.json and the
SHA-256 of every matrix that torch dequantizes them to (float32, row-major, as stored). Needs torch, numpy, safetensors.
usage: quantized.py DIR"""
import hashlib, json, sys
import numpy as np, torch
from safetensors.torch import save_file

HIDDEN, FFN, KV, VOCAB, LAYER = 48, 80, 24, 16, "model.layers.0."
MATRICES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN)}
torch.manual_seed(19)


def common():
    half = lambda *shape: torch.rand(shape).to(torch.float16)
    return {"model.embed_tokens.weight": half(VOCAB, HIDDEN), "lm_head.weight": half(VOCAB, HIDDEN), "model.norm.weight": half(HIDDEN),
            LAYER + "input_layernorm.weight": half(HIDDEN), LAYER + "post_attention_layernorm.weight": half(HIDDEN)}


def bytes_of(m, n, dtype):
    """Every finite value of the type occurs."""
    codes = torch.randint(0, 256, (m, n), dtype=torch.uint8)
    codes.view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    w = codes.view(dtype)
    return torch.where(torch.isfinite(w.to(torch.float32)), codes, torch.zeros_like(codes)).view(dtype)


def scaled(kind, dtype, scale_name="weight_scale", scale_type=torch.float32):
    """kind: tensor, channel, rows (one dimension), group or block."""
    def make(name, m, n, out):
        w = bytes_of(m, n, dtype)
        shape = {"tensor": (1,), "channel": (m, 1), "rows": (m,), "group": (m, n // 16), "block": (-(-m // 32), -(-n // 32))}[kind]
        s = (torch.rand(shape) * 0.01 + 1e-4).to(scale_type)
        out[name + ".weight"], out[name + "." + scale_name] = w, s
        out[name + ".input_scale"] = torch.ones(1)
        full = s.to(torch.float32)
        if kind == "rows":
            full = full[:, None]
        if kind == "group":
            full = full.repeat_interleave(16, 1)
        if kind == "block":
            full = full.repeat_interleave(32, 0)[:m].repeat_interleave(32, 1)[:, :n]
        return w.to(torch.float32) * full
    return make


def gptq(name, m, n, out):
    """desc_act: the groups of inputs are those of their order by activation."""
    groups, group = n // 16, 16
    g_idx = torch.empty(n, dtype=torch.int32)
    g_idx[torch.randperm(n)] = torch.arange(n, dtype=torch.int32) // group
    q, z = torch.randint(0, 16, (n, m)), torch.randint(1, 17, (groups, m))
    s = (torch.rand(groups, m) * 0.1 + 0.01).to(torch.float16)
    shifts = torch.arange(8) * 4
    pack = lambda x: (x << shifts).sum(-1).to(torch.uint32).view(torch.int32)
    out[name + ".qweight"] = pack(q.view(n // 8, 8, m).transpose(1, 2)).contiguous()
    out[name + ".qzeros"] = pack((z - 1).view(groups, m // 8, 8)).contiguous()
    out[name + ".scales"], out[name + ".g_idx"] = s, g_idx
    rows = g_idx.to(torch.long)
    return (s.to(torch.float32)[rows] * (q - z[rows]).to(torch.float32)).T.contiguous()


E4M3 = torch.float8_e4m3fn
ct = lambda strategy, kind="float", **more: {"quant_method": "compressed-tensors", "format": kind + "-quantized", "config_groups": {
    "group_0": {"targets": ["Linear"], "weights": dict({"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": True}, **more)}}}
CASES = {
    "fp8-block": (scaled("block", E4M3, "weight_scale_inv"), {"quant_method": "fp8", "weight_block_size": [32, 32]}),
    "fp8-tensor": (scaled("tensor", E4M3), ct("tensor")),
    "fp8-channel": (scaled("channel", E4M3, scale_type=torch.bfloat16), ct("channel")),
    "fp8-rows": (scaled("rows", E4M3), {"quant_method": "fbgemm_fp8"}),
    "fp8-structure": (scaled("block", E4M3), ct("block", block_structure=[32, 32])),
    "e5m2-tensor": (scaled("tensor", torch.float8_e5m2), {"quant_method": "fp8"}),
    "int8-group": (scaled("group", torch.int8, scale_type=torch.float16), ct("group", "int", group_size=16)),
    "gptq-sorted": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True, "checkpoint_format": "gptq"}),
}
result = {}
for case, (make, config) in CASES.items():
    tensors, want = common(), {}
    for name, (m, n) in MATRICES.items():
        w = make(LAYER + name, m, n, tensors)
        want[name] = hashlib.sha256(w.numpy().astype("<f4").tobytes()).hexdigest()
    save_file(tensors, f"{sys.argv[1]}/{case}.safetensors")
    result[case] = {"quantization_config": config, "want": want}
with open(f"{sys.argv[1]}/quantized.json", "w") as f:
    json.dump(result, f, indent=1)
    f.write("\n")
