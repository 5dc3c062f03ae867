"""Compares ellm-gpu with llama.cpp on the same weights; llama_cpp.sh tells what and how."""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics state that",
    "Q: What is 17 + 25?\nA:",
]
N_TOKENS = 64
TIE = 1e-2  # logits closer than this count as equal
CANDIDATES = 20


def run(command):
    # Without this, llama.cpp's threads spin for each other on a busy machine.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def peer_text(args, model, prompt):
    """The peer's greedy continuation. It appends two line ends, after a mark if the model ended its text."""
    command = [f"{args.peer}/llama-completion", "-m", model, "-p", prompt, "-n", str(N_TOKENS), "--temp", "0", "-no-cnv",
               "--no-display-prompt", "--no-warmup", "-t", str(os.cpu_count()), "-c", "512", "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
    text = run(command).stdout.removesuffix("\n\n")
    return text.removesuffix(" [end of text]\n").removesuffix(" [end of text]")


def our_result(args, model, prompt):
    command = [args.ellm, "run", model, "--raw", "-p", prompt, "-n", str(N_TOKENS), "--temp", "0", "--ctx", "512", "--json",
               "--logprobs", str(CANDIDATES), "--device", args.device]
    return json.loads(run(command).stdout)


def first_difference(ours, peer):
    """Index of the first of our tokens that does not continue the peer's text, or None. Pieces of runes are compared as bytes."""
    at, peer_bytes = 0, peer.encode()
    shown = ours["text"].encode()
    if shown == peer_bytes:
        return None
    for i, step in enumerate(ours["steps"]):
        chosen = next(c for c in step["candidates"] if c["token"] == ours["tokens"][i])
        piece = chosen["text"].encode()
        if peer_bytes[at:at + len(piece)] != piece or shown[at:at + len(piece)] != piece:
            return i, at
        at += len(piece)
    return len(ours["steps"]), at


def compare_prompt(args, model, peers, prompt):
    ours = our_result(args, model, prompt)
    result = {"prompt": prompt, "tokens": len(ours["tokens"]), "device": ours["device"], "plan": ours["plan"]}
    for name, peer_model in peers.items():
        result[name] = difference(ours, peer_text(args, peer_model, prompt))
    return result


def difference(ours, peer):
    first = first_difference(ours, peer)
    if first is None:
        return {"same": True}
    step, at = first
    result = {"same": False, "same_tokens": step, "ours": ours["text"][-80:], "peer": peer[-80:]}
    if step < len(ours["steps"]):
        result.update(gap(ours["steps"][step]["candidates"], peer.encode()[at:]))
    return result


def gap(candidates, rest):
    """How far below our best candidate the one is that the peer chose: the longest that continues its text."""
    best = candidates[0]
    fitting = [c for c in candidates if c["text"] and rest.startswith(c["text"].encode())]
    if not fitting:
        return {"explained": False, "why": f"the peer's token is not among our {len(candidates)} best"}
    theirs = max(fitting, key=lambda c: len(c["text"].encode()))
    d = best["logit"] - theirs["logit"]
    return {"explained": d <= TIE, "logit_gap": d, "our_token": best["text"], "peer_token": theirs["text"]}


def perplexities(args, model):
    ours = json.loads(run([args.ellm, "eval", "ppl", model, "-f", args.text, "--ctx", "512", "--chunks", str(args.chunks),
                           "--device", args.device, "--json"]).stdout)
    done = run([f"{args.peer}/llama-perplexity", "-m", args.model, "-f", args.text, "-c", "512", "--chunks", str(args.chunks),
                "-t", str(os.cpu_count())])
    found = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", done.stdout + done.stderr)
    if not found:
        sys.exit("llama-perplexity printed no final estimate:\n" + (done.stdout + done.stderr)[-2000:])
    peer = float(found[1])
    return {"text": os.path.basename(args.text), "n_ctx": 512, "chunks": ours["chunks"], "ours": ours["perplexity"], "ours_stderr": ours["stderr"],
            "peer": peer, "relative_difference": ours["perplexity"] / peer - 1}


def machine():
    model, cores = "unknown CPU", os.cpu_count()
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {cores} cores"


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--ellm", required=True)
    p.add_argument("peer")
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--chunks", type=int, default=40)
    p.add_argument("--device", default="cpu")
    p.add_argument("--no-as-is", action="store_true")
    p.add_argument("--no-ppl", action="store_true")
    p.add_argument("--out")
    return p.parse_args()


def main():
    args = parse_args()
    name = os.path.basename(args.model).removesuffix(".gguf")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as tmp:
        model, peers = f"{tmp}/{name}.ellm", {"f32": f"{tmp}/{name}.f32.gguf"}
        run([args.ellm, "compress", args.model, "-o", model, "--lossless"])
        run([f"{args.peer}/llama-quantize", "--allow-requantize", args.model, peers["f32"], "F32"])
        if not args.no_as_is:
            peers["as_is"] = args.model
        result = {
            "what": "lossless import against llama.cpp", "date": datetime.date.today().isoformat(), "machine": machine(),
            "command": f"bench/compare/llama_cpp.sh PEER_BIN {os.path.basename(args.model)} {os.path.basename(args.text)} --chunks {args.chunks}",
            "version": run([args.ellm, "--version"]).stdout.split()[-1], "model": os.path.basename(args.model),
            "gguf_bytes": os.path.getsize(args.model), "ellm_bytes": os.path.getsize(model),
            "prompts": [compare_prompt(args, model, peers, p) for p in PROMPTS],
        }
        if not args.no_ppl:
            result["perplexity"] = perplexities(args, model)
    ok = all(p["f32"]["same"] or p["f32"].get("explained") for p in result["prompts"])
    if not args.no_ppl:
        ok = ok and abs(result["perplexity"]["relative_difference"]) <= 0.005
    result["passed"] = ok
    out = args.out or os.path.join(os.path.dirname(__file__), "..", "results", f"llama_cpp_{name}.json")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w") as f:
        json.dump(result, f, indent=2)
        f.write("\n")
    json.dump(result, sys.stdout, indent=2)
    print()
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
