"""Quality per byte of ellm-gpu's schemes, and of llama.cpp's quants of the same file, as a table and a plot; quality.sh tells what and how."""

import argparse
import datetime
import hashlib
import json
import os
import re
import struct
import sys
from fractions import Fraction

from llama_cpp import machine, run
from report import ITSELF, markdown, plot

FREE_TYPES = ["Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K", "Q8_0"]
CALIBRATED_TYPES = ["IQ2_M", "IQ3_XXS", "IQ3_M", "Q3_K_M", "Q4_K_M"]
FRACTIONS = ["0.85*Q4_K_M", "0.8*Q8_0"]  # where the quality of the whole file is hoped for
DEFAULT_SIZES = ["3.0bpw", "4.0bpw", "5.0bpw", "6.0bpw"]  # without llama.cpp
SCHEMES = ["entrollm-u8", "entrollm-u4"]
CTX = 512


def threads():
    return str(os.cpu_count())


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Results:
    """Rows measured so far, in a JSON file that is written after each. A row's key is its program, its kind, and what it was calibrated with."""

    def __init__(self, path, head):
        self.path, self.data = path, head
        if os.path.exists(path):
            with open(path) as f:
                old = json.load(f)
            if {k: old.get(k) for k in head} != head:
                sys.exit(f"{path}: is of another model or texts (delete it, or give another --out)")
            self.data = old
        self.data.setdefault("rows", [])

    def find(self, program, kind, calibration):
        key = (program, kind, calibration)
        return next((r for r in self.data["rows"] if (r["program"], r["kind"], r["calibration"]) == key), None)

    def row(self, program, kind, calibration):
        found = self.find(program, kind, calibration)
        if not found:
            found = {"program": program, "kind": kind, "calibration": calibration, "texts": {}}
            self.data["rows"].append(found)
        return found

    def complete(self, row, texts):
        return "bytes" in row and all(t.name in row["texts"] for t in texts)

    def forget(self, program):
        self.data["rows"] = [r for r in self.data["rows"] if r["program"] != program]

    def write(self):
        with open(self.path + ".part", "w") as f:
            json.dump(self.data, f, indent=1)
            f.write("\n")
        os.replace(self.path + ".part", self.path)


def parse_divergence(out, chunks):
    """What llama-perplexity --kl-divergence prints, in the form of the results."""

    def value(pattern):
        found = re.search(pattern, out)
        if not found:
            sys.exit(f"llama-perplexity printed nothing like {pattern}:\n{out[-2000:]}")
        return [float(x) for x in found.groups()]

    kld, error = value(r"Mean\s+KLD:\s+([-\d.]+)\s+±\s+([\d.]+)")
    return {"chunks": chunks, "kld": kld, "kld_stderr": error, "kld_999": value(r"99\.9%\s+KLD:\s+([-\d.]+)")[0],
            "same_top": value(r"Same top p:\s+([\d.]+)")[0], "perplexity": value(r"Mean PPL\(Q\)\s*:\s+([\d.]+)")[0],
            "reference_perplexity": value(r"Mean PPL\(base\)\s*:\s+([\d.]+)")[0]}


def divergence(d):
    """What `eval kld --json` prints, in the form of the results."""
    return {"chunks": d["chunks"], "kld": d["kld"]["value"], "kld_stderr": d["kld"]["stderr"], "kld_999": d["kld_distribution"]["p99.9"],
            "same_top": 100 * d["same_top"]["value"], "perplexity": d["perplexity"]["value"], "reference_perplexity": d["reference_perplexity"]["value"]}


class Text:
    """A text, how many chunks of it are used, and the file of the original's predictions."""

    def __init__(self, name, path, chunks, logits, work):
        self.name, self.path, self.chunks = name, path, chunks
        self.given = logits
        self.logits = logits or f"{work}/{name}.{chunks}.logits"

    def check(self):
        """llama-perplexity compares all chunks of the file, so there must be as many as we use."""
        with open(self.logits, "rb") as f:
            head = f.read(20)
        n_ctx, _, chunks = struct.unpack("<3i", head[8:20]) if len(head) == 20 else (0, 0, 0)
        if (n_ctx, chunks) != (CTX, self.chunks):
            sys.exit(f"{self.logits}: holds {chunks} chunks of {n_ctx} tokens, expected {self.chunks} of {CTX} (give --chunks or --unseen-chunks {chunks})")

    def describe(self):
        return {"name": self.name, "file": os.path.basename(self.path), "sha256": digest(self.path), "chunks": self.chunks, "n_ctx": CTX}


class Calibration:
    """What our files are calibrated with. It is computed once, when the first file is made, and saved for the others."""

    def __init__(self, label, options, saved):
        self.label, self.making, self.saved = label, options, saved

    def options(self):
        if os.path.exists(self.saved):
            return ["--calibration", self.saved]
        return [*self.making, "--save-calibration", self.saved]


