#!/usr/bin/env python3
"""Makes the tiny models of families/: per family a config.json, the GGUF file that llama.cpp's converter makes of it, and reference results.

    pip install torch numpy transformers sentencepiece
    python3 families.py --llama-cpp DIR [--server DIR/build/bin/llama-server] [FAMILY ...]

Weights are no random numbers but a hash of the tensor's name and the element's index (see values, and families.go, which computes the same), so a
Hugging Face directory can be written without storing them. Results are those of transformers in float32, with keys and values rounded to float16 and without: logits of two prompts, and what a greedy
search continues. llama.cpp's source is needed for its converter; with --server its tokens and probabilities are compared, too.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

N_VOCAB = 288
N_GREEDY = 16
MIN_GAP = 0.05  # between the best two logits wherever a token is chosen
SHORT, LONG = 24, 80  # tokens of the prompts
POSITIONS = {"short": (0, 5, 23), "long": (0, 17, 63, 64, 79)}

COMMON = dict(
    vocab_size=N_VOCAB, hidden_size=64, intermediate_size=80, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)  # fmt: skip
WIDE = dict(COMMON, hidden_size=48, head_dim=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64)
GEMMA = dict(COMMON, hidden_size=48, head_dim=32, intermediate_size=48, tie_word_embeddings=True, query_pre_attn_scalar=32)


def rope(kind="default", theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


FAMILIES = {
    "llama": ("llama", dict(WIDE, attention_bias=True, mlp_bias=True, rope_parameters=rope(
        "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "mistral": ("mistral", dict(WIDE, sliding_window=24, rope_parameters=rope())),
    "qwen2": ("qwen2", dict(COMMON, rope_parameters=rope(theta=1000000.0))),
    "qwen3": ("qwen3", dict(WIDE, tie_word_embeddings=True, rope_parameters=rope(theta=1000000.0))),
    "gemma2": ("gemma2", dict(GEMMA, num_hidden_layers=4, sliding_window=24, attn_logit_softcapping=20.0, final_logit_softcapping=10.0,
        hidden_activation="gelu_pytorch_tanh", rope_parameters=rope())),
    "gemma3": ("gemma3_text", dict(GEMMA, num_hidden_layers=7, sliding_window=24, hidden_activation="gelu_pytorch_tanh", rope_parameters={
        "full_attention": rope("linear", 1000000.0, factor=8.0), "sliding_attention": rope()})),
    "phi3": ("phi3", dict(COMMON, sliding_window=None, original_max_position_embeddings=64, partial_rotary_factor=0.75, rope_parameters=rope(
        "longrope", long_factor=[1.0 + 0.5 * i for i in range(12)], short_factor=[1.0 + 0.03125 * i for i in range(12)],
        original_max_position_embeddings=64, partial_rotary_factor=0.75))),
    "smollm3": ("smollm3", dict(COMMON, num_hidden_layers=4, intermediate_size=48, tie_word_embeddings=True, no_rope_layer_interval=4, rope_parameters=rope(theta=2000000.0))),
    "granite": ("granite", dict(COMMON, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.0625, logits_scaling=4.0,
        rope_parameters=rope())),
    "olmo2": ("olmo2", dict(COMMON, rope_parameters=rope(theta=500000.0))),
    "exaone4": ("exaone4", dict(COMMON, sliding_window=None, layer_types=["full_attention"] * 3, rope_parameters=rope(theta=1000000.0))),
    "ministral3": ("ministral3", dict(WIDE, rope_parameters=rope("yarn", 1000000.0, factor=16.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
        mscale_all_dim=1.0, original_max_position_embeddings=16, llama_4_scaling_beta=0.1))),
    "lfm2": ("lfm2", dict(COMMON, hidden_size=48, intermediate_size=64, num_hidden_layers=5, tie_word_embeddings=True, norm_eps=1e-5, block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention", "conv", "full_attention", "conv"], rope_parameters=rope(theta=1000000.0))),
    "qwen35": ("qwen3_5_text", dict(COMMON, hidden_size=48, intermediate_size=64, head_dim=32, num_hidden_layers=5, tie_word_embeddings=True,
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention", "linear_attention"], linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=16, linear_value_head_dim=16, rope_parameters=rope(theta=10000000.0, partial_rotary_factor=0.25))),
}  # fmt: skip


def hashes(name, n):
    """A byte for every element: the top bits of splitmix64 started from the FNV-1a hash of the name."""
    seed = 0xCBF29CE484222325
    for b in name.encode():
        seed = (seed ^ b) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(56)).astype(np.int64)


def values(name, shape, norm_offset):
    """Multiples of powers of two that float16 holds. Matrices: about 1.5/sqrt(columns) in size; vectors: within a quarter of 0 (biases) or 1."""
    x = hashes(name, math.prod(shape)) - 128
    if name.endswith(("dt_bias", "A_log")):  # states last for some tokens, and for as many as the biases say
        return (x / 64 - (2 if name.endswith("A_log") else 0)).astype(np.float16)
    if len(shape) == 1:
        return (x / 512 + (0 if name.endswith("bias") else 1 - norm_offset)).astype(np.float16)
    scale = 2.0 ** (round(math.log2(3 / math.sqrt(shape[-1]))) - 7)
    return (x * scale).astype(np.float16).reshape(shape)


def state_of(model, norm_offset):
    tied = getattr(model, "_tied_weights_keys", None) or []
    state = {}
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        state[name] = values(name, tuple(p.shape), 0 if "linear_attn.norm" in name else norm_offset)
    return state


def prompt(n, seed):
    return [3 + (37 * i * i + (11 + seed) * i + 5 * seed) % 250 for i in range(n)]


class HalfCache(DynamicCache):
    """Rounds keys and values to float16, as the cache of the tested program does."""

    def update(self, keys, values, *args, **kwargs):
        return super().update(keys.half().float(), values.half().float(), *args, **kwargs)


def logits_of(model, ids, half=True):
    hybrid = set(getattr(model.config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}  # the cache has states, too
    cache = HalfCache(config=model.config) if hybrid else HalfCache()
    return model(torch.tensor([ids]), use_cache=half, past_key_values=cache if half else None).logits[0]


def greedy(model, ids):
    """The tokens that a greedy search appends, and the smallest gap between the best two logits on the way."""
    out, gap = [], math.inf
    while len(out) < N_GREEDY:
        best = logits_of(model, ids + out)[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        out.append(int(best.indices[0]))
    return out, gap


@torch.no_grad()
def results(model):
    """Of the first prompts whose greedy path is clear-cut."""
    out = {}
    for name, n in (("short", SHORT), ("long", LONG)):
        for seed in range(1, 100):
            ids = prompt(n, seed)
            tokens, gap = greedy(model, ids)
            if gap > MIN_GAP:
                break
        logits, exact = logits_of(model, ids), logits_of(model, ids, half=False)
        short = lambda row: [float(f"{x:.6g}") for x in row.tolist()]
        rows = [{"position": p, "logits": short(logits[p]), "float32": short(exact[p])} for p in POSITIONS[name]]
        out[name] = {"tokens": ids, "rows": rows, "greedy": tokens, "min_gap": round(gap, 5)}
    return out


def byte_tokens():
    """Three special tokens, the byte-level alphabet of GPT-2, one merged token, and fillers."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, extra = {b: chr(b) for b in visible}, 0
    for b in range(256):
        if b not in chars:
            chars[b] = chr(256 + extra)
            extra += 1
    tokens = ["<pad>", "<s>", "</s>"] + [chars[b] for b in range(256)] + [chars[32] + "t"]
    return tokens + [f"<unused{i}>" for i in range(N_VOCAB - len(tokens))]


