"""Measures bespoke and its peers on a GPU machine, in one run, and writes the tables.

    python3 benches/peers/run_all.py --bundle target/bundle --out OUT

Needs a checkout of this repository, the unpacked bundle (`cargo xtask bundle` elsewhere makes it), a Python with the
packages of models/builders/requirements.txt and an NVIDIA GPU; no Rust. `--steps` names what is done, in that order; the steps
are those of measure.py (in all: `peers`) and of benches/adaptive (in all: `adaptive`), whose files say what each does.

OUT gets results.jsonl (see table.py), table.md and log.txt, all kept up to date while it runs. A process that fails or
passes its time limit is a line in them, and the next one runs; what does not fit into --minutes is left out and said.
"""
import argparse
import os
import pathlib
import shutil
import sys
import tempfile
import time

import machine
import measure
import table
import workloads
from recorder import Recorder
from steps import STRATEGIES, Context

import cache
import costs
import gain
import graphs
import stall

ROOT = pathlib.Path(__file__).resolve().parents[2]
# stall comes first: it begins with an empty cache, and what it compiles the others have
ADAPTIVE = {
    "stall": stall.stall, "decode": stall.decode, "trace": gain.trace, "peers-trace": gain.peers_trace, "gain": gain.gain,
    "graphs": graphs.graphs, "switch": graphs.switch, "start": cache.start, "together": cache.together, "kill": cache.kill,
    "costs": costs.costs,
}
STEPS = measure.STEPS | ADAPTIVE
GROUPS = {"peers": list(measure.STEPS), "adaptive": list(ADAPTIVE)}
# seconds that one process of a step may take
LIMITS = measure.LIMITS | stall.LIMITS | gain.LIMITS | graphs.LIMITS | cache.LIMITS | costs.LIMITS


def about(args):
    """What the numbers depend on."""
    packages = ("torch", "triton", "transformers", "diffusers", "torchvision", "onnxruntime-gpu", "tensorrt-rtx")
    facts = machine.facts(args.bundle / "bespoke") | {name: machine.version(name) for name in packages}
    return facts | {"measured runs": f"at most {args.runs}", "reference data": f"PyTorch {args.reference} on {args.device}"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commas = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument("--bundle", type=pathlib.Path, default=ROOT / "target/bundle",
                        help="folder with bespoke; default: target/bundle")
    parser.add_argument("--models", type=pathlib.Path,
                        help="folder with ppocrv4_rec and nvrtc, if they are there; default: bundle-models beside the bundle")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/full",
                        help="where the exported models go, about 10 GB; default: target/full")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the results go")
    parser.add_argument("--steps", type=commas, default=["peers"], help=f"of {', '.join(STEPS)}; peers and adaptive are all of "
                        "measure.py and of benches/adaptive; default: peers")
    known = [*workloads.NAMES, *workloads.FETCHED]
    parser.add_argument("--names", type=commas, default=known, help=f"default: {','.join(known)}")
    parser.add_argument("--minutes", type=float, default=9, help="for everything; default: 9")
    parser.add_argument("--limit", action="append", default=[], metavar="STEP=SECONDS",
                        help=f"for one process of a step; default: {' '.join(f'{k}={v}' for k, v in LIMITS.items())}")
    parser.add_argument("--reuse", action="store_true", help="do not export again what --work holds whole")
    parser.add_argument("--caches", type=pathlib.Path, help="where the kernel caches of the steps lie, to keep them for the next "
                        "run; default: a folder that is removed")
    parser.add_argument("--reference", choices=["fp16", "fp32", "none"], default="fp16",
                        help="precision of PyTorch's references; none: no reference data, which only check needs")
    parser.add_argument("--check-strategies", type=commas, default=["none", "eager"], help="default: none,eager")
    parser.add_argument("--modes", default="eager,compile",
                        help="of time_torch.py, also compile-dynamic and compile-autotune; default: eager,compile")
    parser.add_argument("--torch-alone", action="store_true", help="no two models at a time, for exact first_s; slower")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of a measurement; default: 30")
    parser.add_argument("--bench-seconds", type=float, default=3, help="of timed runs of a measurement; default: 3")
    parser.add_argument("--warm-up", type=float, default=300, help="ms of runs before timed ones; default: 300")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="host: to try this program")
    parser.add_argument("--target", metavar="sm_XX", help="with --device host: compile for this card, which the cache steps need")
    parser.add_argument("--shapes", type=int, default=20, help="shapes of a trace; default: 20")
    parser.add_argument("--stall-seconds", type=float, default=12, help="over which the requests of stall come; default: 12")
    parser.add_argument("--decode-seconds", type=float, default=6, help="from the first step of decode to the rest; default: 6")
    parser.add_argument("--costs-workers", type=int, default=4, help="kernels that costs compiles at a time; default: 4")
    args = parser.parse_args()
    args.models = args.models or args.bundle.parent / "bundle-models"
    args.limits = dict(LIMITS)
    for text in args.limit:
        step, _, seconds = text.partition("=")
        if step not in STEPS or not seconds.isdigit():
            parser.error(f"--limit {text}: write STEP=SECONDS with one of {', '.join(LIMITS)}")
        args.limits[step] = int(seconds)
    args.steps = [step for name in args.steps for step in GROUPS.get(name, [name])]
    for what, given, known in (("step", args.steps, STEPS), ("model", args.names, known),
                               ("strategy", args.check_strategies, STRATEGIES[:3])):
        if unknown := [g for g in given if g not in known]:
            parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    if not args.names or not args.steps:
        parser.error("nothing to do: name at least one model and one step")
    if not set(args.steps) <= {"export", "torch"} and not os.access(args.bundle / "bespoke", os.X_OK):
        parser.error(f"{args.bundle} has no executable bespoke: run `cargo xtask bundle` where Rust is, bring target/bundle "
                     "here and name it with --bundle")
    if args.device == "cuda" and not shutil.which("nvidia-smi"):
        print("note: there is no nvidia-smi; the tables will not name the GPU", file=sys.stderr)
    return args


def main():
    args = arguments()
    recorder = Recorder(args.out, args.minutes * 60, table.page)
    recorder.emit(kind="machine", **about(args))
    with tempfile.TemporaryDirectory(prefix="bespoke-measure-") as scratch:
        ctx = Context(args, recorder, pathlib.Path(scratch))
        for step in args.steps:
            start = time.monotonic()
            try:
                STEPS[step](ctx)
            except Exception as error:  # one step's defect must not cost the others' results
                reason = f"{type(error).__name__}: {error}"
                recorder.emit(kind="fail", step=step, what="all of it", reason=reason)
                print(f"{step}: {reason}", file=sys.stderr)
            recorder.tables()
            print(f"-- {step}: {time.monotonic() - start:.0f} s, {recorder.left():.0f} s left", flush=True)
    checked = table.of(recorder.rows, "check")
    for row in checked:
        if row["status"] != "PASS":
            print(f"{row['status']}: {row['model']} {row['shape']} {row['strategy']}: {row.get('reason')}"[:300])
    if checked:
        print(f"check: {sum(r['status'] == 'PASS' for r in checked)} of {len(checked)} pass")
    print(table.page(recorder.rows, [t for t in table.TABLES if t not in ("machine", "checks", "strategies", "steps")]), end="")
    print(f"written: {args.out / 'table.md'}")


if __name__ == "__main__":
    main()
