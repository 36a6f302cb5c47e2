"""Turns the JSON lines of a measurement into Markdown tables.

    python3 benches/peers/table.py results.jsonl [MORE.jsonl ...] [--tables machine,peers,strategies,checks,steps]

Lines of several files are merged; where two measure the same, the later one counts. Which kinds of lines there are:

    machine   what the numbers were measured on
    torch     a peer at a shape: {peer, model, shape, mode, first_s, wall_ms, gpu_ms}
    bespoke   a measurement of `bespoke bench`, {model, shape, cache} replaced
    check     {model, shape, strategy, status, max_abs, max_rel, reason}
    step      a process that ran: {step, what, seconds, outcome}
    skip, fail  something that was not measured, with its reason
"""
import argparse
import json
import math
import pathlib
import sys

import workloads

PEERS = {"eager": "torch eager", "compile": "torch.compile", "compile-dynamic": "torch.compile, dynamic",
         "compile-autotune": "torch.compile, max-autotune"}
STRATEGIES = ["none", "eager", "lazy", "static"]


def read(files):
    """All lines, those that are no JSON object left out with a note: a process that was stopped may leave half a line."""
    rows = []
    for file in files:
        for number, line in enumerate(pathlib.Path(file).read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict) and "kind" in row:
                rows.append(row)
            else:
                print(f"note: {file}:{number} is no result and is left out", file=sys.stderr)
    return rows


def of(rows, *kinds):
    return [row for row in rows if row["kind"] in kinds]


def number(x, unit=""):
    """Three digits that mean something; a dash for what was not measured."""
    if x is None:
        return "–"
    if x == 0:
        return f"0{unit}"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:.{min(digits, 4)}f}{unit}"


def markdown(head, body):
    """A table; columns of numbers are aligned right."""
    def numeric(column):
        cells = [row[column] for row in body if row[column] != "–"]
        return bool(cells) and all(cell[:1].isdigit() for cell in cells)

    rule = ["--:" if numeric(i) else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body]) + "\n"


def order(model, shapes):
    """The order of a model's shapes: that of the numbers in their labels."""
    key = workloads.NAMES.index(model) if model in workloads.NAMES else len(workloads.NAMES)
    return (key, model, [int(n) if n.isdigit() else 0 for n in shapes.split("×")], shapes)


def peers(rows):
    """Steady state of everything at every shape, and how the specialised kernels compare with the best peer."""
    times, ours, why = {}, {}, {}
    for row in of(rows, "skip", "fail"):
        if "mode" in row:
            why[row["model"], row.get("shape"), row["mode"]] = "skipped" if row["kind"] == "skip" else "failed"
    for row in of(rows, "torch"):
        times[row["model"], row["shape"], row["mode"]] = row["wall_ms"]
    for row in of(rows, "bespoke"):
        # graphs are how bespoke runs; a time without them counts only if there is none with
        key = row["model"], row["shape"], row["strategy"]
        if key not in ours or row["graph"] != "off" or ours[key][1] == "off":
            ours[key] = row["steady_ms"], row["graph"]
    modes = [m for m in PEERS if any(key[2] == m for key in [*times, *why])]
    modes += sorted({key[2] for key in times} - set(modes))
    points = sorted({key[:2] for key in [*times, *ours]}, key=lambda p: order(*p))
    body, ratios = [], []
    for point in points:
        if not any((*point, s) in ours for s in STRATEGIES) and point[0] not in workloads.NAMES:
            continue
        generic = ours.get((*point, "none"), (None,))[0]
        special = next((ours[(*point, s)][0] for s in ("eager", "lazy") if (*point, s) in ours), None)
        best = min((times[(*point, m)] for m in modes if (*point, m) in times), default=None)
        ratio = special / best if special and best else None
        if ratio:
            ratios.append(ratio)
        cells = [number(times[(*point, m)]) if (*point, m) in times else why.get((*point, m), "–") for m in modes]
        body.append([*point, *cells, number(generic), number(special), number(ratio)])
    if not body:
        return ""
    head = ["model", "shape", *(PEERS.get(m, m) for m in modes), "generic", "specialised", "ratio"]
    text = markdown(head, body) + "\nMedian ms of wall time a run. Ratio: specialised to the best peer; below 1 is faster."
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        text += f" Geometric mean of {len(ratios)} ratios: {mean:.2f}."
    legend = "; ".join(f"{m}: {workloads.LEGEND[m]}" for m in workloads.LEGEND if any(p[0] == m for p in points))
    return f"{text} Shapes are {legend}.\n"


