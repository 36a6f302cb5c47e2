"""Times single operators of bespoke beside PyTorch's kernels on a machine with one GPU, and prints the tables.

    python3 benches/kernels/time_kernels.py --bespoke target/bundle/bespoke --out OUT

For every case of a table, the time of PyTorch's call in a CUDA graph of several copies (vendor.py) and that of bespoke in a model
of as many (ours.py), one right after the other. Needs numpy, onnx and PyTorch, in versions of models/builders/requirements.txt;
without PyTorch, or with `--device host`, only bespoke is timed, to try the program.

OUT gets results.jsonl (report.py says what its rows are), table.md and log.txt. A table has a limit on its time (`--seconds`,
`--limit TABLE=SECONDS`); what did not fit is left out and said. `--read` makes the tables of results that are there.
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "peers"))

import attention
import errors
import gemm
import machine
import memory
import model
import report
from ours import Ours
from recorder import Recorder
from vendor import Missing, Vendor

TABLES = {t.name: t for t in (gemm.LARGE_TABLE, gemm.SMALL_TABLE, attention.TABLE, memory.TABLE)}


def page(rows):
    """Everything that has rows, each under its heading."""
    text = f"## Machine\n\n{report.machine(rows)}"
    for table in TABLES.values():
        results = report.Results(rows, table.name)
        if results.cases:
            text += f"\n## {table.title}\n\n{table.page(results)}"
    left = report.left_out(rows)
    return text + (f"\n## What was left out, and what ran\n\n{left}" if left else "")


def about(args):
    """What the numbers depend on."""
    how = f"--specialize {args.specialize}, --refine {args.refine}, --cuda-graph {args.graph}, --target {args.target or 'none'}"
    return machine.facts(args.bespoke) | {"PyTorch": machine.version("torch"), "how": how}


class Measuring:
    """The tables, one after the other."""

    def __init__(self, args, recorder, folder, vendor):
        self.args, self.recorder, self.vendor = args, recorder, vendor
        env = dict(os.environ)
        # where bespoke looks for NVRTC's wheel
        env.setdefault("VIRTUAL_ENV", sys.prefix)
        self.ours = Ours(args, recorder, folder, env)
        self.folder = folder

    def table(self, table):
        """Compiles all of a table's kernels, then times case by case."""
        args, start = self.args, time.monotonic()
        self.recorder.deadline = start + args.limits[table.name]
        cases = [c for c in table.cases(args.size) if args.only in c.name]
        model.pool(self.folder, cases)
        with_errors = args.errors and table.errors
        with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
            firsts = [pool.submit(self.guarded, c, "bespoke", self.first, c, i, with_errors) for i, c in enumerate(cases)]
            for first in firsts:
                first.result()
        if self.vendor:
            self.vendor.free()
        print(f"-- {table.name}: {len(cases)} cases ready after {time.monotonic() - start:.0f} s", flush=True)
        for index, case in enumerate(cases):
            if self.recorder.left() < args.case_seconds:
                self.recorder.emit(kind="skip", **case.key(), reason=f"no time is left of {args.limits[table.name]:g} s")
                continue
            self.recorder.emit(**case.row())
            self.guarded(case, "torch", self.theirs, case)
            self.guarded(case, "bespoke", self.ours.time, case, index)
            self.recorder.tables()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        print(f"-- {table.name}: {time.monotonic() - start:.0f} s", flush=True)

    def guarded(self, case, who, work, *arguments, **more):
        """One case's defect is its row, and the next one is tried."""
        try:
            return work(*arguments)
        except Exception as error:  # noqa: BLE001
            # PyTorch's reasons come with advice of many lines
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self.recorder.emit(kind="fail", who=who, **more, **case.key(), reason=reason)
            return None

    def first(self, case, index, with_errors):
        data = case.reference is not None and with_errors
        found = self.ours.single(case, index, data)
        if found and data:
            for row in errors.rows(case, *found, self.vendor):
                self.recorder.emit(kind="error", **case.key(), **row)
            for file in self.folder.glob(f"{case.table}{index}-one*"):
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def theirs(self, case):
        if self.vendor is None:
            return
        try:
            operands = self.vendor.operands(case)
            for way in case.ways:
                found = self.guarded(case, "torch", self.vendor.time, case, way, operands, way=way)
                if found:
                    self.recorder.emit(kind="vendor", **case.key(), way=way, us=round(found[0], 3), replays=found[1])
        finally:
            # bespoke's process is to have the whole device
            operands = None
            self.vendor.free()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES), help=f"of {', '.join(TABLES)}; default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose operator and shape have this in them")
    parser.add_argument("--out", type=pathlib.Path, help="where the results go")
    parser.add_argument("--read", type=pathlib.Path, action="append", metavar="FILE.jsonl",
                        help="measure nothing, print the tables of these results; several times for several files")
    parser.add_argument("--bespoke", type=pathlib.Path, default=ROOT / "target/bundle/bespoke",
                        help="the program; default: target/bundle/bespoke")
    parser.add_argument("--seconds", type=float, default=180, help="that a table may take; default: 180")
    parser.add_argument("--limit", action="append", default=[], metavar="TABLE=SECONDS", help="that this table may take")
    parser.add_argument("--case-seconds", type=float, default=8, help="no case is begun with less time left; default: 8")
    parser.add_argument("--process-seconds", type=float, default=60, help="that a process of bespoke may take; default: 60")
    parser.add_argument("--errors", action="store_true", help="compare results of gemm and attention with float64")
    parser.add_argument("--workers", type=int, default=4, help="processes that compile at a time; default: 4")
    parser.add_argument("--specialize", default="eager", help="bespoke's strategy; default: eager")
    parser.add_argument("--refine", default="auto", help="as for bespoke: whether tiles are timed first, as after 20 runs; default: "
                        "auto, which under eager is never")
    parser.add_argument("--graph", choices=["chain", "whole", "off"], default="chain",
                        help="whole: copies may run side by side, and small kernels begin early, as PyTorch's do not; default: "
                        "chain")
    parser.add_argument("--runs", type=int, default=30, help="timed runs; default: 30")
    parser.add_argument("--warm-up", type=float, default=100, help="ms of runs before timed ones; default: 100")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="host: to try this program")
    parser.add_argument("--target", metavar="sm_XX", help="compile bespoke's kernels for this architecture, as sm_90 on a Hopper card: "
                        "products and attention by mma.sync; default: the card's own")
    parser.add_argument("--scratch", type=pathlib.Path, help="where models and kernels lie meanwhile; default: the system's folder")
    args = parser.parse_args()
    args.tables = args.tables.split(",")
    if unknown := [t for t in args.tables if t not in TABLES]:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    args.limits = dict.fromkeys(TABLES, args.seconds)
    for text in args.limit:
        table, _, seconds = text.partition("=")
        if table not in TABLES or not seconds.isdigit():
            parser.error(f"--limit {text}: write TABLE=SECONDS with one of {', '.join(TABLES)}")
        args.limits[table] = float(seconds)
    if not args.read and not args.out:
        parser.error("name a folder for the results with --out, or results to read with --read")
    if not args.read and not os.access(args.bespoke, os.X_OK):
        parser.error(f"{args.bespoke} is no program: run `cargo xtask bundle` where Rust is, and name its bespoke with --bespoke")
    return args


def main():
    args = arguments()
    if args.read:
        print(page(report.read(args.read)), end="")
        return
    recorder = Recorder(args.out, 0, page)
    recorder.emit(kind="machine", **about(args))
    try:
        vendor = Vendor() if args.device == "cuda" else None
    except Missing as error:
        vendor = None
        recorder.emit(kind="skip", who="torch", reason=str(error))
    if vendor:
        recorder.emit(kind="bandwidth", bytes_per_s=round(vendor.copy_bandwidth()))
        vendor.free()
    with tempfile.TemporaryDirectory(prefix="bespoke-kernels-", dir=args.scratch) as scratch:
        folder = pathlib.Path(scratch) / "models"
        folder.mkdir()
        measuring = Measuring(args, recorder, folder, vendor)
        for name in args.tables:
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    measuring.table(TABLES[name])
                except Exception as error:  # one table's defect must not cost the others' results
                    recorder.emit(kind="fail", who="all of it", table=name, operator=name, shape="",
                                  reason=f"{type(error).__name__}: {error}")
    recorder.tables()
    print(page(recorder.rows), end="")
    print(f"written: {args.out / 'table.md'}")


if __name__ == "__main__":
    main()
