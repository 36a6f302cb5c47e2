"""Errors of bespoke's kernels against float64 over random specs, by template and type, beside PyTorch's: prints the table.

    python3 benches/kernels/random_errors.py --bespoke target/bundle/bespoke --out OUT

Specs of every template (draws.py) are drawn from a seed. Those of a template and type are one model with open extents (group.py),
which bespoke runs twice on the same stored operands: with its generic kernels (`--specialize none`) and with those of the extents
(`eager`). PyTorch runs the same operators in the same type, and both are compared with the result in float64 (exact.py). What is no
worse than PyTorch's, and how that is decided, is in error_table.py.

Needs numpy and onnx, and PyTorch for the other side. Without a GPU, `--device host` tries the program; `--peer cpu` has PyTorch
there as well. OUT gets results.jsonl, table.md and log.txt; what did not fit in `--seconds` is left out and said. Ends with 1 if a
spec misses or did not run.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "peers"))

import draws
import error_table
import exact
import floats
import group
import machine
import report
from recorder import Recorder
from spec import SIZES

# tier of the table -> strategy of bespoke
STRATEGIES = {"generic": "none", "specialised": "eager"}
# with less left no process is begun; see recorder.py
LEAST_SECONDS = 5


def about(args):
    """What the numbers depend on."""
    how = f"seed {args.seed}, {args.size} specs, {args.count} of a template and type, {' and '.join(STRATEGIES.values())}"
    return machine.facts(args.bespoke) | {"PyTorch": machine.version("torch"), "how": how}


class Measuring:
    """Groups of specs, several at a time: bespoke's processes, then the comparison."""

    def __init__(self, args, recorder, folder, judge):
        import numpy
        import onnx

        self.args, self.recorder, self.folder, self.judge = args, recorder, folder, judge
        self.np, self.onnx = numpy, onnx
        self.env = dict(os.environ)
        # where bespoke looks for NVRTC's wheel
        self.env.setdefault("VIRTUAL_ENV", sys.prefix)

    def run(self, name, specs, arrays):
        """Every tier's results of the specs of one model; None where a process failed."""
        folder = self.folder / name
        folder.mkdir()
        try:
            file, inputs = group.write(folder, specs, arrays)
            given = [word for name, path in inputs.items() for word in ("--input", f"{name}={path}")]
            return {tier: self.tier(specs, file, given, tier) for tier in STRATEGIES}
        finally:
            shutil.rmtree(folder)

    def tier(self, specs, file, given, tier):
        """One process: the results of one tier."""
        args, out = self.args, file.parent / tier
        command = [args.bespoke, "run", file, *given, "--output", out, "--device", args.device, "--specialize", STRATEGIES[tier],
                   "--no-learn", "--refine", "off", "--cuda-graph", "off", "--cache-dir", self.folder / "cache", "--iterations", 1,
                   "--json", "--quiet"]
        what = f"{specs[0].type.name}, {f'{len(specs)} specs' if len(specs) > 1 else specs[0].text}, {tier}"
        code, text = self.recorder.execute(specs[0].template, what, command, args.process_seconds, self.env)
        if code != 0:
            return None
        last = json.loads(text)["runs"][-1]
        self.recorder.emit(kind="ran", template=specs[0].template, type=specs[0].type.name, tier=tier, specs=len(specs),
                           generic=last["generic_kernels"], specialised=last["specialized_kernels"])
        return group.read(self.np, self.onnx, out, specs)

    def group(self, specs):
        """Results of all specs: (spec, operands, who -> result), without those of tiers that failed. If a process fails, its specs
        run one by one, so that it is known which is at fault."""
        arrays = [s.arrays(self.np, self.args.seed) for s in specs]
        name = f"{specs[0].template}-{specs[0].type.name}"
        found = self.run(name, specs, arrays)
        if all(found.values()) or self.recorder.left() < LEAST_SECONDS:
            done = {tier: results for tier, results in found.items() if results}
            return [(s, a, {tier: results[i] for tier, results in done.items()}) for i, (s, a) in enumerate(zip(specs, arrays))]
        alone = []
        for i, (spec, given) in enumerate(zip(specs, arrays)):
            found = self.run(f"{name}-{i}", [spec], [given])
            for tier in (t for t, results in found.items() if not results):
                self.recorder.emit(kind="fail", who=tier, **spec.key, reason="it did not run; log.txt has the messages")
            alone.append((spec, given, {tier: results[0] for tier, results in found.items() if results}))
        return alone

    def compare(self, spec, arrays, results):
        """Rows of a spec's errors."""
        try:
            for row in self.judge.rows(spec, arrays, results):
                self.recorder.emit(kind="error", **spec.key, **row)
        except Exception as error:  # noqa: BLE001: one spec's defect is its row, and the next one is compared
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self.recorder.emit(kind="fail", who="comparison", **spec.key, reason=reason)

    def all(self, groups):
        """Compares while further groups run."""
        for specs in groups:
            for spec in specs:
                self.recorder.emit(kind="spec", **spec.key, exact=spec.exact, row=spec.row)
        with concurrent.futures.ThreadPoolExecutor(self.args.workers) as pool:
            working = {pool.submit(self.group, specs): specs for specs in groups}
            for done in concurrent.futures.as_completed(working):
                specs = working.pop(done)
                try:
                    found = done.result()
                except Exception as error:  # noqa: BLE001: one group's defect must not cost the others' results
                    reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    for spec in specs:
                        self.recorder.emit(kind="fail", who="bespoke", **spec.key, reason=reason)
                    continue
                for each in found:
                    self.compare(*each)


