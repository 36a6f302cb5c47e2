"""Whether adapting ever holds up a run.

    stall   two hundred runs over twenty shapes in an order of chance, lazy, kernel cache empty, requests coming over some
            seconds so that compiles and installs fall among them; each run against the generic time of its shape, which the
            same trace under `none` gives
    decode  64 steps of a language model, the cache one longer in each, against as many at one length
"""
import workloads
from cells import markdown, median, number, of, ratio, verdict

LIMITS = {"stall": 120, "decode": 60}
MODELS = ["bert", "llm", "unet", "ppocrv4_rec"]
RUNS = 200
# a run is held up if it takes so many times the generic time, or so many milliseconds more
FACTOR, EXCESS_MS = 1.5, 6.0
STEPS = 64


def paced(requests, seconds):
    return [(i * seconds / len(requests), shapes) for i, shapes in enumerate(requests)]


def stall(ctx):
    for name in ctx.names("stall", MODELS):
        shapes = workloads.away(name, ctx.size, ctx.args.shapes)
        requests = paced(workloads.shuffled(shapes, RUNS), ctx.args.stall_seconds)
        ctx.cache(name, empty=True)
        found = {}
        for strategy in ("lazy", "none"):
            events, _ = ctx.replay("stall", name, f"stall {strategy}", requests, strategy, extra=["--pace", "recorded"])
            found[strategy] = events
        generic = {}
        for run in ctx.runs(found["none"]):
            generic.setdefault(workloads.label(name, run["shapes"]), []).append(run["latency_us"] / 1e3)
        generic = {label: median(times) for label, times in generic.items()}
        for strategy, events in found.items():
            runs = ctx.runs(events)
            for run in runs:
                run["ms"], run["label"] = run["latency_us"] / 1e3, workloads.label(name, run["shapes"])
            known = [run for run in runs if run["label"] in generic]
            if not known:
                continue
            worst = max(known, key=lambda run: run["ms"] - generic[run["label"]])
            bind = [r["bind_us"] for r in runs if r["new_shape"]]
            ctx.emit(kind="stall", model=name, strategy=strategy, runs=len(known), shapes=len(bind),
                     over=sum(run["ms"] > FACTOR * generic[run["label"]] for run in known),
                     worst_excess_ms=round(worst["ms"] - generic[worst["label"]], 3), worst_shape=worst["label"],
                     worst_run=worst["run"], worst_record_us=worst["record_us"], worst_bind_us=worst["bind_us"],
                     bind_us=median(bind), bind_max_us=max(bind, default=None), recorded=sum(r["record_us"] > 0 for r in runs),
                     specialized=sum(r["generic"] == 0 for r in runs),
                     installs=sum(e["event"] == "install" for e in events))


def decode(ctx):
    name = "llm"
    if not ctx.names("decode", [name]):
        return
    start = workloads.OPT[ctx.size][name][1]
    fixed = [workloads.dims(name, (1, start), ctx.size)] * STEPS
    growing = [workloads.dims(name, (1, start + i), ctx.size) for i in range(1, STEPS + 1)]
    for strategy, kinds in (("none", ("fixed", "growing")), ("lazy", ("fixed", "growing")), ("ranges", ("fixed", "growing"))):
        for kind in kinds:
            # the first request alone, then time for what it makes compile, as the prompt before an answer gives it
            rest = growing if kind == "growing" else fixed
            wait = 0 if strategy == "none" else ctx.args.decode_seconds
            requests = [(0, fixed[0])] + [(wait, shapes) for shapes in rest]
            cache = ctx.cache(f"{name}-decode-{strategy}-{kind}", empty=True)
            events, _ = ctx.replay("decode", name, f"decode {strategy} {kind}", requests, strategy, cache=cache,
                                   extra=["--pace", "recorded"])
            runs = ctx.runs(events)[1:]
            if runs:
                ctx.emit(kind="decode", model=name, strategy=strategy, trace=kind, runs=len(runs),
                         median_ms=median(r["latency_us"] for r in runs) / 1e3,
                         max_ms=max(r["latency_us"] for r in runs) / 1e3, bind_us=median(r["bind_us"] for r in runs),
                         specialized=sum(r["generic"] == 0 for r in runs))


def stall_table(rows):
    found = of(rows, "stall")
    if not found:
        return ""
    body = [[r["model"], r["strategy"], str(r["runs"]), str(r["shapes"]), str(r["over"]), number(r["worst_excess_ms"]),
             f"run {r['worst_run']} at {r['worst_shape']}", str(r["recorded"]), f"{r['specialized']}", str(r["installs"]),
             number(r["bind_us"]), number(r["bind_max_us"])] for r in found]
    head = ["model", "strategy", "runs", "shapes", f"over {FACTOR} × generic", "worst excess, ms", "where", "graphs recorded on "
            "the path", "runs specialised", "installs", "bind median, µs", "bind max, µs"]
    text = markdown(head, body)
    text += ("\nA run against the median of its shape in the same trace under `none`, which is also in the table: what its own "
             "runs exceed is the noise of the machine.\n\n")
    for r in found:
        if r["strategy"] == "lazy":
            text += verdict(f"{r['model']}: runs over {FACTOR} × generic", r["over"], 2)
            text += verdict(f"{r['model']}: worst excess over generic", r["worst_excess_ms"], EXCESS_MS, " ms")
        if r["model"] == "unet" and r["strategy"] == "lazy":
            text += verdict("unet: binding a new shape, median", r["bind_us"], 1000, " µs")
            text += verdict("unet: binding a new shape, at most", r["bind_max_us"], 2000, " µs")
    return text


def decode_table(rows):
    found = {(r["strategy"], r["trace"]): r for r in of(rows, "decode")}
    if not found:
        return ""
    body = [[strategy, trace, str(r["runs"]), number(r["median_ms"]), number(r["max_ms"]), number(r["bind_us"]),
             str(r["specialized"])] for (strategy, trace), r in found.items()]
    text = markdown(["strategy", "length", "steps", "median, ms", "max, ms", "bind, µs", "steps specialised"], body) + "\n"

    def time(strategy, trace):
        return found.get((strategy, trace), {}).get("median_ms")

    for strategy in dict.fromkeys(s for s, _ in found):
        growth = ratio(time(strategy, "growing"), time(strategy, "fixed"))
        text += verdict(f"a growing step by a fixed one, {strategy}", growth, 1.15)
    growth = ratio(time("lazy", "growing"), time("none", "fixed"))
    return text + verdict("a growing step by a fixed one, lazy by generic", growth, 1.15)
