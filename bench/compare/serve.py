#!/usr/bin/env python3
"""Measure ellm-gpu serve, and llama.cpp's server beside it: time to first token, tokens per second, HTTP's share of a token.

    bench/compare/serve.py --ours bin/ellm-gpu model.ellm [--peer llama-server model.gguf] [--clients 1 8] [--json OUT]

Both servers run on the CPU with the same number of threads and sequences. They take turns, so that what else the machine does
meets both. Every prompt is new, so no server finds it in a cache. Numbers are medians over rounds.
"""
import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

WORDS = ("river stone lamp paper green winter salt engine copper garden letter cloud mirror bread silver window forest "
         "candle bridge honey marble feather thunder velvet").split()


def prompt(number, words):
    """A prompt that begins with its own number, so that no two share a beginning."""
    return f"{number}: " + " ".join(WORDS[(number * 7 + i * 5 + i // 9) % len(WORDS)] for i in range(words))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            if self.process.poll() is not None:
                sys.exit(f"{name} ended with {self.process.returncode}: {' '.join(command)}")
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                c.request("GET", "/health")
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"{name} does not answer")

    def ask(self, text, tokens, out, **more):
        """One streamed answer: appends (seconds to the first token, seconds from it to the last, tokens, engine's seconds)."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}} | more
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start, first, last, count, engine = time.perf_counter(), None, None, 0, None
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        r = c.getresponse()
        if r.status != 200:
            sys.exit(f"{self.name}: {r.status} {r.read()[:300]}")
        for line in r:
            if not line.startswith(b"data: {"):
                continue
            now, v = time.perf_counter(), json.loads(line[6:])
            if v.get("choices") and v["choices"][0]["delta"].get("content"):
                first, last = first or now, now
            if v.get("usage"):
                count = v["usage"]["completion_tokens"]
            if v.get("timings"):
                engine = v["timings"]["predicted_ms"] / 1e3
        if first is None or count < 2:
            sys.exit(f"{self.name}: no answer to {text[:40]!r}")
        out.append((first - start, last - first, count, engine))

    def round(self, number, clients, words, tokens):
        """Answers of `clients` at once: their median time to the first token, tokens per second of all, and raw figures."""
        out = []
        threads = [threading.Thread(target=self.ask, args=(prompt(number + i, words), tokens, out)) for i in range(clients)]
        start = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        wall = time.perf_counter() - start
        if len(out) != clients:
            sys.exit(f"{self.name}: {clients - len(out)} of {clients} answers are missing")
        return statistics.median(o[0] for o in out), sum(o[2] for o in out) / wall, out

    def close(self):
        self.process.terminate()
        self.process.wait()


def first_token(command):
    """Seconds from the start of the program to its first byte of text."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
        byte = p.stdout.read(1)
        seconds = time.perf_counter() - start
        p.stdout.read()
    if not byte or p.returncode != 0:
        sys.exit(f"{' '.join(command)}: no text, exit status {p.returncode}")
    return seconds


# Strings that a model can fill as it likes: most of its tokens stay possible, and the text does not end before enough of them.
SCHEMA = {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "minLength": 12}, "year": {"type": "integer"}},
                                     "required": ["name", "year"], "additionalProperties": False}, "minItems": 100}


def schema_share(server, tokens, rounds):
    """What a JSON schema adds to a token's time, as a part of it, by the engine's own measure."""
    seen = {False: [], True: []}
    for i in range(rounds):
        for schema in (False, True):
            more = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}, "ignore_eos": False} if schema else {}
            out = []
            server.ask(prompt(9000 + 2 * i + schema, 16), tokens, out, **more)
            seen[schema].append(out[0][3] / (out[0][2] - 1))
    return statistics.median(seen[True]) / statistics.median(seen[False]) - 1


def cpu_name():
    try:
        for line in open("/proc/cpuinfo", encoding="utf-8"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--ours", nargs=2, metavar=("PROGRAM", "MODEL"), required=True)
    a.add_argument("--peer", nargs=2, metavar=("PROGRAM", "MODEL"))
    a.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    a.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    a.add_argument("--words", type=int, default=64, help="words of a prompt")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--json", metavar="FILE", help="also write the results here")
    o = a.parse_args()
    slots, context, port = max(o.clients), 1024, free_port()
    t = str(o.threads)
    servers = [Server("ellm-gpu", [o.ours[0], "serve", o.ours[1], "--device", "cpu", "--port", str(port), "--ctx", str(context),
                                   "--parallel", str(slots), "--cache-tokens", str(slots * context), "--threads", t], port)]
    if o.peer:
        port = free_port()
        servers.append(Server("llama.cpp", [o.peer[0], "-m", o.peer[1], "--host", "127.0.0.1", "--port", str(port), "-c",
                                            str(slots * context), "-np", str(slots), "-t", t, "-tb", t, "--no-webui"], port))
    results, number = [], 100
    for s in servers:
        s.round(1, 1, o.words, 4)  # loads the model and warms caches
    for clients in o.clients:
        seen = {s.name: [] for s in servers}
        for _ in range(o.rounds):
            for s in servers:
                seen[s.name].append(s.round(number, clients, o.words, o.tokens))
                number += clients
        for s in servers:
            rounds = seen[s.name]
            r = {"server": s.name, "clients": clients, "first_token_s": statistics.median(x[0] for x in rounds),
                 "tokens_per_s": statistics.median(x[1] for x in rounds), "rounds": len(rounds)}
            own = [(x[1] - x[3]) / (x[2] - 1) * 1e3 for y in rounds for x in y[2] if x[3] is not None]
            if clients == 1 and own:  # what a client waits beyond what the engine measured for itself
                r["http_ms_per_token"] = statistics.median(own)
            results.append(r)
    schema = schema_share(servers[0], o.tokens, o.rounds)
    for s in servers:
        s.close()
    start = statistics.median(first_token([o.ours[0], "run", o.ours[1], "--device", "cpu", "-p", "Hello", "-n", "1", "--temp", "0"])
                              for _ in range(3))
    report = {"cpu": cpu_name(), "threads": o.threads, "prompt_words": o.words, "answer_tokens": o.tokens,
              "ours_bytes": os.path.getsize(o.ours[1]), "peer_bytes": os.path.getsize(o.peer[1]) if o.peer else None,
              "first_token_after_process_start_s": start, "json_schema_share": schema, "results": results}
    print(f"{report['cpu']}, {o.threads} threads; prompts of {o.words} words, answers of {o.tokens} tokens")
    print("| server | clients | first token, s | tokens/s |\n|---|---|---|---|")
    for r in results:
        print(f"| {r['server']} | {r['clients']} | {r['first_token_s']:.3f} | {r['tokens_per_s']:.1f} |")
    for r in results:
        if "http_ms_per_token" in r:
            print(f"{r['server']}: HTTP adds {r['http_ms_per_token']:.3f} ms per token")
    print(f"a JSON schema adds {100 * schema:.1f} % to a token's time")
    print(f"first token {start:.2f} s after the start of the process")
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