def judge(args, recorder):
    """Who compares; that PyTorch is not there is a row."""
    import numpy

    device = {"auto": "cuda" if args.device == "cuda" else "none"}.get(args.peer, args.peer)
    if device != "none":
        try:
            return exact.Torch(device)
        except (ImportError, RuntimeError) as error:
            recorder.emit(kind="skip", who="torch", reason=str(error))
    return exact.Numpy(numpy)


def some(parser, words, known, what):
    """Words of a list, all of which there are."""
    found = words.split(",")
    if unknown := [w for w in found if w not in known]:
        parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", default=",".join(draws.TEMPLATES), help=f"of {', '.join(draws.TEMPLATES)}; default: all")
    parser.add_argument("--types", default=",".join(floats.TYPES), help=f"of {', '.join(floats.TYPES)}; default: all")
    parser.add_argument("--count", type=int, default=5,
                        help="specs of a template and type, twice as many of products and attention; default: 5")
    parser.add_argument("--seed", type=int, default=0, help="what specs and operands are drawn from; default: 0")
    parser.add_argument("--only", default="", metavar="TEXT", help="only specs that have this in their text")
    parser.add_argument("--out", type=pathlib.Path, help="where the results go")
    parser.add_argument("--read", type=pathlib.Path, metavar="FILE.jsonl", help="measure nothing, print the table of these results")
    parser.add_argument("--bespoke", type=pathlib.Path, default=ROOT / "target/bundle/bespoke",
                        help="the program; default: target/bundle/bespoke")
    parser.add_argument("--seconds", type=float, default=110, help="that bespoke's processes may take together; default: 110")
    parser.add_argument("--process-seconds", type=float, default=60, help="that a process of bespoke may take; default: 60")
    parser.add_argument("--workers", type=int, default=4, help="processes at a time; default: 4")
    parser.add_argument("--size", choices=[*SIZES], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="of bespoke; host: to try this program")
    parser.add_argument("--peer", choices=["auto", "cuda", "cpu", "none"], default="auto",
                        help="where PyTorch runs; default: auto, on the GPU if bespoke does")
    parser.add_argument("--scratch", type=pathlib.Path, help="where models and kernels lie meanwhile; default: the system's folder")
    args = parser.parse_args()
    args.templates = some(parser, args.templates, draws.TEMPLATES, "template")
    args.types = some(parser, args.types, floats.TYPES, "type")
    if not args.read and not args.out:
        parser.error("name a folder for the results with --out, or results to read with --read")
    if not args.read and not os.access(args.bespoke, os.X_OK):
        parser.error(f"{args.bespoke} is no program: run `cargo xtask bundle` where Rust is, and name its bespoke with --bespoke")
    return args


def main():
    args = arguments()
    if args.read:
        print(error_table.page(report.read([args.read])), end="")
        return 0
    recorder = Recorder(args.out, args.seconds, error_table.page)
    recorder.emit(kind="machine", **about(args))
    drawn = draws.specs(args.seed, args.templates, args.types, args.count, args.size).values()
    groups = [wanted for specs in drawn if (wanted := [s for s in specs if args.only in s.text])]
    with tempfile.TemporaryDirectory(prefix="bespoke-errors-", dir=args.scratch) as scratch:
        Measuring(args, recorder, pathlib.Path(scratch), judge(args, recorder)).all(groups)
    recorder.tables()
    print(error_table.page(recorder.rows), end="")
    print(f"written: {args.out / 'table.md'}")
    failed = any(row["kind"] == "fail" or row["kind"] == "skip" and "step" in row for row in recorder.rows)
    return int(failed or any(found.missed for found in error_table.specs(recorder.rows)))


if __name__ == "__main__":
    sys.exit(main())