def convert(llama_cpp, hf_dir, out):
    """llama.cpp's converter, with the byte-level vocabulary in place of what it expects of each family."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import ModelBase, get_model_class

    def set_vocab(self):
        tokens = byte_tokens()
        types = [gguf.TokenType.CONTROL if i < 3 or i >= 260 else gguf.TokenType.NORMAL for i in range(N_VOCAB)]
        w = self.gguf_writer
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(tokens)
        w.add_token_types(types)
        w.add_token_merges(["\u0120 t"])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_bos_token(False)

    hparams = ModelBase.load_hparams(hf_dir, False)
    cls = get_model_class(hparams["architectures"][0])
    cls.set_vocab, cls.no_mtp = set_vocab, True  # transformers makes no layers for predicting several tokens
    (hf_dir / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {t: i for i, t in enumerate(byte_tokens())}}, "added_tokens": []}))
    with torch.inference_mode():
        cls(hf_dir, gguf.LlamaFileType.MOSTLY_F16, out, model_name="tiny").write()


def witness(server, path, reference):
    """What llama.cpp generates from the GGUF file, compared with the reference."""
    p = subprocess.Popen([server, "-m", str(path), "--port", "18555", "-c", "256", "-np", "1", "--no-warmup", "-fa", "off", "-ctk", "f32", "-ctv", "f32"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    url, report = "http://127.0.0.1:18555", {}
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(url + "/health")
                break
            except OSError:
                if p.poll() is not None:
                    return {"loads": False}
                time.sleep(0.1)
        for name, r in reference.items():
            ask = {"prompt": r["tokens"], "n_predict": N_GREEDY, "temperature": 0, "return_tokens": True, "n_probs": N_VOCAB, "cache_prompt": False, "ignore_eos": False,
                   "post_sampling_probs": False}  # fmt: skip
            q = urllib.request.Request(url + "/completion", json.dumps(ask).encode(), {"Content-Type": "application/json"})
            a = json.load(urllib.request.urlopen(q))
            if not a.get("completion_probabilities"):
                return {"answer": str(a)[:200]}
            want = torch.tensor(r["rows"][-1]["logits"]).log_softmax(-1)
            got = {t["id"]: t["logprob"] for t in a["completion_probabilities"][0]["top_logprobs"]}
            report[name] = {"same_tokens": a["tokens"] == r["greedy"][: len(a["tokens"])], "tokens": len(a["tokens"]), "log_probability_difference": round(max(abs(float(want[i]) - x) for i, x in got.items()), 5), "of": len(got)}
    finally:
        p.kill()
        p.wait()
    return report


def make(family, args):
    kind, options = FAMILIES[family]
    config = AutoConfig.for_model(kind, **options)
    config.architectures = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    norm_offset = 1 if family.startswith(("gemma", "qwen35")) else 0
    state = state_of(model, norm_offset)
    missing = model.load_state_dict({k: torch.tensor(v).float() for k, v in state.items()}, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
    model.tie_weights()
    out = args.out / family
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        hf_dir = pathlib.Path(tmp)
        config.architectures = [type(model).__name__]
        config.save_pretrained(hf_dir)
        save_file(state, hf_dir / "model.safetensors", metadata={"format": "pt"})
        (out / "config.json").write_bytes((hf_dir / "config.json").read_bytes())
        convert(args.llama_cpp, hf_dir, out / "model.gguf")
    reference = results(model)
    report = {"tensors": {k: list(v.shape) for k, v in state.items()}, "norm_offset": norm_offset, "results": reference}
    text = re.sub(r"\[[-0-9.,e\s]+\]", lambda m: re.sub(r"\s+", "", m[0]), json.dumps(report, indent=1)) + "\n"
    (out / "golden.json").write_text(text, encoding="ascii", newline="\n")
    gaps = {k: v["min_gap"] for k, v in reference.items()}
    print(family, "gaps", gaps, "llama.cpp", witness(args.server, out / "model.gguf", reference) if args.server else "not asked", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("families", nargs="*", metavar="FAMILY")
    p.add_argument("--llama-cpp", type=pathlib.Path, required=True, help="llama.cpp's source")
    p.add_argument("--server", help="llama-server, to compare with")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "families")
    args = p.parse_args()
    torch.set_num_threads(2)
    for family in args.families or FAMILIES:
        make(family, args)


if __name__ == "__main__":
    main()
