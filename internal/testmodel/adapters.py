#!/usr/bin/env python3
"""Makes adapters/: per family what PEFT stores for a LoRA adapter (configuration, names and shapes of tensors), and the logits of the
model that PEFT merges it into. The adapters' weights are values() of their names, as the models' are (families.py).

    pip install torch numpy transformers peft
    python3 adapters.py [FAMILY ...]
"""
import json, pathlib, re, sys, tempfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from families import FAMILIES, SHORT, logits_of, prompt, state_of, values

LINEAR = "all-linear"
CASES = {
    "llama": dict(target_modules=LINEAR, r=4, lora_alpha=1, bias="lora_only"),
    "mistral": dict(target_modules=LINEAR, r=4, lora_alpha=0.5, use_rslora=True),
    "qwen2": dict(target_modules=LINEAR, r=2, lora_alpha=0.5, rank_pattern={"down_proj": 3, r"model.layers.[01].self_attn.q_proj": 5},
                  alpha_pattern={"mlp.up_proj": 1.5}),
    "qwen3": dict(target_modules=LINEAR, r=2, lora_alpha=0.5, use_dora=True),
    "gemma2": dict(target_modules=["q_proj", "v_proj"], r=3, lora_alpha=1, modules_to_save=["norm"]),
    "gemma3": dict(target_modules=["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"], r=2, lora_alpha=0.5, layers_to_transform=[0, 5]),
    "phi3": dict(target_modules=LINEAR, r=2, lora_alpha=0.5),
    "smollm3": dict(target_modules=LINEAR, r=2, lora_alpha=0.25, use_dora=True, use_rslora=True),
    "granite": dict(target_modules=["embed_tokens", "lm_head", "k_proj"], r=2, lora_alpha=0.5),
    "olmo2": dict(target_modules=["o_proj", "gate_proj", "lm_head"], r=2, lora_alpha=0.5, fan_in_fan_out=True),
    "exaone4": dict(target_modules=LINEAR, r=2, lora_alpha=0.5),
    "ministral3": dict(target_modules=LINEAR, r=1, lora_alpha=0.25),
    "lfm2": dict(target_modules=["q_proj", "k_proj", "v_proj", "in_proj", "out_proj", "w1", "w2", "w3"], r=2, lora_alpha=0.5),
    "qwen35": dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], r=2, lora_alpha=0.5),
}


def base(family):
    kind, options = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options), dtype=torch.float32, attn_implementation="eager").eval()
    state = state_of(model, 1 if family.startswith(("gemma", "qwen35")) else 0)
    model.load_state_dict({k: torch.tensor(v).float() for k, v in state.items()}, strict=False)
    model.tie_weights()
    return model


@torch.no_grad()
def make(family, options, out):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        get_peft_model(base(family), LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained(tmp)
        stored = load_file(tmp / "adapter_model.safetensors")
        shapes = {name: list(t.shape) for name, t in sorted(stored.items())}
        save_file({name: values(name, tuple(s), 0) for name, s in shapes.items()}, tmp / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.loads((tmp / "adapter_config.json").read_text())
        plain = base(family)
        ids = prompt(SHORT, 1)
        before = logits_of(plain, ids)
        merged = PeftModel.from_pretrained(plain, tmp).merge_and_unload()
    logits = logits_of(merged, ids)
    rows = [{"position": p, "logits": [float(f"{x:.6g}") for x in logits[p].tolist()]} for p in (0, 23)]
    moved = float((logits - before).pow(2).sum() / before.pow(2).sum())
    print(family, len(shapes), "tensors; the logits moved by", round(moved, 3), flush=True)
    assert 0.01 < moved
    text = re.sub(r"\[[-0-9.,e\s]+\]", lambda m: re.sub(r"\s+", "", m[0]),
                  json.dumps({"config": config, "tensors": shapes, "tokens": ids, "rows": rows}, indent=1)) + "\n"
    (out / f"{family}.json").write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    out = pathlib.Path(__file__).with_name("adapters")
    out.mkdir(exist_ok=True)
    for family in sys.argv[1:] or CASES:
        make(family, CASES[family], out)