class Comparison:
    def __init__(self, args):
        self.args = args
        self.model_name = os.path.basename(args.model).removesuffix(".gguf")
        self.work = args.work or f"build/compare/{self.model_name}"
        os.makedirs(self.work, exist_ok=True)
        os.makedirs(args.out, exist_ok=True)
        self.texts = [Text("text", args.text, args.chunks, args.logits, self.work)]
        if args.unseen:
            self.texts.append(Text("unseen", args.unseen, args.unseen_chunks, args.unseen_logits, self.work))
        head = {"what": "quality per byte", "model": os.path.basename(args.model), "model_bytes": os.path.getsize(args.model),
                "texts": [t.describe() for t in self.texts]}
        self.results = Results(f"{args.out}/quality_{self.model_name}.json", head)
        if args.again:
            self.results.forget("ellm-gpu")

    def reference(self, text):
        """Saves the original's predictions: llama.cpp's, which favours its quants by its own rounding errors, or without it ours."""
        if os.path.exists(text.logits):
            return text.check()
        if text.given:
            sys.exit(f"{text.given}: no such file of saved predictions")
        part = text.logits + ".part"
        if self.args.peer:
            run([f"{self.args.peer}/llama-perplexity", "-m", self.args.model, "-f", text.path, "-c", str(CTX), "--chunks", str(text.chunks),
                 "-t", threads(), "--kl-divergence-base", part])
        else:
            exact = f"{self.work}/original.ellm"
            if not os.path.exists(exact):
                run([self.args.ellm, "compress", self.args.model, "-o", exact, "--lossless"])
            run([self.args.ellm, "eval", "ppl", exact, "-f", text.path, "--ctx", str(CTX), "--chunks", str(text.chunks), "--save-logits", part, *self.device()])
        os.replace(part, text.logits)

    def device(self):
        return ["--device", self.args.device]

    def calibrations(self):
        """None, and what was asked for."""
        a, out = self.args, [None]
        if a.own_tokens:
            out.append(Calibration(f"{ITSELF}, {a.own_tokens} tokens", ["--calibrate-self", str(a.own_tokens)],
                                   a.own_calibration or f"{self.work}/itself.{a.own_tokens}.cal"))
        if a.calibrate:
            n = a.calibrate_tokens or a.calibrate_chunks * CTX
            out.append(Calibration(f"{os.path.basename(a.calibrate)}, {n} tokens", ["--calibrate", a.calibrate, "--calibrate-tokens", str(n)],
                                   a.calibration or f"{self.work}/{os.path.basename(a.calibrate)}.{n}.cal"))
        return out

    def ours(self, kind, options, calibration=None):
        """Measures our scheme that these options of compress choose."""
        row = self.results.row("ellm-gpu", kind, calibration and calibration.label)
        if self.results.complete(row, self.texts):
            return row
        path = f"{self.work}/{re.sub(r'[^A-Za-z0-9_.]', '-', kind)}.{'data' if calibration else 'free'}.ellm"
        command = ["compress", self.args.model, "-o", path, *options]
        if calibration:
            command += calibration.options()
        report = json.loads(run([self.args.ellm, *command, "--json"]).stdout)
        row.update(bytes=os.path.getsize(path), bits_per_weight=report["bits_per_weight"], compress_seconds=report["seconds"],
                   command=self.readable("ellm-gpu", command), version=self.version(), date=str(datetime.date.today()))
        self.results.data["weights"] = report["weights"]
        for text in self.texts:
            row["texts"][text.name] = self.our_divergence(path, text)
        os.remove(path)
        return self.done(row)

    def our_divergence(self, path, text):
        d = json.loads(run([self.args.ellm, "eval", "kld", path, "--logits", text.logits, "--ctx", str(CTX), "--chunks", str(text.chunks),
                            "--json", *self.device()]).stdout)
        return divergence(d)

    def peer(self, kind, imatrix):
        """Measures llama.cpp's quant of this type."""
        row = self.results.row("llama.cpp", kind, self.imatrix_label() if imatrix else None)
        if self.results.complete(row, self.texts):
            return row
        path = f"{self.work}/{kind}.{'data' if imatrix else 'free'}.gguf"
        command = ["llama-quantize"]
        if imatrix:
            command += ["--imatrix", self.imatrix()]
        command += [self.args.model, path, kind, threads()]
        run([f"{self.args.peer}/{command[0]}", *command[1:]])
        row.update(bytes=os.path.getsize(path), command=self.readable("", command), date=str(datetime.date.today()))
        for text in self.texts:
            row["texts"][text.name] = self.peer_divergence(path, text)
        os.remove(path)
        return self.done(row)

    def peer_divergence(self, path, text):
        done = run([f"{self.args.peer}/llama-perplexity", "-m", path, "--kl-divergence", "--kl-divergence-base", text.logits, "-t", threads()])
        return parse_divergence(done.stdout + done.stderr, text.chunks)

    def imatrix_label(self):
        return f"{os.path.basename(self.args.calibrate)}, {self.args.calibrate_chunks * CTX} tokens"

    def imatrix(self):
        path = f"{self.work}/imatrix.{self.args.calibrate_chunks}.gguf"
        if not os.path.exists(path):
            part = path.replace(".gguf", ".part.gguf")
            run([f"{self.args.peer}/llama-imatrix", "-m", self.args.model, "-f", self.args.calibrate, "-c", str(CTX),
                 "--chunks", str(self.args.calibrate_chunks), "--no-ppl", "-t", threads(), "-o", part])
            os.replace(part, path)
        return path

    def done(self, row):
        self.results.data["machine"] = machine()
        self.results.write()
        seen = row["texts"]["text"]
        print(f"{row['program']:9} {row['kind']:14} {row['calibration'] or 'data-free':28} {row['bytes']:12,} bytes  "
              f"KLD {seen['kld']:.5f}  same top {seen['same_top']:.1f} %", flush=True)
        return row

    def version(self):
        return run([self.args.ellm, "--version"]).stdout.split()[-1]

    def readable(self, program, command):
        """The command as a reader would type it: without the directories of this machine."""
        words = [os.path.basename(w) if os.sep in w and re.search(r"\.(gguf|ellm|cal|txt|raw|safetensors)$", w) else w for w in command]
        return " ".join([program, *words] if program else words)

    def sizes(self, with_data):
        """What to compress to: (name, options of compress) for every entry of --sizes."""
        given = self.args.sizes
        if given is None:
            given = (CALIBRATED_TYPES if with_data else FREE_TYPES + FRACTIONS) if self.args.peer else DEFAULT_SIZES
        return [(s, self.size_options(s, with_data)) for s in given]

    def size_options(self, size, with_data):
        if size.endswith("bpw"):
            return ["--bpw", size.removesuffix("bpw")]
        if size.isdigit():
            return ["--size", size]
        share, _, kind = size.rpartition("*")
        row = with_data and self.results.find("llama.cpp", kind, self.imatrix_label()) or self.results.find("llama.cpp", kind, None)
        if not row or "bytes" not in row:
            sys.exit(f"size {size}: there is no llama.cpp quant {kind} here (give bytes, or bits per weight as 4.5bpw)")
        return ["--size", str(int(Fraction(share or 1) * row["bytes"]))]

    def measure(self):
        for text in self.texts:
            self.reference(text)
        if self.args.peer:
            self.peers()
        for calibration in self.calibrations():
            with_data = calibration is not None and not calibration.label.startswith(ITSELF)
            for kind, options in self.sizes(with_data):
                self.ours(kind, options, calibration)
        for scheme in SCHEMES:
            self.ours(scheme, ["--scheme", scheme])

    def peers(self):
        for imatrix, types in [(False, FREE_TYPES), (True, CALIBRATED_TYPES if self.args.calibrate else [])]:
            for kind in types:
                if not self.args.types or kind in self.args.types:
                    self.peer(kind, imatrix)

    def write(self):
        data, base = self.results.data, f"{self.args.out}/quality_{self.model_name}"
        self.results.write()
        with open(f"{base}.md", "w") as f:
            f.write(markdown(data))
        with open(f"{base}.svg", "w") as f:
            f.write(plot(data))
        print(f"{base}.json, .md and .svg")


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--ellm", required=True)
    p.add_argument("--peer", help="directory of llama-quantize, llama-perplexity, llama-imatrix")
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--chunks", type=int, default=10)
    p.add_argument("--unseen")
    p.add_argument("--unseen-chunks", type=int, default=6)
    p.add_argument("--calibrate")
    p.add_argument("--calibrate-chunks", type=int, default=28)
    p.add_argument("--calibrate-tokens", type=int)
    p.add_argument("--calibration")
    p.add_argument("--own-tokens", type=int)
    p.add_argument("--own-calibration")
    p.add_argument("--sizes", type=str.split)
    p.add_argument("--types", type=str.split)
    p.add_argument("--logits")
    p.add_argument("--unseen-logits")
    p.add_argument("--work")
    p.add_argument("--device", default="cpu")
    p.add_argument("--again", action="store_true")
    p.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "results"))
    return p.parse_args()


def main():
    comparison = Comparison(parse_args())
    comparison.measure()
    comparison.write()


if __name__ == "__main__":
    main()
