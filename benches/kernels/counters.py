"""Reads the hardware's counters while single operators run, bespoke's kernels and PyTorch's: why a case takes what it takes.

    python3 benches/kernels/counters.py --only 128×2048×2048 --out OUT

Needs NVIDIA's Nsight Compute, `ncu`, beside what time_kernels.py needs, whose cases these are. Every kernel is run by itself with
empty caches, several times over, as the counters do not fit into one run; its time is that of the kernel alone, without what
passes between two kernels. OUT gets a report of ncu for each side (`CASE-WHO.csv`), table.md and log.txt.
"""
import argparse
import contextlib
import csv
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "peers"))

import time_kernels
from cells import markdown, number

SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "LaunchStats", "Occupancy")
# copies on both sides: the last one is looked at, when libraries have chosen their kernels
COPIES = 2
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio$")
TENSOR = re.compile(r"sm__(?:inst_executed_)?pipe_tensor\w*\.avg\.pct_of_peak_sustained_active$")
# parts of what the device's memory, the level-2 cache and the multiprocessors' places for warps could do
SHARES = ("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", "lts__throughput.avg.pct_of_peak_sustained_elapsed",
          "sm__warps_active.avg.pct_of_peak_sustained_active")
# factors to microseconds
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}


def kernels(text):
    """The kernels of a report of `ncu --csv --page raw`: dictionaries metric -> (value, unit), numbers where they are some."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    table = list(csv.reader(io.StringIO("\n".join(lines))))
    if len(table) < 3:
        return []

    def value(cell):
        with contextlib.suppress(ValueError):
            return float(cell.replace(",", ""))
        return cell

    names, units = table[:2]
    return [{n: (value(c), u) for n, c, u in zip(names, row, units)} for row in table[2:]]


def found(kernel, metric):
    """A metric in microseconds or as it is; None where the card or this ncu has none."""
    value, unit = kernel.get(metric, (None, ""))
    return value * UNITS.get(unit, 1) if isinstance(value, float) else None


def stalls(kernel, most=3):
    """What warps wait for, by warps that do at an issued instruction; the largest first."""
    each = [(value, m[1]) for name, (value, _) in kernel.items() if (m := STALL.search(name)) and isinstance(value, float)]
    return ", ".join(f"{name.replace('_', ' ')} {number(value)}" for value, name in sorted(each, reverse=True)[:most])


def line(case, who, kernel):
    """A row of the table."""
    tensor = [value for name, (value, _) in kernel.items() if TENSOR.search(name) and isinstance(value, float)]
    name = str(kernel.get("Kernel Name", ("?", ""))[0])
    grid, block = (str(kernel.get(what, ("?", ""))[0]).replace(" ", "") for what in ("Grid Size", "Block Size"))
    return [case.name, who, name.split("(")[0][:48], grid, block, number(found(kernel, "launch__registers_per_thread")),
            number(found(kernel, "gpu__time_duration.sum")), number(max(tensor, default=None)), *(number(found(kernel, m)) for m in SHARES),
            stalls(kernel)]


HEAD = ["case", "who", "kernel", "grid", "block", "registers", "µs", "tensor cores %", "memory %", "level 2 %", "warps %", "waits"]


def vendor(args):
    """What this program does under ncu for PyTorch: one call of a case, between the profiler's start and its end."""
    from vendor import Vendor

    table, index, way = args.vendor
    case, side = time_kernels.TABLES[table].cases(args.size)[int(index)], Vendor()
    torch, operands = side.torch, [side.tensor(o) for o in case.operands]
    call = case.ways[way](torch)
    with torch.inference_mode():
        for _ in range(COPIES):
            call(*operands)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call(*operands)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


class Reading:
    """The reports, one process after the other."""

    def __init__(self, args):
        self.args, self.rows = args, []

    def report(self, case, who, flags, command):
        """One process under ncu: its kernels, and its report in the folder."""
        ncu = ["ncu", "--csv", "--page", "raw", "--clock-control", "none", *(f for s in SECTIONS for f in ("--section", s)), *flags]
        try:
            child = subprocess.run([*ncu, *map(str, command)], capture_output=True, text=True, timeout=self.args.seconds)
            text, log, code = child.stdout, child.stderr, child.returncode
        except FileNotFoundError:
            sys.exit("ncu is not there: install NVIDIA Nsight Compute, and have it on the path")
        except subprocess.TimeoutExpired:
            text, log, code = "", f"stopped after {self.args.seconds:g} s", None
        name = re.sub(r"[^\w.-]+", "_", f"{case.name}-{who}")
        (self.args.out / f"{name}.csv").write_text(text)
        with open(self.args.out / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"== {case.name}, {who}: exit status {code}\n{log}\n{text if code else ''}\n")
        seen = kernels(text)
        if not seen:
            print(f"{case.name}, {who}: no kernel was seen; log.txt has the messages", file=sys.stderr)
        return seen

    def case(self, table, index, case):
        args = self.args
        with tempfile.TemporaryDirectory(prefix="bespoke-counters-") as scratch:
            folder = pathlib.Path(scratch)
            time_kernels.model.pool(folder, [case])
            file, _ = time_kernels.model.write(folder, "counted", case, COPIES)
            run = [args.bespoke, "run", file, "--device", "cuda", "--specialize", "eager", "--no-learn", "--cache-dir", folder / "cache",
                   "--cuda-graph", "off", "--iterations", 1, "--quiet"]
            flags = ["--kernel-name", "regex:^bespoke_", "--target-processes", "all"]
            # the steps of one copy are the last of all; what prepares weights came before
            for kernel in self.report(case, "bespoke", flags, run)[-1:]:
                self.rows.append(line(case, "bespoke", kernel))
        for way in case.ways:
            own = [sys.executable, pathlib.Path(__file__), "--size", args.size, "--vendor", table, index, way]
            for kernel in self.report(case, way, ["--profile-from-start", "off"], own):
                self.rows.append(line(case, way, kernel))
        (args.out / "table.md").write_text(markdown(HEAD, self.rows), encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="gemm,small,attention", help=f"of {', '.join(time_kernels.TABLES)}; default: gemm,small,attention")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only cases whose operator and shape have this, or another one "
                        "so given, in them")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/measured/counters"), help="where the reports go")
    parser.add_argument("--bespoke", type=pathlib.Path, default=time_kernels.ROOT / "target/bundle/bespoke", help="the program")
    parser.add_argument("--seconds", type=float, default=60, help="that a process may take; default: 60")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--vendor", nargs=3, metavar=("TABLE", "INDEX", "WAY"), help="one call of PyTorch's, for ncu; used by this program")
    args = parser.parse_args()
    if unknown := [t for t in args.tables.split(",") if t not in time_kernels.TABLES]:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(time_kernels.TABLES)}")
    if not args.vendor and not os.access(args.bespoke, os.X_OK):
        parser.error(f"{args.bespoke} is no program: run `cargo xtask bundle` where Rust is, and name its bespoke with --bespoke")
    return args


def main():
    args = arguments()
    if args.vendor:
        vendor(args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    reading = Reading(args)
    for table in args.tables.split(","):
        for index, case in enumerate(time_kernels.TABLES[table].cases(args.size)):
            if args.only is None or any(text in case.name for text in args.only):
                reading.case(table, index, case)
    if not reading.rows:
        sys.exit(f"no kernel was seen: either no case has that in its name, or {args.out / 'log.txt'} has the messages")
    print(markdown(HEAD, reading.rows), end="")


if __name__ == "__main__":
    main()
