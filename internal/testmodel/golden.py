#!/usr/bin/env python3
"""Computes golden.json, what tests compare with: token ids, logits, greedy continuations and perplexities of tiny-llama.gguf
and of its qwen2 variant (variants.go), by Hugging Face's tokenizers and transformers in float32.

    pip install torch numpy tokenizers transformers gguf
    python3 golden.py
"""

import argparse
import json
import math
import pathlib
import re

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

N_GREEDY = 64
N_LOGITS = 16  # of each position, the first ones are recorded
LOGIT_POSITIONS = (0, 1, 5, -1)  # of the prompt's tokens
MIN_GAP = 0.05  # between the best two logits wherever a token is chosen
PERPLEXITY_CONTEXTS = (256, 512)

PROMPTS = {
    "llama": ["// String returns the", "type Reader struct", "// NewReader returns a new", "func (r *Reader) Read("],
    "qwen2": ["type Reader struct", "// Read reads up to", "package main\n"],
}
CHAT_PROMPTS = ["What does bufio.NewReader do?", "What does strings.TrimSpace do?", "What does io.Copy do?"]

TOKENIZER_TEXTS = [
    "",
    " ",
    "hello",
    "  two leading spaces, trailing too  ",
    "line\nbreak\r\n\r\n\n tab\t\tend\n",
    "don't I'll we've they'RE it's",
    "x := map[string][]int{\"a\": {1, 22, 333, 4444}}",
    "naïve café Größe 東京 🙂👩‍👩‍👧 e\u0301 \u00a0nbsp\u2003em",
    "٣٤٥ ½ ² Ⅷ 1_000.5e-3",
    "\x00\x01\x7f control",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start |> <|im_end|><|im_end|",
    "!!!??? ... --- ''' \"\"\" ```",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def field(reader, name):
    return reader.fields[name].contents()


def load_tokenizer(reader):
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    control = [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens(control)
    return tokenizer


def half_pairs(weight, heads):
    """From adjacent rotation pairs (2i, 2i+1) to the Hugging Face order (i, i + head_dim/2)."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def hf_name(name):
    parts = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{parts[part]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def qwen2_bias(layer, which, n):
    """The biases that variants.go adds: multiples of 1/256 in [-0.125, 0.125)."""
    return torch.tensor([(37 * i + 11 * layer + 5 * which) % 64 - 32 for i in range(n)]).float() / 256


def load_model(reader, architecture):
    key = lambda name: field(reader, "llama." + name)
    heads = {"attn_q": key("attention.head_count"), "attn_k": key("attention.head_count_kv")}
    state = {}
    for t in reader.tensors:
        value = torch.tensor(t.data).float()
        part = t.name.split(".")[2] if t.name.startswith("blk.") else ""
        state[hf_name(t.name)] = half_pairs(value, heads[part]) if part in heads else value
    head_dim = key("rope.dimension_count")
    options = dict(
        vocab_size=key("vocab_size"), hidden_size=key("embedding_length"), num_hidden_layers=key("block_count"),
        intermediate_size=key("feed_forward_length"), num_attention_heads=heads["attn_q"], num_key_value_heads=heads["attn_k"],
        max_position_embeddings=key("context_length"), rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base")},
        tie_word_embeddings=True, attn_implementation="eager", dtype=torch.float32,
    )  # fmt: skip
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(head_dim=head_dim, **options))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**options))
        for layer in range(key("block_count")):
            for which, (part, n) in enumerate((("q", heads["attn_q"]), ("k", heads["attn_k"]), ("v", heads["attn_k"]))):
                state[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = qwen2_bias(layer, which, n * head_dim)
    missing = model.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys, missing
    model.tie_weights()
    return model.eval()


def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


def reference(model, tokenizer, text, end=None):
    """Greedy continuation by full evaluation without a cache; the smallest gap between the best two logits must be safe."""
    tokens = tokenizer.encode(text).ids
    logits = logits_of(model, tokens)
    positions = sorted({p % len(tokens) for p in LOGIT_POSITIONS if -len(tokens) <= p < len(tokens)})
    records = [
        {"position": p, "argmax": int(logits[p].argmax()), "first": [round(x, 5) for x in logits[p, :N_LOGITS].tolist()]}
        for p in positions
    ]
    greedy, gap = [], math.inf
    while len(greedy) < N_GREEDY and (not greedy or greedy[-1] != end):
        best = logits_of(model, tokens + greedy)[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        greedy.append(int(best.indices[0]))
    output = tokenizer.decode(greedy, skip_special_tokens=True)
    return {"text": text, "tokens": tokens, "logits": records, "greedy": greedy, "output": output, "min_gap": round(gap, 4)}


def perplexity(model, ids, n_ctx):
    """llama.cpp's definition: disjoint windows of n_ctx tokens, of each the second half counts."""
    total, count, chunks = 0.0, 0, len(ids) // n_ctx
    for chunk in range(chunks):
        window = ids[chunk * n_ctx : (chunk + 1) * n_ctx]
        scores = logits_of(model, window)[n_ctx // 2 : -1].double().log_softmax(-1)
        total -= float(scores.gather(1, torch.tensor(window[n_ctx // 2 + 1 :])[:, None]).sum())
        count += len(scores)
    return {"n_ctx": n_ctx, "chunks": chunks, "value": round(math.exp(total / count), 5)}


def unigram_perplexity(ids, n_vocab):
    """Of the text's own token frequencies: a floor for every model that looks at no context."""
    p = torch.bincount(torch.tensor(ids), minlength=n_vocab).double() / len(ids)
    return round(float((-p * p.clamp_min(1e-300).log()).sum().exp()), 3)


def describe(model, tokenizer, prompts, held_out):
    chat = [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in CHAT_PROMPTS]
    end = tokenizer.token_to_id("<|im_end|>")
    result = {
        "prompts": [reference(model, tokenizer, p) for p in prompts],
        "chat": [{"message": m, **reference(model, tokenizer, p, end)} for m, p in zip(CHAT_PROMPTS, chat)],
        "perplexity": [perplexity(model, held_out, n) for n in PERPLEXITY_CONTEXTS],
    }
    for p in result["prompts"] + result["chat"]:
        print(f"gap {p['min_gap']} {p['text']!r} -> {p['output']!r}")
    print(result["perplexity"])
    return result


def compact(value):
    """Indented JSON with arrays of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=True)
    return re.sub(r"\[[-0-9.,e\s]+\]", lambda m: re.sub(r"\s+", "", m[0]).replace(",", ", "), text) + "\n"


@torch.no_grad()
def main():
    here = pathlib.Path(__file__).parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", type=pathlib.Path, default=here, help="folder of tiny-llama.gguf and heldout.txt; golden.json is written there")
    args = p.parse_args()
    torch.set_num_threads(2)
    reader = gguf.GGUFReader(args.dir / "tiny-llama.gguf")
    tokenizer = load_tokenizer(reader)
    held_out = tokenizer.encode((args.dir / "heldout.txt").read_text(encoding="utf-8")).ids
    golden = {
        "texts": [{"text": t, "tokens": tokenizer.encode(t).ids} for t in TOKENIZER_TEXTS],
        "held_out_tokens": len(held_out),
        "unigram_perplexity": unigram_perplexity(held_out, field(reader, "llama.vocab_size")),
    }
    for architecture, prompts in PROMPTS.items():
        golden[architecture] = describe(load_model(reader, architecture), tokenizer, prompts, held_out)
        for prompt in golden[architecture]["prompts"] + golden[architecture]["chat"]:
            assert prompt["min_gap"] > MIN_GAP, prompt["text"]
    (args.dir / "golden.json").write_text(compact(golden), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
