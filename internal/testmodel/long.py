#!/usr/bin/env python3
"""Makes long.json: logits of families.py's models at positions far beyond their trained context, for every kind of position embedding.

    pip install torch numpy transformers
    python3 long.py

The text is prompt(n, 1). Models whose layers all have a window also go to position 40,000, since their time is linear in it.
"""
import json, pathlib
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from families import FAMILIES, HalfCache, prompt, state_of

KINDS = {"qwen2": "plain", "llama": "frequency divisors of Llama 3", "ministral3": "YaRN", "phi3": "LongRoPE", "mistral": "window",
         "gemma3": "window in most layers"}  # fmt: skip
POSITIONS = (10, 1000, 5000)
FAR = {"mistral": (40000,)}
CHUNK = 500  # tokens at a time
LOGITS = 96  # the first ones


@torch.no_grad()
def rows_of(family):
    kind, options = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options), dtype=torch.float32, attn_implementation="eager").eval()
    state = state_of(model, 1 if family.startswith("gemma") else 0)
    model.load_state_dict({k: torch.tensor(v).float() for k, v in state.items()}, strict=False)
    model.tie_weights()
    positions = POSITIONS + FAR.get(family, ())
    ids, cache, rows = prompt(positions[-1] + 1, 1), HalfCache(config=model.config), []
    # LongRoPE takes its divisors by the length of what a call sees: the first call must be longer than the original context.
    for at in range(0, len(ids), CHUNK):
        logits = model(torch.tensor([ids[at : at + CHUNK]]), use_cache=True, past_key_values=cache).logits[0]
        rows += [{"position": p, "logits": [float(f"{x:.6g}") for x in logits[p - at, :LOGITS].tolist()]} for p in positions
                 if at <= p < at + CHUNK]  # fmt: skip
    return rows


if __name__ == "__main__":
    lines = []
    for family, what in KINDS.items():
        lines.append(f'"{family}": ' + json.dumps(rows_of(family), separators=(",", ":")))
        print(family, what, flush=True)
    pathlib.Path(__file__).with_name("long.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii", newline="\n")
