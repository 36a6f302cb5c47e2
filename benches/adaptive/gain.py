"""What specialising gains: every strategy at every shape beside the best peer, and a trace of shapes that nobody tuned for.

    gain   `bespoke bench`: none, static, eager and lazy, at the shapes of the peers
    trace  twenty shapes away from the one that `static` is tuned for, ten rounds through five at a time: a shape's median
           under `static`, and under `lazy` after its compiles have ended
    peers-trace  PyTorch along the same shapes, four rounds: eager, and compiled with dynamic shapes
"""
import measure
import workloads
from cells import NOISE, markdown, mean, median, number, of, order, ratio, verdict

LIMITS = {"gain": 300, "trace": 300, "peers-trace": 240}
STRATEGIES = ["none", "static", "eager", "lazy"]
# models of the trace
TRACED = ["bert", "llm", "unet", "ppocrv4_rec"]
ROUNDS, AT_A_TIME = 10, 5
PEER_MODES, PEER_ROUNDS = "eager,compile-dynamic", 4


def gain(ctx):
    for name in ctx.names("gain"):
        ctx.bench("gain", name, workloads.points(name, ctx.size), STRATEGIES)


def trace(ctx):
    for name in ctx.names("trace", TRACED):
        shapes = workloads.away(name, ctx.size, ctx.args.shapes)
        # some at a time, so that a process that is stopped leaves the shapes that it came to
        groups = [shapes[i:i + AT_A_TIME] for i in range(0, len(shapes), AT_A_TIME)]
        requests = [shape for group in groups for shape in group * (1 + ROUNDS)]
        for strategy in ("static", "lazy"):
            # the first run of a shape is waited for and not counted
            extra = ["--wait-specialized"] if strategy == "lazy" else []
            events, _ = ctx.replay("trace", name, f"trace {strategy}", requests, strategy, extra=extra)
            runs = [run for run in ctx.runs(events) if not run["new_shape"]]
            for shape in shapes:
                own = [r for r in runs if r["shapes"] == shape]
                if own:
                    ctx.emit(kind="trace", model=name, shape=workloads.label(name, shape), strategy=strategy, runs=len(own),
                             median_ms=median(r["latency_us"] for r in own) / 1e3,
                             specialized=sum(r["generic"] == 0 for r in own))


def peers_trace(ctx):
    for name in [n for n in TRACED if n in measure.built(ctx)]:
        shapes = workloads.away(name, ctx.size, ctx.args.shapes)
        trace = workloads.write_trace(ctx.scratch / "away.jsonl", shapes * PEER_ROUNDS)
        measure.adapter(ctx, "peers-trace", name, "time_torch.py", name, "--modes", PEER_MODES, "--shape-trace", trace)


def best_peers(rows, trace=None):
    """The fastest peer at every (model, shape), along a trace or not: its time, and which it is."""
    best = {}
    for row in of(rows, "peer"):
        key = row["model"], row["shape"]
        if row["trace"] == trace and row.get("wall_ms") and (key not in best or row["wall_ms"] < best[key][0]):
            best[key] = row["wall_ms"], f"{row['peer']} {row['mode']}"
    return best


def gain_table(rows):
    times = {}
    for row in of(rows, "bespoke"):
        if row["graph"] != "off" and (row["step"] == "gain" or (row["model"], row["shape"], row["strategy"]) not in times):
            times[row["model"], row["shape"], row["strategy"]] = row["steady_ms"]
    if not any(row["step"] == "gain" for row in of(rows, "bespoke")):
        return ""
    best, eager, compiled = best_peers(rows), {}, {}
    for row in of(rows, "peer"):
        place = {"eager": eager, "compile": compiled}.get(row["mode"] if row["peer"] == "torch" and not row["trace"] else None)
        if place is not None:
            place[row["model"], row["shape"]] = row["wall_ms"]
    points = sorted({key[:2] for key in times}, key=lambda p: order(*p))
    body, against, slower, worst = [], [], [], None
    for point in points:
        generic, static, first, lazy = (times.get((*point, s)) for s in STRATEGIES)
        special = lazy if lazy is not None else first
        peer = best.get(point, (None, "–"))
        against.append(ratio(special, peer[0]))
        if (ratio(special, generic) or 0) > NOISE:
            slower.append(" ".join(point))
        far = ratio(generic, compiled.get(point))
        worst = max(filter(None, (worst, far)), default=None)
        body.append([*point, number(generic), number(static), number(first), number(lazy), number(peer[0]), peer[1],
                     number(ratio(generic, special)), number(ratio(static, lazy)), number(ratio(special, peer[0]))])
    head = ["model", "shape", "generic", "static", "eager", "lazy", "best peer", "which", "generic / lazy", "static / lazy",
            "lazy / peer"]
    text = markdown(head, body) + "\nSteady ms of wall time a run, medians, tensors on the device.\n\n"
    if mean(against):
        text += f"- lazy / best peer, geometric mean of {sum(a is not None for a in against)}: {number(mean(against))}\n"
    key = ("dit", "1536")
    text += verdict("generic by PyTorch eager on dit 1536", ratio(times.get((*key, "none")), eager.get(key)), 1.7)
    text += verdict("generic by torch.compile, anywhere", worst, 3)
    text += verdict("shapes at which specialised is slower than generic", len(slower), 0)
    return text + "".join(f"    {point}\n" for point in slower)


def trace_table(rows):
    times = {(r["model"], r["shape"], r["strategy"]): r for r in of(rows, "trace")}
    if not times:
        return ""
    body, gains, best = [], {}, best_peers(rows, "away")
    for model, shape in sorted({k[:2] for k in times}, key=lambda p: order(*p)):
        static, lazy = (times.get((model, shape, s), {}) for s in ("static", "lazy"))
        gain = ratio(static.get("median_ms"), lazy.get("median_ms"))
        gains.setdefault(model, []).append(gain)
        part = f"{lazy['specialized']} of {lazy['runs']}" if lazy else "–"
        peer = best.get((model, shape), (None, "–"))
        body.append([model, shape, number(static.get("median_ms")), number(lazy.get("median_ms")), number(gain), part,
                     number(peer[0]), peer[1]])
    head = ["model", "shape", "static", "lazy", "static / lazy", "lazy runs specialised", "best peer", "which"]
    text = markdown(head, body)
    text += "\nMedian ms of wall time a run, tensors on the device, going through five shapes in turn.\n\n"
    for model, values in gains.items():
        text += f"- {model}: geometric mean of {sum(v is not None for v in values)} shapes: {number(mean(values))}\n"
    every = [v for values in gains.values() for v in values]
    return text + verdict("lazy against static, geometric mean of all", mean(every), 1.32, least=True)
