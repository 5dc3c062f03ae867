"""The results of quality.py as a Markdown table and as a plot of KL divergence over bytes (SVG)."""

import math
from html import escape

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 40, 56
ITSELF = "its own text"  # what a model was calibrated with if it wrote that itself
# Curves of the plot: program, with what, colour, hollow points
CURVES = [("ellm-gpu", "without data", "#0b6e4f", False), ("ellm-gpu", ITSELF, "#2563a8", False), ("ellm-gpu", "calibrated", "#0b6e4f", True),
          ("llama.cpp", "without data", "#c2410c", False), ("llama.cpp", "calibrated", "#c2410c", True)]

# What this project set out to reach on dithered Qwen2.5-Coder-1.5B: our mean KLD divided by that of llama.cpp's quant of the same or larger size.
BARS = {"without data": {"Q8_0": None, "0.8*Q8_0": 1, "Q6_K": 0.5, "Q4_K_M": 0.33, "0.85*Q4_K_M": 1, "IQ4_XS": 0.45, "Q3_K_M": 0.3, "Q2_K": 0.3},
        "calibrated": {"Q4_K_M": 0.3, "Q3_K_M": 0.3, "IQ3_M": 0.5, "IQ3_XXS": 0.5, "IQ2_M": 0.5}}
UNSEEN = 1.15  # on the unseen text the ratio may be larger by this factor


def bits(data, row):
    return 8 * row["bytes"] / data["weights"]


def means(row):
    """What a row was calibrated with: nothing, text of the model's own, or text of ours."""
    c = row["calibration"]
    return "without data" if not c else ITSELF if c.startswith(ITSELF) else "calibrated"


def needs_data(row):
    return means(row) == "calibrated"


def compared_with(data, row):
    """The quant of llama.cpp that one of our rows competes with: the one that its size was taken from, else the smallest that is no smaller.
    Where we use no data but what the model writes, llama.cpp gets none either."""
    peers = [r for r in data["rows"] if r["program"] == "llama.cpp" and needs_data(r) == needs_data(row)]
    same = [r for r in peers if r["kind"] == row["kind"].rpartition("*")[2]]
    larger = sorted((r for r in peers if r["bytes"] >= row["bytes"]), key=lambda r: r["bytes"])
    return (same or larger or [None])[0]


def title(row):
    data = row["calibration"]
    if row["program"] == "llama.cpp":
        return f"llama.cpp {row['kind']}" + (", imatrix" if data else "")
    if row["kind"].startswith("entrollm"):
        return f"`--scheme {row['kind']}`"
    how = f", calibrated with {data}" if data else ""
    if row["kind"].endswith("bpw"):
        return f"**ellm-gpu** {row['kind'].removesuffix('bpw')} bits{how}"
    share, _, kind = row["kind"].rpartition("*")
    return f"**ellm-gpu** {'size' if not share else share + ' of the size'} of {kind}{how}"


def summary(data):
    """One line for each of our files whose size is a quant's: both divergences, their ratio, and what was to be reached."""
    lines = []
    for group, bars in BARS.items():
        ours = [r for r in data["rows"] if r["program"] == "ellm-gpu" and r["kind"] in bars and "text" in r["texts"] and needs_data(r) == (group == "calibrated")]
        ours = [(r, compared_with(data, r)) for r in sorted(ours, key=lambda r: (-r["bytes"], means(r) == ITSELF))]
        rows = [summary_row(r, p, bars[r["kind"]]) for r, p in ours if p and p["kind"] == r["kind"].rpartition("*")[2] and "text" in p["texts"]]
        if rows:
            lines += [f"### {group.capitalize()}", "",
                      "| size of | llama.cpp: MB | KLD | ours: MB | KLD | ratio | bar | | unseen: llama.cpp's KLD | ours | ratio | at most 15 % more |",
                      "|---|---|---|---|---|---|---|---|---|---|---|---|", *rows, ""]
    about = "Ratio: our mean KLD divided by llama.cpp's, at the same size or less. Bar: what this project set out to reach on Qwen2.5-Coder-1.5B."
    return ["## Next to llama.cpp's quants", "", about, "", *lines] if lines else []


def summary_row(ours, peer, bar):
    a, b = ours["texts"]["text"]["kld"], peer["texts"]["text"]["kld"]
    name = ours["kind"].replace("*", " × ") + (", " + ITSELF if means(ours) == ITSELF else "")
    cells = [name, megabytes(peer), f"{b:.5f}", megabytes(ours), f"{a:.5f}", f"{a / b:.3f}", f"{bar:.2f}" if bar else "", verdict(bar and a <= bar * b)]
    if "unseen" in ours["texts"] and "unseen" in peer["texts"]:
        u, v = ours["texts"]["unseen"]["kld"], peer["texts"]["unseen"]["kld"]
        cells += [f"{v:.5f}", f"{u:.5f}", f"{u / v:.3f}", verdict(u / v <= UNSEEN * a / b)]
    else:
        cells += [""] * 4
    return "| " + " | ".join(cells) + " |"


def megabytes(row):
    return f"{row['bytes'] / 1e6:.1f}"


def verdict(met):
    return "" if met is None else "met" if met else "**missed**"


def perplexity(x):
    return f"{x:.3f}" if x < 1e4 else f"{x:.2g}"


def cells(data, row, text):
    t = row["texts"][text]
    out = [f"{t['kld']:.5f} ± {t['kld_stderr']:.5f}", f"{t['kld_999']:.3f}", f"{t['same_top']:.1f}", perplexity(t["perplexity"])]
    other = compared_with(data, row) if row["program"] == "ellm-gpu" else None
    if not other or text not in other["texts"] or row["kind"].startswith("entrollm"):
        return [*out, ""]
    return [*out, f"{t['kld'] / other['texts'][text]['kld']:.3f} × {other['kind']}"]


