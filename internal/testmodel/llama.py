"""A Llama decoder in PyTorch, in the layout of Hugging Face checkpoints, small enough to train on a CPU."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    n_vocab: int = 1024
    n_embd: int = 128
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    n_ff: int = 352  # not a multiple of 64: the last step of a coded row is half padding
    n_ctx: int = 512
    norm_eps: float = 1e-5
    rope_base: float = 10000.0


def rotary(config: Config, length: int):
    """cos and sin, length × head_dim/2; dimension i of a head is paired with i + head_dim/2."""
    freq = config.rope_base ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    angle = torch.outer(torch.arange(length).float(), freq)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        linear = lambda n_in, n_out: nn.Linear(n_in, n_out, bias=False)
        self.attn_norm = nn.RMSNorm(c.n_embd, c.norm_eps)
        self.attn_q = linear(c.n_embd, c.n_heads * c.head_dim)
        self.attn_k = linear(c.n_embd, c.n_kv_heads * c.head_dim)
        self.attn_v = linear(c.n_embd, c.n_kv_heads * c.head_dim)
        self.attn_output = linear(c.n_heads * c.head_dim, c.n_embd)
        self.ffn_norm = nn.RMSNorm(c.n_embd, c.norm_eps)
        self.ffn_gate = linear(c.n_embd, c.n_ff)
        self.ffn_up = linear(c.n_embd, c.n_ff)
        self.ffn_down = linear(c.n_ff, c.n_embd)

    def forward(self, x, cos, sin):
        c, (batch, length, _) = self.c, x.shape
        heads = lambda y: y.view(batch, length, -1, c.head_dim).transpose(1, 2)
        h = self.attn_norm(x)
        q, k, v = rotate(heads(self.attn_q(h)), cos, sin), rotate(heads(self.attn_k(h)), cos, sin), heads(self.attn_v(h))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_output(a.transpose(1, 2).reshape(batch, length, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """Input: token ids, batch × length. Output: logits, batch × length × n_vocab. The head is the embedding, transposed."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.n_vocab, c.n_embd)
        self.blk = nn.ModuleList(Layer(c) for _ in range(c.n_layers))
        self.output_norm = nn.RMSNorm(c.n_embd, c.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                last = "attn_output" in name or "ffn_down" in name
                nn.init.normal_(p, std=0.05 / (2 * c.n_layers) ** 0.5 if last else 0.05)

    def forward(self, tokens):
        cos, sin = rotary(self.c, tokens.shape[1])
        x = self.token_embd(tokens)
        for layer in self.blk:
            x = layer(x, cos, sin)
        return F.linear(self.output_norm(x), self.token_embd.weight)
