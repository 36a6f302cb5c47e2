"""Turns the JSON lines of a measurement into Markdown tables.

    python3 benches/peers/table.py results.jsonl [MORE.jsonl ...] [--tables machine,peers,strategies,checks,steps]

Lines of several files are merged; where two measure the same, the later one counts. Which kinds of lines there are:

    machine   what the numbers were measured on
    peer      a peer at a shape; peer.py says what its fields are
    bespoke   a measurement of `bespoke bench`, {model, shape, cache} replaced and the {step} added
    check     {model, shape, strategy, status, max_abs, max_rel, reason}
    trace, stall, decode, graphs, switch, start, together, kill, costs
              what the steps of benches/adaptive have found; their own files make their tables
    step      a process that ran: {step, what, seconds, outcome}
    skip, fail  something that was not measured, with its reason
"""
import argparse
import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "adaptive"))

import cache
import costs
import gain
import graphs
import stall
import workloads
from cells import markdown, mean, number, of, order
from steps import STRATEGIES

PEERS = {("torch", "eager"): "torch eager", ("torch", "compile"): "torch.compile",
         ("torch", "compile-dynamic"): "torch.compile, dynamic", ("torch", "compile-autotune"): "torch.compile, max-autotune",
         ("onnxruntime", "cuda"): "ORT CUDA", ("onnxruntime", "cuda-graph"): "ORT CUDA, fixed, graph",
         ("tensorrt-rtx", "cold"): "TensorRT RTX", ("tensorrt-rtx", "warm"): "TensorRT RTX, warm"}


def read(files):
    """All lines, those that are no JSON object left out with a note: a process that was stopped may leave half a line."""
    rows = []
    for file in files:
        for place, line in enumerate(pathlib.Path(file).read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict) and "kind" in row:
                rows.append(row)
            else:
                print(f"note: {file}:{place} is no result and is left out", file=sys.stderr)
    return rows


def peers(rows):
    """Steady state of everything at every shape, and how the specialised kernels compare with the best peer."""
    times, ours, why = {}, {}, {}
    for row in of(rows, "skip", "fail"):
        if "mode" in row and "shape" in row:
            word = "skipped" if row["kind"] == "skip" else "failed"
            why[row["model"], row["shape"], (row["peer"], row["mode"])] = word
    for row in of(rows, "peer"):
        if row["wall_ms"] is not None and not row["trace"]:
            times[row["model"], row["shape"], (row["peer"], row["mode"])] = row["wall_ms"]
    for row in of(rows, "bespoke"):
        # graphs are how bespoke runs; a time without them counts only if there is none with
        key = row["model"], row["shape"], row["strategy"]
        if key not in ours or row["graph"] != "off" or ours[key][1] == "off":
            ours[key] = row["steady_ms"], row["graph"]
    modes = [m for m in PEERS if any(key[2] == m for key in [*times, *why])]
    points = sorted({key[:2] for key in [*times, *ours]}, key=lambda p: order(*p))
    body, ratios = [], []
    for point in points:
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
    head = ["model", "shape", *(PEERS[m] for m in modes), "generic", "specialised", "ratio"]
    text = markdown(head, body) + "\nMedian ms of wall time a run. Ratio: specialised to the best peer; below 1 is faster."
    if ratios:
        text += f" Geometric mean of {len(ratios)} ratios: {mean(ratios):.2f}."
    legend = "; ".join(f"{m}: {workloads.LEGEND[m]}" for m in workloads.LEGEND if any(p[0] == m for p in points))
    return f"{text} Shapes are {legend}.\n"


def first_results(rows):
    """How long until the first result at a shape, which is where adapting differs from compiling ahead."""
    first = {}
    for row in of(rows, "peer"):
        key = row["peer"], row["mode"]
        if row["trace"]:
            continue
        first[row["model"], row["shape"], PEERS.get(key, " ".join(key))] = row["first_s"] * 1e3
    for row in of(rows, "bespoke"):
        if row["strategy"] in ("none", "eager") and row["graph"] != "off" and row["cache"] != "warm":
            name = "generic" if row["strategy"] == "none" else "specialised"
            first[row["model"], row["shape"], name] = row["first_ms"]
    columns = [c for c in [*PEERS.values(), "generic", "specialised"] if any(key[2] == c for key in first)]
    points = sorted({key[:2] for key in first}, key=lambda p: order(*p))
    if not points:
        return ""
    body = [[*p, *(number(first.get((*p, c))) for c in columns)] for p in points]
    text = "\nms until the first result at a shape, the model being loaded already.\n"
    return markdown(["model", "shape", *columns], body) + text


def memory(rows):
    """Peak device memory of everything at every shape."""
    most, counted = {}, {}
    for row in of(rows, "peer"):
        if row.get("memory_bytes"):
            name = PEERS.get((row["peer"], row["mode"]), row["peer"])
            most[row["model"], row["shape"], name] = row["memory_bytes"] / (1 << 20)
            counted[name] = row["memory_of"]
    for row in of(rows, "bespoke"):
        if row["strategy"] in ("none", "eager", "lazy") and row["graph"] != "off" and row["device"].find("host") < 0:
            name = "generic" if row["strategy"] == "none" else "specialised"
            most[row["model"], row["shape"], name] = row["session_memory_bytes"] / (1 << 20)
    columns = list(dict.fromkeys(key[2] for key in most))
    points = sorted({key[:2] for key in most}, key=lambda p: order(*p))
    if not points:
        return ""
    body = [[*p, *(number(most.get((*p, c))) for c in columns)] for p in points]
    by_card = ", ".join(name for name, of_whom in counted.items() if of_whom == "card") or "none"
    return markdown(["model", "shape", *columns], body) + (
        "\nMiB of device memory at most until then: weights, temporaries, inputs and outputs, as each counts its own; of these, "
        f"the whole card's use less what was before: {by_card}.\n")


def strategies(rows):
    """What happens once, and the steady state, for every strategy with and without graph, cache cold and warm."""
    lines = {}
    for row in of(rows, "bespoke"):
        # `gain` and its like time what these tell in full
        if row["step"] in ("bench", "strategies", "matrix"):
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
        what = " ".join(str(row[k]) for k in ("step", "peer", "what", "model", "shape", "mode") if k in row)
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
    "memory": ("Memory", memory),
    "gain": ("What specialising gains", gain.gain_table),
    "trace": ("Away from the shape that was tuned for", gain.trace_table),
    "stall": ("Whether a run is ever held up", stall.stall_table),
    "decode": ("A growing cache", stall.decode_table),
    "graphs": ("Graphs", graphs.graphs_table),
    "switch": ("Known shapes in turn", graphs.switch_table),
    "start": ("From process start to steady state", cache.start_table),
    "safety": ("Processes that share a cache", cache.safety_table),
    "costs": ("Costs", costs.costs_table),
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
