"""What replaying a run as one graph is worth, and what it takes of the host.

    graphs  `bespoke bench --cuda-graph whole,off`: steady state, the host's call with the same pointers and with others, and the
            gap between kernels: the device's time of a replay less the sum of its kernels' own times, by kernel
    switch  a shape again and again against eight known shapes in turn
"""
import pathlib
import sys

import kernels
import workloads
from cells import NOISE, markdown, median, number, of, order, ratio, verdict
from steps import objects

REPLAY = pathlib.Path(__file__).resolve().parent / "time_replay.py"
LIMITS = {"graphs": 180, "switch": 120}
SWITCHED = ["bert", "llm", "ppocrv4_rec"]
SHAPES, ROUNDS = 8, 12


def graphs(ctx):
    probe = kernels.Probe(ctx)
    if probe.reason:
        ctx.emit(kind="skip", step="graphs", what="times of kernels within a replay", reason=probe.reason)
    if ctx.gpu:
        _, text = ctx.run("graphs", "PyTorch's replay", [sys.executable, REPLAY], limit=60)
        for row in objects(text):
            ctx.emit(kind="torch-replay", **row)
    for name in ctx.names("graphs"):
        shapes = workloads.points(name, ctx.size)
        rows = ctx.bench("graphs", name, shapes, ["eager"], ("whole", "off"), flags={"--host-time": True, "--dump-profile": True})
        whole = {r["label"]: r for r in rows if r["graph"] == "whole"}
        off = {r["label"]: r for r in rows if r["graph"] == "off"}
        busy = probe.busy_ms(name, shapes)
        for shape in shapes:
            label = workloads.label(name, shape)
            on, without = whole.get(label), off.get(label)
            if not on or not without:
                continue
            host, alone = on["host_time"], without["host_time"]
            busy_ms, idle_ms = busy.get(label, (None, None))
            ctx.emit(kind="graphs", model=name, shape=label, nodes=on["steps"], on_ms=on["steady_ms"],
                     off_ms=without["steady_ms"], on_queued_ms=host["queued_ms"], off_queued_ms=alone["queued_ms"],
                     call_us=host["call_us"], moved_call_us=host["moved_call_us"], pointers=host["pointers"],
                     behind_us=host["behind_us"], moved_behind_us=host["moved_behind_us"], off_call_us=alone["call_us"],
                     profile_ms=(on.get("profile") or {}).get("sum_ms"), busy_ms=busy_ms, idle_ms=idle_ms)


def switch(ctx):
    for name in ctx.names("switch", SWITCHED):
        shapes = workloads.away(name, ctx.size, SHAPES)
        # each once, waited for; each in a row; all in turn
        requests = shapes + [s for s in shapes for _ in range(ROUNDS)] + shapes * ROUNDS
        events, _ = ctx.replay("switch", name, "switch lazy", requests, "lazy", extra=["--wait-specialized"])
        runs = ctx.runs(events)[len(shapes):]
        same, turn = runs[:len(shapes) * ROUNDS], runs[len(shapes) * ROUNDS:]
        for i, shape in enumerate(shapes):
            # the first of a row changes the shape
            row = [r["latency_us"] / 1e3 for r in same[i * ROUNDS + 1:(i + 1) * ROUNDS]]
            mixed = [r["latency_us"] / 1e3 for r in turn if r["shapes"] == shape]
            if row and mixed:
                ctx.emit(kind="switch", model=name, shape=workloads.label(name, shape), same_ms=median(row),
                         turn_ms=median(mixed))


