"""What the kernel cache is worth, and what it withstands.

    start     process start to steady state at the shape that an engine would be tuned for, cache empty and then full
    together  eight processes at once on one empty folder
    kill      processes killed at 200 random moments while they fill a folder, which is verified after each round
"""
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import workloads
from cells import markdown, number, of, ratio, verdict
from steps import objects, read_events

LIMITS = {"start": 120, "together": 120, "kill": 180}
STARTED = ["unet", "dit", "bert", "llm"]
PROCESSES = 8
KILLS = 200
# loads the driver and makes a context, as every process that computes must
DRIVER = """
import ctypes, time
start = time.perf_counter()
cuda = ctypes.CDLL("libcuda.so.1")
device, context = ctypes.c_int(), ctypes.c_void_p()
if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
    raise SystemExit("no device")
if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
    raise SystemExit("no context")
print('{"ms": %f}' % ((time.perf_counter() - start) * 1e3))
"""


def start(ctx):
    driver = []
    for _ in range(3 if ctx.gpu else 0):
        _, text = ctx.run("start", "the driver alone", [sys.executable, "-c", DRIVER], limit=30)
        driver += [row["ms"] for row in objects(text)]
    for name in ctx.names("start", STARTED):
        folder = ctx.cache(f"{name}-start", empty=True)
        for state in ("cold", "warm"):
            events = ctx.scratch / "events.jsonl"
            events.unlink(missing_ok=True)
            rows = ctx.bench("start", name, [workloads.opt(name, ctx.size)], ["lazy"], state=state, flags={
                "--cache-dir": folder, "--max-duration": 1, "--warm-up": 0, "--events": events})
            for row in rows[:1]:
                heard = read_events(events)
                begun = next((e["begin_us"] for e in heard if e["event"] == "run"), None)
                installed = [e["at_us"] for e in heard if e["event"] == "install"]
                after = [max(0, at - begun) / 1e3 for at in installed] if begun is not None else []
                phases = ("open_ms", "load_ms", "first_ms", "specialize_ms")
                ctx.emit(kind="start", model=name, shape=row["label"], cache=state, **{p: row[p] for p in phases},
                         weights_ms=row["weights_ms"], steady_ms=row["steady_ms"],
                         total_ms=sum(row[p] for p in phases), driver_ms=min(driver, default=None),
                         first_install_ms=min(after, default=None), last_install_ms=max(after, default=None),
                         compiled=row["load_compiled"] + row["compiled"], compile_ms=row["compile_ms"], cached=row["load_cached"] + row["cached"])


def subject(ctx, step):
    """The model of the other steps: the one with the fewest weights that there is."""
    return next(iter(ctx.names(step, ["bert", *ctx.args.names])), None)


def command(ctx, name, folder, *extra):
    return [ctx.bespoke, "run", ctx.file(name), "--shapes", workloads.flag(workloads.opt(name, ctx.size)), "--specialize",
            "eager", "--iterations", 2, "--cache-dir", folder, *ctx.place(), "--quiet", *extra]


def stats(ctx, folder):
    """Entries of a cache, and whether all are whole."""
    def ask(what):
        done = subprocess.run([str(ctx.bespoke), "cache", what, "--cache-dir", str(folder), "--json"], capture_output=True,
                              text=True, env=ctx.env, check=False)
        return done.returncode, done.stdout

    try:
        entries = json.loads(ask("stats")[1])["entries"]
    except (json.JSONDecodeError, KeyError):
        entries = None
    return entries, ask("verify")[0] == 0


def together(ctx):
    name = subject(ctx, "together")
    if not name:
        return
    folder = ctx.cache(f"{name}-together", empty=True)

    def one(i):
        out = ctx.scratch / f"together-{i}"
        code, text = ctx.run("together", f"{name} process {i}", command(ctx, name, folder, "--json", "--output", out))
        document = json.loads(text) if code == 0 else {}
        content = [f.read_bytes() for f in sorted(out.glob("output_*.npy"))] if code == 0 else None
        shutil.rmtree(out, ignore_errors=True)
        return code, document.get("compile", {}).get("compiled", 0), content

    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        ended = list(pool.map(one, range(PROCESSES)))
    entries, whole = stats(ctx, folder)
    contents = [content for code, _, content in ended if code == 0]
    ctx.emit(kind="together", model=name, processes=PROCESSES, right=len(contents),
             alike=sum(c == contents[0] for c in contents), compiled=sum(c for _, c, _ in ended), keys=entries, whole=whole)


