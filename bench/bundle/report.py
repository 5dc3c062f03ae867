#!/usr/bin/env python3
"""report.py FOLDER VERSION: joins what run.sh left in FOLDER to report.json and report.md. Python 3.6 or later."""
import glob
import json
import math
import os
import platform
import re
import sys

out, version = sys.argv[1:3]


def read(path, default=None):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return default


def read_json(path):
    try:
        return json.loads(read(path, ""))
    except ValueError:
        return None


def command(text):
    with os.popen(text + " 2>/dev/null") as f:
        return f.read().strip()


# A step has a line when it starts and one when it ends. What only started was interrupted, or is running now.
lines_of = {}
for line in read(os.path.join(out, "steps.tsv"), "").splitlines():
    fields = line.split("\t")
    if len(fields) == 4:  # the last line may have been cut off
        lines_of[fields[0]] = fields
steps = []
for name, result, seconds, note in lines_of.values():
    if result == "started":
        result, note = "interrupted", "it did not end: the machine, or the script, stopped (out of memory?)"
    log = read(os.path.join(out, "logs", name), "")
    step = {"name": name, "result": result, "seconds": int(seconds), "note": note}
    tests = re.findall(r"^--- (PASS|FAIL|SKIP): (\S+)", log, re.M)
    if tests:
        step["tests"] = {r.lower(): sum(t[0] == r for t in tests) for r in ("PASS", "FAIL", "SKIP")}
        step["failed"] = [t[1] for t in tests if t[0] == "FAIL"]
    steps.append(step)

measured, predicted = [], []
for path in sorted(glob.glob(os.path.join(out, "bench-*.json"))):
    for result in read_json(path) or []:
        result["name"] = os.path.basename(path)[len("bench-"):-len(".json")].rsplit("-", 1)[0]  # bench-NAME-PLAN.json
        measured.append(result)
for path in sorted(glob.glob(os.path.join(out, "predicted-*.json"))):
    for plan in read_json(path) or []:
        plan["model"] = os.path.basename(path)[len("predicted-"):-len(".json")]
        predicted.append(plan)

report = {
    "version": version,
    "machine": platform.platform(),
    "board": (read("/proc/device-tree/model") or "").strip("\0\n"),
    "jetpack": (read("/etc/nv_tegra_release") or "").split("\n")[0],
    "power_mode": command("nvpmodel -q"),
    "driver": command("nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader"),
    "devices": read_json(os.path.join(out, "devices.json")),
    "steps": steps,
    "measured": measured,
    "rates": read_json(os.path.join(out, "rates.json")),
    "products": read_json(os.path.join(out, "products.json")),
    "predicted": predicted,
}
lines = ["# ellm-gpu %s on %s" % (version, report["board"] or report["driver"] or report["machine"]), ""]
for d in report["devices"] or []:
    if d.get("available"):
        lines.append("- device %s: %s" % (d["device"], d.get("name", "")))
for key in ("jetpack", "power_mode", "driver"):
    if report[key]:
        lines.append("- %s: %s" % (key.replace("_", " "), report[key].replace("\n", ", ")))
lines += ["", "## Checks", "", "| step | result | seconds | |", "|---|---|---|---|"]
for s in steps:
    t = s.get("tests")
    note = s["note"] or ("%(pass)d passed, %(fail)d failed, %(skip)d skipped" % t if t else "")
    if s.get("failed"):
        note += ": " + ", ".join(s["failed"][:8])
    lines.append("| %s | %s | %d | %s |" % (s["name"], s["result"], s["seconds"], note))
if report["rates"]:
    lines += ["", "## Rates (measured)", "", "| what | value | |", "|---|---|---|"]
    lines += ["| %s | %.4g | %s |" % (r["name"], r["value"], r["unit"]) for r in report["rates"]["rates"]]
lines += ["", "## Measured", "", "| model | plan | test | t/s | ± |", "|---|---|---|---|---|"]
for r in measured:
    test = "tg%d" % r["n_gen"] if r["n_gen"] else "pp%d" % r["n_prompt"]
    lines.append("| %s | %s | %s | %.2f | %.2f |" % (os.path.basename(r["model_filename"]), r["plan"], test, r["avg_ts"], r["stddev_ts"]))
lines += ["", "## Predicted (by `ellm-gpu plan`, not measured)", "", "| model | plan | decode t/s | prefill t/s | rates of |", "|---|---|---|---|---|"]
for p in predicted:
    q = p.get("predicted")
    if q:
        lines.append("| %s | %s | %.1f | %.0f | %s |" % (p["model"], p["plan"], q["decode_ts"], q["prefill_ts"], q["described"]))


def compare(pairs):
    """Predicted and measured times: (name, predicted, measured)."""
    ratios = sorted(p / m for _, p, m in pairs)
    mean = math.exp(sum(math.log(r) for r in ratios) / len(ratios))
    inside = sum(0.8 <= r <= 1.25 for r in ratios)
    return "predicted / measured time: geometric mean %.2f, from %.2f to %.2f; %d of %d within 25 %%" % (mean, ratios[0], ratios[-1], inside, len(ratios))


products = (report["products"] or {}).get("results", [])
models = {(p["model"], p["plan"]): p["predicted"] for p in predicted if p.get("predicted")}
pairs = []
for r in measured:
    q = models.get((r["name"], r["plan"]))
    if q:
        kind, rate = ("decode", q["decode_ts"]) if r["n_gen"] else ("prefill", q["prefill_ts"])
        pairs.append(("%s, %s, %s" % (os.path.basename(r["model_filename"]), r["plan"], kind), 1 / rate, 1 / r["avg_ts"]))
timed = [("", m["predicted_us"], m["measured_us"]) for m in products if m.get("measured_us") and m.get("predicted_us")]
report["prediction"] = {"products": compare(timed) if timed else None, "models": compare(pairs) if pairs else None}
if timed or pairs:
    lines += ["", "## Predictions against measurements", ""]
    lines += ["- products: " + report["prediction"]["products"]] if timed else []
    lines += ["- models: " + report["prediction"]["models"]] if pairs else []
    lines += ["- %s: predicted %.1f, measured %.1f t/s" % (name, 1 / p, 1 / m) for name, p, m in pairs if name]
text = read(os.path.join(out, "products.md"))
if text:
    lines += ["", text.replace("# Products", "## Products", 1).rstrip()]


def write(name, text):
    """Whole or not at all: the machine may stop at any time."""
    path = os.path.join(out, name)
    with open(path + ".tmp", "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


write("report.json", json.dumps(report, indent=1))
write("report.md", "\n".join(lines) + "\n")
