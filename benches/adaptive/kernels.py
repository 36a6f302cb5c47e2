"""Kernels' own times within a replay, by CUPTI.

A small library, compiled here, is loaded by the driver into a process of `bespoke run` and writes down when every kernel began
and ended. That takes a C compiler and CUPTI with its headers, which come with the CUDA toolkit and with PyTorch. The records
slow the process down, so nothing else is timed in it.
"""
import glob
import os
import pathlib
import re
import shutil
import site
import statistics
import subprocess
import sys
import sysconfig

import workloads

SOURCE = pathlib.Path(__file__).resolve().parent / "kernel_times.c"
RUNS = 5


def roots():
    """Folders that may hold a CUDA toolkit, or the parts of one that Python packages bring."""
    packages = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages(), *sys.path}
    found = [pathlib.Path(p) for p in glob.glob("/usr/local/cuda*")]
    if home := os.environ.get("CUDA_HOME"):
        found.insert(0, pathlib.Path(home))
    for folder in sorted(packages):
        found += [pathlib.Path(p) for p in glob.glob(f"{folder}/nvidia/*") + glob.glob(f"{folder}/triton/backends/nvidia")]
    return found


def find(pattern):
    """The first file of a name below the roots, toolkits before packages."""
    for root in roots():
        for place in ("include", "extras/CUPTI/include", "targets/*/include", "lib", "lib64", "extras/CUPTI/lib64",
                      "lib/cupti", "targets/*/lib"):
            if found := sorted(root.glob(f"{place}/{pattern}")):
                return found[-1]
    return None


class Probe:
    """See the module; `reason` says why it cannot be had."""

    def __init__(self, ctx):
        self.ctx, self.library = ctx, ctx.scratch / "kernel_times.so"
        self.reason = self.build() if ctx.gpu else "it takes a GPU"

    def build(self):
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        header, cuda, cupti, crt = (find(n) for n in ("cupti.h", "cuda.h", "libcupti.so*", "crt/host_defines.h"))
        for what, value in (("C compiler", compiler), ("cupti.h", header), ("cuda.h", cuda), ("libcupti.so", cupti),
                            ("crt/host_defines.h", crt)):
            if not value:
                return f"there is no {what}"
        text = (header.parent / "cupti_activity.h").read_text(errors="replace")
        versions = [int(n) for n in re.findall(r"\}\s*CUpti_ActivityKernel(\d+);", text)]
        if not versions:
            return f"{header.parent} knows no records of kernels"
        command = [compiler, "-O2", "-shared", "-fPIC", f"-DKERNEL=CUpti_ActivityKernel{max(versions)}", "-I", header.parent,
                   "-I", cuda.parent, "-I", crt.parent.parent, SOURCE, "-o", self.library, cupti, f"-Wl,-rpath,{cupti.parent}"]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"it does not compile: {done.stderr.strip().splitlines()[:1]}"

    def busy_ms(self, name, shapes):
        """Of a replay at each shape, the sum of its kernels' times and the time in which none was at work, both the median of some
        replays, by label."""
        if self.reason:
            return {}
        ctx, times = self.ctx, self.ctx.scratch / "kernel_times.txt"
        times.unlink(missing_ok=True)
        requests = [shape for shape in shapes for _ in range(RUNS)]
        trace = workloads.write_trace(ctx.scratch / "trace.jsonl", requests)
        env = dict(ctx.env, CUDA_INJECTION64_PATH=str(self.library), KERNEL_TIMES=str(times))
        code, _ = ctx.run("graphs", f"{name} times of kernels", [
            ctx.bespoke, "run", ctx.file(name), "--shape-trace", trace, "--no-transfers", "--specialize", "eager", "--cache-dir",
            ctx.cache(name), *ctx.place(), "--quiet"], env=env, limit=90)
        found = replayed(times, len(requests))
        if code != 0 or len(found) != len(requests):
            reason = f"{len(found)} of {len(requests)} replays are in the records"
            ctx.emit(kind="fail", step="graphs", what=f"{name} times of kernels", reason=reason)
            return {}
        labels = [workloads.label(name, shape) for shape in shapes]
        return {label: tuple(map(statistics.median, zip(*found[i * RUNS:(i + 1) * RUNS]))) for i, label in enumerate(labels)}


def replayed(file, count):
    """Of each of `count` replays, in their order, the sum of its kernels' times and the time in which none was at work, in ms. Where
    the records do not make so many replays, as many as there are groups of kernels."""
    groups = {}
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        if len(fields) == 3:
            correlation, begin, end = map(int, fields)
            groups.setdefault(correlation, []).append((begin, end))
    # kernels that were launched alone are those of the set-up
    parts = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    if len(parts) % count:
        most = max(map(len, parts))
        parts = [part for part in parts if len(part) == most]
    return [(sum(end - begin for begin, end in group) / 1e6, idle(group) / 1e6) for group in joined(parts, count)]


def joined(parts, count):
    """CUPTI gives the kernels of a long replay several correlations: if the parts, sorted by time, are a whole multiple of the
    replays, neighbours are one replay."""
    each, rest = divmod(len(parts), count)
    if rest or not each:
        return parts
    return [sorted(interval for part in parts[i:i + each] for interval in part) for i in range(0, len(parts), each)]


def idle(intervals):
    """What sorted intervals leave uncovered between the first and the last."""
    free, until = 0, intervals[0][0]
    for begin, end in intervals:
        free += max(0, begin - until)
        until = max(until, end)
    return free
