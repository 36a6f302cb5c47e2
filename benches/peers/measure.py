"""The steps that compare with peers: exports, agreement with PyTorch, bespoke's own times, those of every peer.

    export       the models and their reference data, all models at a time
    check        `bespoke check` at every shape, for every one of --check-strategies; goes along with export
    bench        `bespoke bench` with generic and with specialised kernels, cache empty at first
    torch        PyTorch, in --modes; models compile at a time and are measured one by one
    onnxruntime  ONNX Runtime's CUDA provider, with and without its graph
    tensorrt     TensorRT for RTX, its cache cold and warm
    strategies   `bespoke bench` for all other strategies, with graph and without
    matrix       bert and ppocrv4_rec: {none, eager, lazy, static} x {graph, no graph} x {cache cold, warm}
"""
import concurrent.futures
import json
import os
import pathlib
import sys

import workloads
from steps import STRATEGIES, objects

HERE = pathlib.Path(__file__).resolve().parent
LIMITS = {"export": 240, "check": 120, "bench": 120, "torch": 280, "onnxruntime": 120, "tensorrt": 240, "strategies": 90,
          "matrix": 60}
GRAPHS = ["whole", "off"]
# points of the matrix: the first is what `static` is tuned for
MATRIX = {"bert": [(1, 37), (8, 128)], "ppocrv4_rec": [(1, 320), (4, 480)]}


def built(ctx):
    """The models that are exported here, of those that were asked for."""
    return [n for n in ctx.args.names if n in workloads.NAMES]


def export(ctx):
    names = built(ctx)
    with concurrent.futures.ThreadPoolExecutor(max(1, len(names))) as pool:
        list(pool.map(lambda name: prepare(ctx, name, len(names)), names))


def prepare(ctx, name, at_a_time):
    args = ctx.args
    folder = args.work / name
    complete = folder / "complete"
    how = f"{args.size} {args.reference}"
    if not (args.reuse and complete.exists() and complete.read_text() == how):
        complete.unlink(missing_ok=True)
        threads = max(1, (os.cpu_count() or 1) // at_a_time)
        extra = ["--no-data"] if args.reference == "none" else ["--reference", args.reference]
        code, text = ctx.run("export", name, [
            sys.executable, workloads.BUILDERS / "export.py", "--size", args.size, "--out", args.work,
            "--device", "cuda" if ctx.gpu else "cpu", *extra, "--no-compare", name,
        ], dict(ctx.env, OMP_NUM_THREADS=str(threads)))
        print("".join(f"    {line}\n" for line in (text or "").splitlines()), end="", flush=True)
        if code != 0:
            return
        complete.write_text(how)
    if "check" in args.steps:
        check_model(ctx, name)


def check(ctx):
    if "export" not in ctx.args.steps:
        names = built(ctx)
        with concurrent.futures.ThreadPoolExecutor(max(1, len(names))) as pool:
            list(pool.map(lambda name: check_model(ctx, name), names))


def sets(ctx, name):
    """A model's reference data: (folder, extents of the inputs by name), in order."""
    import onnx

    folders = (ctx.args.work / name).glob("test_data_set_*")
    for folder in sorted(folders, key=lambda f: int(f.name.rpartition("_")[2])):
        count = len(list(folder.glob("input_*.pb")))
        tensors = [onnx.load_tensor(str(folder / f"input_{i}.pb")) for i in range(count)]
        yield folder, {t.name: tuple(t.dims) for t in tensors}


def check_model(ctx, name):
    if not ctx.ready("check", name):
        return
    for folder, shapes in sets(ctx, name):
        label = workloads.label(name, shapes)
        for strategy in ctx.args.check_strategies:
            where = dict(kind="check", model=name, shape=label, strategy=strategy)
            code, text = ctx.run("check", f"{name} {label} {strategy}", [
                ctx.bespoke, "check", ctx.file(name), "--data", folder, *ctx.place(), "--specialize", strategy, "--cache-dir",
                ctx.scratch / "check", "--json"])
            if text is None:
                return
            try:
                rows = json.loads(text)
            except json.JSONDecodeError:
                rows = None
            if isinstance(rows, list):
                for row in rows:
                    ctx.emit(**where, **{k: row.get(k) for k in ("status", "max_abs", "max_rel", "reason")})
            else:
                reason = json.dumps(rows)[:300] if rows else "it was stopped" if code is None else "no result"
                ctx.emit(**where, status="NOT RUN", reason=reason)


def full(ctx, step, rounds):
    """Rounds over all models, so that time running out takes the same from each."""
    names = ctx.names(step)
    for strategies, graphs in rounds:
        for name in names:
            ctx.bench(step, name, workloads.points(name, ctx.size), strategies, graphs)


def bench(ctx):
    full(ctx, "bench", [(["none", "eager"], ["whole"])])


def strategies(ctx):
    full(ctx, "strategies", [(["lazy", "static"], ["whole"]), (STRATEGIES, ["off"])])


def matrix(ctx):
    for name in ctx.names("matrix", MATRIX):
        shapes = [workloads.dims(name, point, ctx.size) for point in MATRIX[name]]
        for strategy in STRATEGIES:
            for graph in GRAPHS:
                flags = {"--cache-dir": ctx.cache(f"{name}-matrix-{strategy}-{graph}"), "--opt-shapes": workloads.flag(shapes[0])}
                for state in ("cold", "warm"):
                    ctx.bench("matrix", name, shapes, [strategy], [graph], state, flags)


def adapter(ctx, step, what, program, *flags):
    """One process of a peer's adapter; its lines become rows."""
    # a shape is begun only if even a slow one can end before the process would be stopped
    seconds = max(10, min(ctx.args.limits[step], ctx.recorder.left()) - 75)
    code, text = ctx.run(step, what, [
        sys.executable, HERE / program, "--size", ctx.size, "--device", "cuda" if ctx.gpu else "cpu", "--runs", ctx.args.runs,
        "--seconds", f"{seconds:.0f}", "--work", ctx.args.work, "--models", ctx.args.models, *flags])
    for row in objects(text):
        ctx.emit(**row)
    if text is not None and code != 0:
        ctx.emit(kind="fail", step=step, what=what, reason="it did not end well; log.txt has the messages")


def torch(ctx):
    names = built(ctx)
    gate = [] if ctx.args.torch_alone else ["--gate", ctx.scratch / "gate"]
    with concurrent.futures.ThreadPoolExecutor(max(1, len(names) if gate else 1)) as pool:
        one = lambda name: adapter(ctx, "torch", name, "time_torch.py", name, "--modes", ctx.args.modes, *gate)  # noqa: E731
        list(pool.map(one, names))


def onnxruntime(ctx):
    adapter(ctx, "onnxruntime", "all models", "time_onnxruntime.py", *ctx.args.names)


def tensorrt(ctx):
    adapter(ctx, "tensorrt", "all models", "time_tensorrt_rtx.py", *ctx.args.names)


STEPS = {"export": export, "check": check, "bench": bench, "torch": torch, "onnxruntime": onnxruntime, "tensorrt": tensorrt,
         "strategies": strategies, "matrix": matrix}