def table(data, text, rows):
    lines = ["| | bytes | bits per weight | mean KLD | 99.9 % | same top, % | perplexity | KLD relative to |", "|---|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (-r["bytes"], r["program"])):
        lines.append("| " + " | ".join([title(row), f"{row['bytes']:,}", f"{bits(data, row):.3f}", *cells(data, row, text)]) + " |")
    return lines


def markdown(data):
    lines = [f"# Quality per byte: {data['model']}", "", f"{data['weights']:,} weights. Measured on {data['machine']}.", "", *summary(data)]
    for text in data["texts"]:
        complete = [r for r in data["rows"] if text["name"] in r["texts"]]
        reference = {perplexity(r["texts"][text["name"]]["reference_perplexity"]) for r in complete}
        lines += ["", f"## {text['file']}, {text['chunks']} × {text['n_ctx']} tokens" + (" (unseen kind)" if text["name"] == "unseen" else ""), "",
                  "The original's perplexity: " + " or ".join(sorted(reference)) + ".", ""]
        for heading, data_needed in [("Without data", False), ("Calibrated with text; llama.cpp has an imatrix of " + imatrix_of(data), True)]:
            rows = [r for r in complete if needs_data(r) == data_needed]
            if rows:
                lines += [heading + ":", "", *table(data, text["name"], rows), ""]
    lines += ["## Commands", ""] + [f"- {title(r)}: `{r['command']}`" + (f" (version {r['version']})" if "version" in r else "") for r in data["rows"]]
    return "\n".join(lines) + "\n"


def imatrix_of(data):
    return next((r["calibration"] for r in data["rows"] if r["program"] == "llama.cpp" and r["calibration"]), "it")


class Axis:
    """A logarithmic axis from the smallest to the largest value, with some room."""

    def __init__(self, values, start, end):
        self.lo, self.hi = math.log(min(values) / 1.12), math.log(max(values) * 1.12)
        self.start, self.end = start, end

    def at(self, x):
        return self.start + (math.log(x) - self.lo) / (self.hi - self.lo) * (self.end - self.start)

    def ticks(self):
        """1, 2, 5 × powers of ten; on short axes 1, 1.2, 1.5, 2, 2.5, 3, …"""
        steps = [1, 2, 5] if self.hi - self.lo > math.log(8) else [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]
        decades = range(math.floor(self.lo / math.log(10)), math.ceil(self.hi / math.log(10)) + 1)
        return [s * 10**d for d in decades for s in steps if self.lo <= math.log(s * 10**d) <= self.hi]


def number(x):
    return f"{x:.10g}" if x >= 1e-4 else f"{x:.0e}"


def label(x, y, text, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def axes(x, y, unit):
    out = []
    for v in x.ticks():
        out.append(f'<line x1="{x.at(v):.1f}" y1="{TOP}" x2="{x.at(v):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e2e2e2"/>')
        out.append(label(x.at(v), HEIGHT - BOTTOM + 18, number(v), "middle"))
    for v in y.ticks():
        out.append(f'<line x1="{LEFT}" y1="{y.at(v):.1f}" x2="{WIDTH - RIGHT}" y2="{y.at(v):.1f}" stroke="#e2e2e2"/>')
        out.append(label(LEFT - 8, y.at(v) + 4, number(v), "end"))
    out.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, unit, "middle"))
    out.append(label(16, (TOP + HEIGHT - BOTTOM) / 2, "mean KL divergence (nats)", "middle", f' transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})"'))
    return out


def curve(rows, x, y, colour, hollow, names):
    """Points joined by a line; hollow and dashed are the calibrated ones."""
    points = sorted((x.at(r["bytes"] / 1e6), y.at(r["texts"]["text"]["kld"]), r["kind"]) for r in rows)
    dash = ' stroke-dasharray="5 4"' if hollow else ""
    out = [f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>']
    for a, b, kind in points:
        out.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{"white" if hollow else colour}" stroke="{colour}" stroke-width="1.5"/>')
        if names:
            at = (a - 7, b + 14, kind, "end") if hollow else (a + 7, b - 6, kind)
            out.append(label(*at, extra=f' fill="{colour}"'))
    return out


def plot(data):
    rows = [r for r in data["rows"] if "text" in r["texts"] and r["texts"]["text"]["kld"] > 0]
    drawn = [r for r in rows if not r["kind"].startswith("entrollm")] or rows  # the far-off ones would squeeze the others
    x = Axis([r["bytes"] / 1e6 for r in drawn], LEFT, WIDTH - RIGHT)
    y = Axis([r["texts"]["text"]["kld"] for r in drawn], HEIGHT - BOTTOM, TOP)
    text = next(t for t in data["texts"] if t["name"] == "text")
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           label(LEFT, 22, f"{data['model']}: divergence from the original on {text['file']}", extra=' font-size="14"'), *axes(x, y, "file size (MB, both axes logarithmic)")]
    legend = 0
    for program, how, colour, hollow in CURVES:
        some = [r for r in drawn if r["program"] == program and means(r) == how]
        if not some:
            continue
        out += curve(some, x, y, colour, hollow, program == "llama.cpp")
        at = TOP + 18 + 18 * legend
        out += [f'<circle cx="{WIDTH - 190}" cy="{at - 4}" r="4" fill="{"white" if hollow else colour}" stroke="{colour}" stroke-width="1.5"/>',
                label(WIDTH - 178, at, f"{program}, {how}")]
        legend += 1
    return "\n".join([*out, "</svg>"]) + "\n"