def kill(ctx):
    name = subject(ctx, "kill")
    if not name:
        return
    folder = ctx.cache(f"{name}-kill", empty=True)
    end = time.monotonic() + min(ctx.args.limits["kill"], ctx.recorder.left())
    began = time.monotonic()
    code, _ = ctx.run("kill", f"{name} unharmed", command(ctx, name, folder))
    if code != 0:
        return
    whole_run, complete = time.monotonic() - began, stats(ctx, folder)[0] or 0
    shutil.rmtree(folder, ignore_errors=True)
    at_a_time = min(16, max(PROCESSES, os.cpu_count() or 1))
    chance = random.Random(0)
    kills = rounds = damaged = most = 0
    while kills < KILLS and time.monotonic() + 2 * whole_run < end:
        began = time.monotonic()
        children = []
        for _ in range(min(at_a_time, KILLS - kills)):
            child = subprocess.Popen([str(c) for c in command(ctx, name, folder)], env=ctx.env, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            children.append((began + chance.uniform(0.02, whole_run), child))
        for moment, child in sorted(children, key=lambda c: c[0]):
            time.sleep(max(0, moment - time.monotonic()))
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                kills += 1
            child.wait()
        entries, whole = stats(ctx, folder)
        rounds, damaged, most = rounds + 1, damaged + (not whole), max(most, entries or 0)
        if (entries or 0) * 4 > complete * 3:
            # too little is left to write
            shutil.rmtree(folder, ignore_errors=True)
    code, _ = ctx.run("kill", f"{name} afterwards", command(ctx, name, folder))
    after = "was stopped" if code is None else "works" if code == 0 else "FAILS"
    ctx.emit(kind="kill", model=name, kills=kills, rounds=rounds, damaged=damaged, entries=most, afterwards=after)
    print(f"kill       {name}: {kills} kills in {rounds} rounds, {damaged} rounds with damage", flush=True)


def start_table(rows):
    found = {(r["model"], r["cache"]): r for r in of(rows, "start")}
    if not found:
        return ""
    body = [[r["model"], r["shape"], r["cache"], *(number(r[k]) for k in (
        "open_ms", "load_ms", "weights_ms", "first_ms", "specialize_ms", "total_ms", "first_install_ms", "last_install_ms",
        "compile_ms")), f"{r['compiled']} / {r['cached']}"] for r in found.values()]
    head = ["model", "shape", "cache", "open", "load", "of that weights", "first run", "specialise", "in all", "first install",
            "last install", "compile", "compiled / from cache"]
    text = markdown(head, body) + ("\nms. Installs are counted from the call of the first run; compile is the sum over the "
                                   "compiler's threads.\n\n")
    for model in dict.fromkeys(m for m, _ in found):
        cold, warm = found.get((model, "cold")), found.get((model, "warm"))
        if not (cold and warm):
            continue
        rest = [r["total_ms"] - r["weights_ms"] for r in (cold, warm)]
        text += verdict(f"{model}: start to steady state less the weights' load, cold by warm", ratio(*rest), 16, least=True)
        first = sum(cold[k] for k in ("open_ms", "load_ms", "first_ms")) - cold["weights_ms"]
        text += verdict(f"{model}: start to first result less the weights' load, cold", first / 1e3, 2, " s")
        if warm["driver_ms"] is not None:
            beyond = (rest[1] - warm["driver_ms"]) / 1e3
            text += verdict(f"{model}: warm, beyond the driver's own start of {number(warm['driver_ms'])} ms", beyond, 0.3, " s")
        if cold["first_install_ms"] is not None:
            text += verdict(f"{model}: first sight to steady state, cold", cold["first_install_ms"] / 1e3, 4, " s")
    return text


def safety_table(rows):
    text = ""
    for r in of(rows, "together"):
        text += (f"- {r['processes']} processes on one empty folder ({r['model']}): {r['right']} ended well, {r['alike']} with "
                 f"the same bits; the folder is {'whole' if r['whole'] else 'DAMAGED'}\n")
        text += verdict(f"compiles in all ({r['compiled']}) by distinct keys ({r['keys']})", ratio(r["compiled"], r["keys"]), 1.5)
    for r in of(rows, "kill"):
        text += (f"- {r['kills']} of {r['model']}'s processes killed while they filled a folder, verified {r['rounds']} times; "
                 f"up to {r['entries']} entries; a run afterwards {r['afterwards']}\n")
        text += verdict("rounds after which the folder was damaged", r["damaged"], 0)
    return text
