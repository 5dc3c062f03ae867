#!/usr/bin/env python3
"""Tables I and II of EntroLLM (arXiv 2505.02380) for any supported model, next to the paper's figures, as Markdown (docs/paper.md).

    paper.py PROGRAM MODEL --text FILE [--hellaswag FILE] [--gsm8k FILE] [--chunks N] [--tasks N] [--prompt N] [--work DIR]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

SCHEMES = {"16-bit": "bf16", "uint8": "entrollm-u8", "uint4": "entrollm-u4"}
# The paper's tables: effective bits; perplexity, HellaSwag 5-shot and GSM8K 8-shot of 16-bit, uint8, uint4.
PAPER_I = {
    "smolLM-1.7B-Instruct": ((16, 5.92, 1.57), (23.81, 23.93, 24.14), (25.87, 25.55, 25.30), None),
    "phi3-mini-4k-Instruct": ((16, 5.58, 1.39), (9.03, 9.44, 10.10), (82.2, 82.10, 81.01), (77.37, 72.84, 70.58)),
    "mistral-7B-Instruct": ((16, 5.84, 1.62), (8.17, 8.24, 8.29), (58.37, 58.33, 58.21), (52.2, 48.62, 45.36)),
}
# phi3-mini on a Jetson P3450, seconds: without and with Huffman coding.
PAPER_II = {
    "parallel decode, once": {"uint8": (None, 6.66), "uint4": (None, 1.66)},
    "pre-fill": {"uint8": (27.10, 23.17), "uint4": (9.69, 8.34)},
    "per token": {"uint8": (0.083, 0.063), "uint4": (0.062, 0.025)},
    "first token": {"uint8": (27.18, 29.89), "uint4": (9.75, 10.03)},
}


def run(*args):
    print("$", *args, file=sys.stderr, flush=True)
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if p.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}\n{p.stderr.strip()}")
    return p.stdout


def cell(x, digits=2):
    if x is None:
        return "–"
    return f"{x:.3g}" if x >= 1e5 else f"{x:.{digits}f}"


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def quality(o, file):
    """Perplexity and accuracies in percent; None for those not asked for."""
    out = {"ppl": json.loads(run(o.program, "eval", "ppl", file, "-f", o.text, "--chunks", o.chunks, "--device", o.device, "--json"))["perplexity"]}
    for name, tasks in (("hellaswag", o.hellaswag), ("gsm8k", o.gsm8k)):
        out[name] = None
        if tasks:
            r = json.loads(run(o.program, "eval", name, file, "-f", tasks, "--tasks", o.tasks, "--device", o.device, "--ctx", o.ctx, "--json"))["result"]
            accuracy = r.get("accuracy_norm", r["accuracy"])  # HellaSwag: with length normalization, as usually quoted
            out[name], out[name + " tasks"] = 100 * accuracy["value"], r["tasks"]
    return out


def latency(o, file, plan):
    """Seconds to load (with plan resident that decodes all weights), for the prompt, and per token."""
    common = (o.program, "bench", file, "--device", o.device, "--plan", plan, "--json")
    tests = json.loads(run(*common, "-r", "3", "-p", o.prompt, "-n", o.tokens))
    began = time.monotonic()
    one = json.loads(run(*common, "-r", "1", "-p", "0", "-n", "1"))
    # bench runs every test once to warm up
    load = time.monotonic() - began - 2 * one[0]["avg_ns"] / 1e9
    return {"load": max(load, 0), "prefill": tests[0]["avg_ns"] / 1e9, "token": 1 / tests[1]["avg_ts"], "device": tests[0]["device"]}


def table_1(o, files, sizes):
    print(f"\n## Table I: {o.model.name}\n")
    row("model", "measure", *SCHEMES)
    row(*["---"] * 5)
    q = {name: quality(o, f) for name, f in files.items()}
    ours = f"**{o.model.stem}**, measured"
    row(ours, "bits per weight, whole file", *(cell(sizes[n]) for n in SCHEMES))
    row(ours, f"perplexity, {o.chunks or 'all'} chunks of 512", *(cell(q[n]["ppl"]) for n in SCHEMES))
    for name, title in (("hellaswag", "HellaSwag 5-shot, %"), ("gsm8k", "GSM8K 8-shot, %")):
        count = q["16-bit"].get(name + " tasks")
        row(ours, title + (f" ({count} tasks)" if count else ""), *(cell(q[n][name]) for n in SCHEMES))
    for model, (bits, *rest) in PAPER_I.items():
        for title, values in zip(("effective bits", "perplexity, WikiText-2", "HellaSwag 5-shot, %", "GSM8K 8-shot, %"), (bits, *rest)):
            row(f"*{model}*, the paper", title, *(cell(values[i] if values else None) for i in range(3)))


def table_2(o, files):
    print("\n## Table II, seconds\n")
    t = {(n, plan): latency(o, files[n], plan) for n in ("uint8", "uint4") for plan in ("resident", "fused")}
    print(f"{t['uint8', 'resident']['device']}; a prompt of {o.prompt} tokens, {o.tokens} tokens generated.\n")
    row("", "stage", "uint8 decoded once", "uint8 fused", "uint4 decoded once", "uint4 fused")
    row(*["---"] * 6)
    keys = [(n, plan) for n in ("uint8", "uint4") for plan in ("resident", "fused")]
    ours = f"**{o.model.stem}**, measured"
    row(ours, "load (with decoding, once)", *(cell(t[k]["load"], 3) for k in keys))
    row(ours, "pre-fill", *(cell(t[k]["prefill"], 3) for k in keys))
    row(ours, "per token", *(cell(t[k]["token"], 4) for k in keys))
    row(ours, "first token: the sum", *(cell(t[k]["load"] + t[k]["prefill"] + t[k]["token"], 3) for k in keys))
    print()
    row("", "stage", "uint8 without coding", "uint8 with", "uint4 without coding", "uint4 with")
    row(*["---"] * 6)
    for stage, values in PAPER_II.items():
        row("*phi3-mini on a Jetson P3450*, the paper", stage, *(cell(x, 3) for n in ("uint8", "uint4") for x in values[n]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program", type=pathlib.Path)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--text", required=True, type=pathlib.Path)
    p.add_argument("--hellaswag", type=pathlib.Path)
    p.add_argument("--gsm8k", type=pathlib.Path)
    p.add_argument("--chunks", type=int, default=0, help="of the text; 0: all")
    p.add_argument("--tasks", type=int, default=0, help="scored of each file; 0: all")
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("--ctx", type=int, default=2048, help="tokens for tasks with their examples")
    p.add_argument("--device", default="auto")
    p.add_argument("--only", choices=("quality", "latency"))
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("models/paper"))
    o = p.parse_args()
    o.work.mkdir(parents=True, exist_ok=True)
    files, sizes = {}, {}
    for name, scheme in SCHEMES.items():
        files[name] = o.work / f"{o.model.stem}.{scheme}.ellm"
        sizes[name] = json.loads(run(o.program, "compress", o.model, "--scheme", scheme, "-o", files[name], "--json"))["bits_per_weight"]
    print(f"# EntroLLM's tables for {o.model.name}")
    if o.only != "latency":
        table_1(o, files, sizes)
    if o.only != "quality":
        table_2(o, files)


if __name__ == "__main__":
    main()