def first_results(rows):
    """How long until the first result at a shape, which is where adapting differs from compiling ahead."""
    first = {}
    for row in of(rows, "torch"):
        first[row["model"], row["shape"], PEERS.get(row["mode"], row["mode"])] = row["first_s"] * 1e3
    for row in of(rows, "bespoke"):
        if row["strategy"] in ("none", "eager") and row["graph"] != "off" and row["cache"] != "warm":
            name = "generic" if row["strategy"] == "none" else "specialised"
            first[row["model"], row["shape"], name] = row["first_ms"]
    columns = [c for c in [*PEERS.values(), "generic", "specialised"] if any(key[2] == c for key in first)]
    points = sorted({key[:2] for key in first}, key=lambda p: order(*p))
    if not points:
        return ""
    body = [[*p, *(number(first.get((*p, c))) for c in columns)] for p in points]
    return markdown(["model", "shape", *columns], body) + "\nms until the first result at a shape, the model being loaded already.\n"


def strategies(rows):
    """What happens once, and the steady state, for every strategy with and without graph, cache cold and warm."""
    lines = {}
    for row in of(rows, "bespoke"):
        lines[row["model"], row["shape"], row["strategy"], row["graph"], row["cache"]] = row
    if not lines:
        return ""

    def key(k):
        rank = STRATEGIES.index(k[2]) if k[2] in STRATEGIES else len(STRATEGIES)
        return (*order(k[0], k[1]), rank, k[3] == "off", k[4])

    body = []
    for k in sorted(lines, key=key):
        row = lines[k]
        made = f"{row['load_compiled'] + row['compiled']} / {row['load_cached'] + row['cached']}"
        body.append([*k, number(row["load_ms"]), number(row["first_ms"]), number(row["compile_ms"]),
                     number(row["record_us"] / 1e3), number(row["specialize_ms"]), number(row["steady_ms"]), made,
                     f"{row['generic']} + {row['specialized']}"])
    head = ["model", "shape", "strategy", "graph", "cache", "load", "first run", "compile", "record", "specialise",
            "steady", "compiled / from cache", "kernels generic + specialised"]
    return markdown(head, body) + (
        "\nTimes in ms. Load: the model is read, its plan made and what the strategy wants beforehand compiled. First run: "
        "the first at this shape. Compile: the compiler's time for this shape, summed over its threads. Specialise: from "
        "the first result until the kernels of the shape are in service. Steady: median of the runs after that. Kernels "
        "compiled and from the cache are those of load and shape together. Rows that differ only in their shape share a "
        "session, so that what one shape compiled the next one has.\n")


def checks(rows):
    """Agreement with the reference data at every shape."""
    lines = {(r["model"], r["shape"], r["strategy"]): r for r in of(rows, "check")}
    if not lines:
        return ""

    def power(x):
        return "–" if x is None else f"{x:.1e}"

    keys = sorted(lines, key=lambda k: (*order(k[0], k[1]), STRATEGIES.index(k[2]) if k[2] in STRATEGIES else 9))
    body = [[*k, lines[k]["status"], power(lines[k].get("max_abs")), power(lines[k].get("max_rel")),
             (lines[k].get("reason") or "").replace("|", "/").replace("\n", " ")[:160]] for k in keys]
    passed = sum(lines[k]["status"] == "PASS" for k in keys)
    return markdown(["model", "shape", "strategy", "status", "max abs", "max rel", "reason"], body) + (
        f"\n{passed} of {len(keys)} pass.\n")


def steps(rows):
    """What ran how long, and what was left out."""
    body = [[r["step"], r["what"], f"{r['seconds']:.0f} s", r["outcome"]] for r in of(rows, "step")]
    text = markdown(["step", "what", "time", "outcome"], body) if body else ""
    for row in of(rows, "skip", "fail"):
        what = " ".join(str(row[k]) for k in ("step", "what", "model", "shape", "mode") if k in row)
        text += f"\n- {'skipped' if row['kind'] == 'skip' else 'failed'}: {what}: {row['reason']}"
    return text + "\n" if text else ""


def machine(rows):
    """The last description of the machine."""
    last = of(rows, "machine")[-1:]
    return "".join(f"- {k}: {v}\n" for row in last for k, v in row.items() if k != "kind")


TABLES = {
    "machine": ("Machine", machine),
    "peers": ("Against the peers", peers),
    "first": ("First results", first_results),
    "checks": ("Agreement with PyTorch", checks),
    "strategies": ("Strategies, graphs and cache", strategies),
    "steps": ("What ran", steps),
}


def page(rows, names=tuple(TABLES)):
    """The named tables that have rows, each under its heading."""
    parts = [(TABLES[name][0], TABLES[name][1](rows)) for name in names]
    return "\n".join(f"## {title}\n\n{text}" for title, text in parts if text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON lines")
    parser.add_argument("--tables", default=",".join(TABLES), help="which, in which order; default: all")
    args = parser.parse_args()
    names = args.tables.split(",")
    if unknown := set(names) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if text := page(read(args.files), names):
        print(text, end="")
    else:
        sys.exit("error: these files have no line for these tables")


if __name__ == "__main__":
    main()
