"""Times the host device against ONNX Runtime's CPU provider, on the real models and their committed inputs.

    python3 -m pip install -r models/requirements.txt
    cargo xtask models
    cargo build --release -p bespoke-cli
    python3 benches/host/time_onnxruntime.py

Both sides get the same inputs, the same number of threads and the same processors, as many as there are threads. They
take turns: a round is some runs of ONNX Runtime, then some of bespoke in a process of its own, so that a machine that
slows down slows both. The first runs of each round warm up and are not counted. ONNX Runtime has all its optimisations;
both times go from host tensors in to host tensors out, a model being loaded.

Prints a Markdown table: medians in ms over all rounds, and their ratio; a model's ratio is the geometric mean over its
sets, and the last line that over the models.
"""
import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PINNED = "1.31.1"
WARM = 3


class Failed(Exception):
    """bespoke did not run; the text says why."""


def mean(values):
    """Geometric."""
    return math.exp(sum(map(math.log, values)) / len(values))


def pin(threads):
    """Keeps this process and its children to as many processors as there are threads."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        sys.exit(f"error: {threads} threads are wanted and {len(allowed)} processors may be used; name fewer --threads")
    os.sched_setaffinity(0, allowed[:threads])
    return f"pinned to {threads} of {len(allowed)} processors"


def processor():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read_inputs(folder):
    """The inputs of a set: (name, file, array), in order."""
    import onnx
    from onnx import numpy_helper

    count = len(list(folder.glob("input_*.pb")))
    files = [folder / f"input_{i}.pb" for i in range(count)]
    tensors = [onnx.load_tensor(str(file)) for file in files]
    return [(t.name, file, numpy_helper.to_array(t)) for t, file in zip(tensors, files)]


def ort_session(file, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def time_ort(session, feeds, runs):
    for _ in range(WARM):
        session.run(None, feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def time_bespoke(args, file, inputs, runs):
    command = [args.bespoke, "run", file, "--device", "host", "--threads", args.threads, "--specialize", args.specialize,
               "--cache", "off", "--wait-specialized", "--iterations", WARM + runs, "--json", "--quiet"]
    for name, path, _ in inputs:
        command += ["--input", f"{name}={path}"]
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=args.timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"stopped after {args.timeout} s") from None
    try:
        document = json.loads(done.stdout)
    except json.JSONDecodeError:
        document = {}
    if done.returncode != 0 or "runs" not in document:
        reason = document.get("error") or (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise Failed(f"exit status {done.returncode}: {reason}")
    return [run["latency_us"] / 1e3 for run in document["runs"][WARM:]]


def compare(args, name, folder):
    """One set of one model."""
    file = args.models / name / "model.onnx"
    inputs = read_inputs(folder)
    session = ort_session(file, args.threads)
    feeds = {n: array for n, _, array in inputs}
    start = time.perf_counter()
    session.run(None, feeds)
    once = time.perf_counter() - start
    runs = max(5, min(args.runs, int(args.seconds / once)))
    theirs, ours = [], []
    for _ in range(args.rounds):
        theirs += time_ort(session, feeds, runs)
        ours += time_bespoke(args, file, inputs, runs)
    ort, bespoke = statistics.median(theirs), statistics.median(ours)
    shapes = ", ".join("×".join(map(str, a.shape)) for _, _, a in inputs)
    return dict(kind="host", model=name, set=folder.name, shapes=shapes, onnxruntime_ms=round(ort, 4),
                bespoke_ms=round(bespoke, 4), ratio=round(bespoke / ort, 3), runs=len(theirs), threads=args.threads)


def table(rows):
    """Rows by model, a model's mean behind its sets, the mean over models last. Returns text and mean."""
    lines = ["| model | inputs | ONNX Runtime | bespoke | ratio |", "| --- | --- | --: | --: | --: |"]
    means = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        for row in mine:
            if "reason" in row:
                lines.append(f"| {name} | {row['set']} | – | {row['reason']} | – |")
            else:
                lines.append(f"| {name} | {row['shapes']} | {row['onnxruntime_ms']:.3f} | {row['bespoke_ms']:.3f} "
                             f"| {row['ratio']:.2f} |")
        ratios = [row["ratio"] for row in mine if "ratio" in row]
        if ratios:
            means[name] = mean(ratios)
            if len(ratios) > 1:
                lines.append(f"| {name} | mean of {len(ratios)} | | | {means[name]:.2f} |")
    total = mean(means.values()) if means else None
    if total:
        lines.append(f"| **geometric mean** | {len(means)} models | | | **{total:.2f}** |")
    return "\n".join(lines), total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; default: all that have data")
    parser.add_argument("--bespoke", type=pathlib.Path, default=ROOT / "target/release/bespoke",
                        help="default: target/release/bespoke")
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "target/models", help="default: target/models")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "models/data", help="default: models/data")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--specialize", choices=["none", "eager", "lazy"], default="lazy", help="default: lazy")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--runs", type=int, default=30, help="counted runs of a round at most; default: 30")
    parser.add_argument("--seconds", type=float, default=2, help="of ONNX Runtime in a round, about; default: 2")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a process of bespoke; default: 300")
    parser.add_argument("--at-most", type=float, metavar="X", help="end with exit status 1 if the mean is above X")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="also write JSON lines there")
    args = parser.parse_args()
    known = sorted(folder.parent.name for folder in args.data.glob("*/test_data_set_0"))
    if unknown := set(args.names) - set(known):
        parser.error(f"{args.data} has no data of {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not known:
        parser.error(f"{args.data} has no NAME/test_data_set_0")
    if not os.access(args.bespoke, os.X_OK):
        parser.error(f"there is no {args.bespoke}: run `cargo build --release -p bespoke-cli`, or name it with --bespoke")
    names = args.names or known
    if missing := [n for n in names if not (args.models / n / "model.onnx").exists()]:
        parser.error(f"{args.models} lacks {', '.join(missing)}: run `cargo xtask models`")
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        sys.exit(f"error: {error}: pip install -r models/requirements.txt")
    if onnxruntime.__version__ != PINNED:
        print(f"note: ONNX Runtime {PINNED} is what results are compared with; this is {onnxruntime.__version__}",
              file=sys.stderr)
    placed = pin(args.threads)

    rows = []
    for name in names:
        folders = sorted((args.data / name).glob("test_data_set_*"), key=lambda f: int(f.name.rpartition("_")[2]))
        for folder in folders:
            try:
                row = compare(args, name, folder)
            except Failed as error:
                row = dict(kind="fail", model=name, set=folder.name, reason=str(error)[:300])
            rows.append(row)
            print(f"{name} {folder.name}: {row.get('ratio', row.get('reason'))}", file=sys.stderr, flush=True)
            if args.out:
                args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, total = table(rows)
    version = subprocess.run([str(args.bespoke), "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{version}; ONNX Runtime {onnxruntime.__version__}; {processor()}; {args.threads} threads each, {placed}; "
          f"medians of {args.rounds} rounds, ms\n\n{text}")
    if any("reason" in row for row in rows):
        sys.exit("error: not every model ran; the table has the reasons")
    if args.at_most and total > args.at_most:
        sys.exit(f"error: the mean ratio {total:.2f} is above {args.at_most:g}")


if __name__ == "__main__":
    main()
