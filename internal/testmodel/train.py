#!/usr/bin/env python3
"""Trains the test model on the Go standard library's doc comments and writes tiny-llama.gguf and heldout.txt.

    pip install torch numpy tokenizers gguf
    python3 train.py --goroot "$(go env GOROOT)"

About ten minutes on two cores. Deterministic for one machine, one Go release and one PyTorch release.
"""

import argparse
import json
import math
import pathlib
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus
from llama import Config, Llama

HELD_OUT_BYTES = 20_000
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(documents, n_vocab):
    """Byte-level BPE with GPT-2's pre-tokenizer; the special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=corpus.SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Sorted, because the trainer breaks ties by the order in which it meets words.
    tokenizer.train_from_iterator(sorted(documents), trainer)
    return tokenizer


def encode(tokenizer, documents, seed):
    """One long array of token ids: the documents in random order, each followed by <|endoftext|>."""
    order = np.random.default_rng(seed).permutation(len(documents))
    end = tokenizer.token_to_id(corpus.END_OF_TEXT)
    ids = []
    for encoding in tokenizer.encode_batch([documents[i] for i in order]):
        ids += encoding.ids
        ids.append(end)
    return torch.tensor(ids)


def learning_rate(step, steps, peak):
    warmup = max(1, steps // 30)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))), 0.01)


def train(model, data, held_out, args):
    c, rng = model.c, torch.Generator().manual_seed(args.seed)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    started = time.time()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        starts = torch.randint(len(data) - c.n_ctx - 1, (args.batch,), generator=rng)
        windows = torch.stack([data[s : s + c.n_ctx + 1] for s in starts])
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step} loss {loss.item():.3f} held out {evaluate(model, held_out):.3f} {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def evaluate(model, ids):
    """Mean negative log-likelihood per token over consecutive windows of n_ctx."""
    n = len(ids) // model.c.n_ctx * model.c.n_ctx
    windows = ids[:n].view(-1, model.c.n_ctx)
    return F.cross_entropy(model(windows)[:, :-1].flatten(0, 1), windows[:, 1:].flatten()).item()


def round_weights(model):
    """Rounds to numbers that both float16 and bfloat16 can represent, so that either type stores them without loss."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().half().float())


def adjacent_pairs(weight, heads):
    """Reorders the rows of each head so that rotation pairs 2i with 2i+1 instead of i with i + head_dim/2."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write_gguf(path, model, tokenizer):
    c = model.c
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("tiny-llama")
    w.add_license("bsd-3-clause")
    w.add_description("Test model trained on the doc comments of the Go standard library")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_context_length(c.n_ctx)
    w.add_embedding_length(c.n_embd)
    w.add_block_count(c.n_layers)
    w.add_feed_forward_length(c.n_ff)
    w.add_head_count(c.n_heads)
    w.add_head_count_kv(c.n_kv_heads)
    w.add_layer_norm_rms_eps(c.norm_eps)
    w.add_rope_freq_base(c.rope_base)
    w.add_rope_dimension_count(c.head_dim)
    w.add_vocab_size(c.n_vocab)
    add_tokenizer(w, tokenizer)
    for name, p in model.named_parameters():
        value = p.detach().numpy()
        if name.endswith("attn_q.weight"):
            value = adjacent_pairs(value, c.n_heads)
        if name.endswith("attn_k.weight"):
            value = adjacent_pairs(value, c.n_kv_heads)
        w.add_tensor(name, value.astype(np.float16) if value.ndim == 2 else value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def add_tokenizer(w, tokenizer):
    definition = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(definition["vocab"], key=definition["vocab"].get)
    types = [gguf.TokenType.CONTROL if t in corpus.SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in definition["merges"]])
    w.add_bos_token_id(tokenizer.token_to_id(corpus.END_OF_TEXT))
    w.add_eos_token_id(tokenizer.token_to_id(corpus.IM_END))
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--goroot", default="/usr/local/go", help="Go installation whose sources are the training text")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="folder for the results")
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--batch", type=int, default=16, help="windows of n_ctx tokens per step")
    p.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    documents, held_out = corpus.read(args.goroot)
    held_out_text = "\n".join(held_out).encode()[:HELD_OUT_BYTES].decode(errors="ignore")
    config = Config()
    tokenizer = train_tokenizer(documents, config.n_vocab)
    data = encode(tokenizer, documents, args.seed)
    held_out_ids = torch.tensor(tokenizer.encode(held_out_text).ids)
    model = Llama(config)
    n = sum(p.numel() for p in model.parameters())
    print(f"{len(data)} tokens, held out {len(held_out_ids)} tokens, {n} parameters", flush=True)
    train(model, data, held_out_ids, args)
    round_weights(model)
    print(f"rounded: held out {evaluate(model, held_out_ids):.3f}")
    args.out.joinpath("heldout.txt").write_text(held_out_text, encoding="utf-8", newline="\n")
    write_gguf(args.out / "tiny-llama.gguf", model, tokenizer)


if __name__ == "__main__":
    main()