def graphs_table(rows):
    found = sorted(of(rows, "graphs"), key=lambda r: order(r["model"], r["shape"]))
    if not found:
        return ""
    body, worst = [], {}

    def note(what, value, row):
        if value is not None and (what not in worst or value > worst[what][0]):
            worst[what] = value, f"{row['model']} {row['shape']}"

    bound, least = [], None
    for r in found:
        gain = ratio(r["off_ms"], r["on_ms"])
        own = r["busy_ms"]
        gap = (r["on_queued_ms"] - own) * 1e3 / r["nodes"] if own is not None and r["nodes"] else None
        free = r["idle_ms"] * 1e3 / r["nodes"] if r["idle_ms"] is not None and r["nodes"] else None
        each = (r["moved_call_us"] - r["call_us"]) / max(1, r["pointers"])
        note("on by off", ratio(r["on_ms"], r["off_ms"]), r)
        note("gap", gap, r)
        note("idle", free, r)
        note("call", r["call_us"], r)
        note("moved", r["moved_call_us"] - 10 - 1.5 * r["pointers"], r)
        note("behind", r["behind_us"], r)
        note("moved behind", r["moved_behind_us"] - 10 - 1.5 * r["pointers"], r)
        if r["off_call_us"] / 1e3 > r["on_queued_ms"]:
            bound.append(f"{r['model']} {r['shape']}")
            least = gain if least is None else min(least, gain)
        body.append([r["model"], r["shape"], str(r["nodes"]), number(r["on_ms"]), number(r["off_ms"]), number(gain),
                     number(r["on_queued_ms"]), number(r["off_queued_ms"]), number(own), number(r["profile_ms"]),
                     number(gap), number(free), number(r["call_us"]), number(r["moved_call_us"]), str(r["pointers"]), number(each),
                     number(r["behind_us"]), number(r["moved_behind_us"]), number(r["off_call_us"])])
    head = ["model", "shape", "nodes", "on", "off", "off / on", "on, queued", "off, queued", "kernels", "kernels, marked",
            "gap a node, µs", "idle a node, µs", "call, µs", "call, others, µs", "pointers", "each, µs", "behind, µs", "behind, others, µs",
            "call off, µs"]
    text = markdown(head, body)
    text += (
        "\nms but where the head says µs. On and off: a run of which the host awaits the end, with graph and without. Queued: a "
        "run's part of many that are queued before any is awaited; with the graph on, that is the device's time. Kernels: the "
        "sum of the kernels' own times in a replay, by CUPTI; marked: launch by launch between two marks, which each read some "
        "µs longer. Gap: queued less kernels, by node. Idle: the time in which no kernel of a replay is at work, by the same "
        "records, which keep kernels further apart than they are without, by node. Call: from the call of a run until it is queued, with the pointers of "
        "the run before and with others, on a device that the host has waited for; behind: the same while the device is at another "
        "run.\n\n")

    def at(what):
        return worst.get(what, (None, ""))

    text += verdict(f"graph on by off, worst ({at('on by off')[1]})", at("on by off")[0], NOISE)
    text += verdict(f"gap a node, worst ({at('gap')[1]})", at("gap")[0], 1, " µs")
    text += verdict(f"idle a node, worst ({at('idle')[1]})", at("idle")[0], 1, " µs")
    text += verdict(f"host time of a replay, worst ({at('call')[1]})", at("call")[0], 10, " µs")
    text += verdict(f"beyond 10 µs and 1.5 µs a changed pointer, worst ({at('moved')[1]})", at("moved")[0], 0, " µs")
    text += verdict(f"host time of a replay behind another, worst ({at('behind')[1]})", at("behind")[0], 10, " µs")
    what = f"behind another, beyond 10 µs and 1.5 µs a changed pointer, worst ({at('moved behind')[1]})"
    text += verdict(what, at("moved behind")[0], 0, " µs")
    text += verdict(f"off by on where the host takes longer than the device ({', '.join(bound) or 'nowhere'})", least, 1.23,
                    least=True)
    return text + replay_table(rows)


def replay_table(rows):
    """What the driver alone takes."""
    found = of(rows, "torch-replay")
    if not found:
        return ""
    body = [[str(r["nodes"]), number(r["ms"]), number(r["call_us"]), number(r["behind_us"])] for r in found]
    head = ["nodes", "ms a replay", "call, µs", "behind, µs"]
    return f"\nFor comparison PyTorch's `CUDAGraph.replay` of matrix products in a row:\n\n{markdown(head, body)}"


def switch_table(rows):
    found = sorted(of(rows, "switch"), key=lambda r: order(r["model"], r["shape"]))
    if not found:
        return ""
    body = [[r["model"], r["shape"], number(r["same_ms"]), number(r["turn_ms"]), number(ratio(r["turn_ms"], r["same_ms"]))]
            for r in found]
    text = markdown(["model", "shape", "again and again", "in turn", "ratio"], body) + "\nMedian ms of wall time a run.\n\n"
    for model in dict.fromkeys(r["model"] for r in found):
        own = [r for r in found if r["model"] == model]
        text += verdict(f"{model}: {len(own)} shapes in turn by each again and again",
                        ratio(sum(r["turn_ms"] for r in own), sum(r["same_ms"] for r in own)), NOISE)
    return text
