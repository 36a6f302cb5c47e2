"""Measures the five full models on a GPU machine, bespoke and PyTorch in one run, and writes the tables.

    python3 benches/peers/run_all.py --bundle target/bundle --out OUT

Needs a checkout of this repository, the unpacked bundle (`cargo xtask bundle` elsewhere makes it), a Python with the
packages of models/builders/requirements.txt and an NVIDIA GPU; no Rust. Steps, run in the order in which they are named:

    export      the models and their reference data, all models at a time
    check       `bespoke check` at every shape, for every one of --check-strategies; goes along with export
    bench       `bespoke bench` with generic and with specialised kernels, cache empty at first
    torch       PyTorch, eager and compiled; models compile at a time and are measured one by one
    strategies  `bespoke bench` for all other strategies, with graph and without
    matrix      bert and ppocrv4_rec: {none, eager, lazy, static} x {graph, no graph} x {cache cold, warm}

OUT gets results.jsonl (see table.py), table.md and log.txt, all kept up to date while it runs. A process that fails or
passes its time limit is a line in them, and the next one runs; what does not fit into --minutes is left out and said.
"""
import argparse
import concurrent.futures
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import table
import workloads

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# seconds that one process of a step may take
LIMITS = {"export": 240, "check": 120, "bench": 120, "torch": 280, "strategies": 90, "matrix": 60}
STRATEGIES = ["none", "eager", "lazy", "static"]
GRAPHS = ["whole", "off"]
# what of a process's messages is kept
LOG_BYTES = 200_000
# shapes of the matrix: the first is what `static` is tuned for
MATRIX = {
    "bert": [{name: (b, n) for name in ("input_ids", "attention_mask")} for b, n in ((1, 37), (8, 128))],
    "ppocrv4_rec": [{"x": (1, 3, 48, 320)}, {"x": (4, 3, 48, 480)}],
}


def flag(shapes):
    """Extents as `--shapes` takes them."""
    return ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())


def objects(text):
    """The JSON objects among the lines of a text."""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def measurements(file):
    """The measurements of a document of `bespoke bench`; none if the process did not come so far."""
    try:
        return json.loads(file.read_text())["measurements"]
    except (OSError, json.JSONDecodeError):
        return []


class Recorder:
    """The output folder, and the time that is left."""

    def __init__(self, out, seconds):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.rows, self.mutex = out, [], threading.Lock()
        self.deadline = time.monotonic() + seconds
        for name in ("results.jsonl", "log.txt"):
            (out / name).write_text("")

    def left(self):
        return self.deadline - time.monotonic()

    def emit(self, **row):
        with self.mutex:
            self.rows.append(row)
            with open(self.out / "results.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")

    def tables(self):
        with self.mutex:
            (self.out / "table.md").write_text(table.page(self.rows), encoding="utf-8")

    def execute(self, step, what, command, limit, env):
        """Runs a process. Returns its exit status, None if it did not start or was stopped, and its output so far, None if
        no time was left to start it, which is then a line."""
        limit = min(limit, self.left())
        if limit < 5:
            self.emit(kind="skip", step=step, what=what, reason="no time is left")
            return None, None
        start = time.monotonic()
        code, outcome = None, ""
        # files, not pipes: what a stopped process has written stays readable
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
            try:
                # a session of its own, so that stopping it stops its helpers as well
                child = subprocess.Popen([str(c) for c in command], stdout=output, stderr=messages, env=env,
                                         stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError as error:
                outcome = str(error)
            else:
                try:
                    code = child.wait(timeout=limit)
                    outcome = "done" if code == 0 else f"exit status {code}"
                except subprocess.TimeoutExpired:
                    outcome = f"stopped after {limit:.0f} s"
                finally:
                    if child.poll() is None:
                        os.killpg(child.pid, signal.SIGKILL)
                        child.wait()
            output.seek(0)
            messages.seek(0)
            text = output.read().decode(errors="replace")
            log = messages.read()[-LOG_BYTES:].decode(errors="replace")
        seconds = time.monotonic() - start
        self.emit(kind="step", step=step, what=what, seconds=round(seconds, 1), outcome=outcome)
        with self.mutex, open(self.out / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"== {step} {what}: {outcome}, {seconds:.1f} s\n$ {' '.join(map(str, command))}\n{log}\n")
        last = "" if code == 0 else "".join(f"\n    {line}" for line in log.strip().splitlines()[-3:])
        print(f"{step:10} {what:32} {seconds:6.1f} s  {outcome}{last}", flush=True)
        return code, text


class Steps:
    """The steps by their names."""

    def __init__(self, args, recorder, scratch):
        self.args, self.recorder, self.scratch = args, recorder, scratch
        self.gpu = args.device == "cuda"
        self.env = dict(os.environ)
        # where bespoke looks for NVRTC's wheel
        self.env.setdefault("VIRTUAL_ENV", sys.prefix)
        if (args.models / "nvrtc").is_dir():
            self.env.setdefault("BESPOKE_NVRTC", str(args.models / "nvrtc"))

    def run(self, step, what, command, env=None):
        return self.recorder.execute(step, what, command, self.args.limits[step], env or self.env)

    def model(self, name):
        return self.args.work / name / "model.onnx"

    def sets(self, name):
        """A model's reference data: (folder, extents of the inputs by name), in order."""
        import onnx

        folders = (self.args.work / name).glob("test_data_set_*")
        for folder in sorted(folders, key=lambda f: int(f.name.rpartition("_")[2])):
            count = len(list(folder.glob("input_*.pb")))
            tensors = [onnx.load_tensor(str(folder / f"input_{i}.pb")) for i in range(count)]
            yield folder, {t.name: tuple(t.dims) for t in tensors}

    def ready(self, step, name, file=None):
        file = file or self.model(name)
        if not file.exists():
            self.recorder.emit(kind="skip", step=step, what=name, reason=f"there is no {file.name} of it")
        return file.exists()

    # each step

    def export(self):
        with concurrent.futures.ThreadPoolExecutor(len(self.args.names)) as pool:
            list(pool.map(self.prepare, self.args.names))

    def prepare(self, name):
        folder = self.args.work / name
        complete = folder / "complete"
        how = f"{self.args.size} {self.args.reference}"
        if not (self.args.reuse and complete.exists() and complete.read_text() == how):
            complete.unlink(missing_ok=True)
            threads = max(1, (os.cpu_count() or 1) // len(self.args.names))
            code, text = self.run("export", name, [
                sys.executable, workloads.BUILDERS / "export.py", "--size", self.args.size, "--out", self.args.work,
                "--device", "cuda" if self.gpu else "cpu", "--reference", self.args.reference, "--no-compare", name,
            ], dict(self.env, OMP_NUM_THREADS=str(threads)))
            print("".join(f"    {line}\n" for line in (text or "").splitlines()), end="", flush=True)
            if code != 0:
                return
            complete.write_text(how)
        if "check" in self.args.steps:
            self.check_model(name)

    def check(self):
        if "export" not in self.args.steps:
            with concurrent.futures.ThreadPoolExecutor(len(self.args.names)) as pool:
                list(pool.map(self.check_model, self.args.names))

    def check_model(self, name):
        if not self.ready("check", name):
            return
        for folder, shapes in self.sets(name):
            label = workloads.label(name, shapes)
            for strategy in self.args.check_strategies:
                where = dict(kind="check", model=name, shape=label, strategy=strategy)
                code, text = self.run("check", f"{name} {label} {strategy}", [
                    self.args.bundle / "bespoke", "check", self.model(name), "--data", folder, "--device",
                    self.args.device, "--specialize", strategy, "--cache-dir", self.scratch / "check", "--json"])
                if text is None:
                    return
                try:
                    rows = json.loads(text)
                except json.JSONDecodeError:
                    rows = None
                if isinstance(rows, list):
                    for row in rows:
                        kept = {k: row.get(k) for k in ("status", "max_abs", "max_rel", "reason")}
                        self.recorder.emit(**where, **kept)
                else:
                    reason = json.dumps(rows)[:300] if rows else "it was stopped" if code is None else "no result"
                    self.recorder.emit(**where, status="NOT RUN", reason=reason)

    def time(self, step, name, file, shapes, strategies, graphs, folder, cache):
        """One process of `bespoke bench`; its measurements come in the order strategies, graphs, shapes."""
        what = f"{name} {','.join(strategies)} {','.join(graphs)} {cache}"
        # the file is kept up to date, so a process that is stopped leaves what it has measured
        document = self.scratch / "bench.json"
        document.unlink(missing_ok=True)
        command = [self.args.bundle / "bespoke", "bench", file, "--specialize", ",".join(strategies), "--cuda-graph",
                   ",".join(graphs), "--iterations", self.args.runs, "--duration", 0, "--max-duration",
                   self.args.bench_seconds, "--patience", 300, "--cache-dir", folder, "--device", self.args.device,
                   "--json", "--export-json", document]
        for shape in shapes:
            command += ["--shapes", flag(shape)]
        code, text = self.run(step, what, command)
        if text is None:
            return
        rows = measurements(document)
        for i, row in enumerate(rows):
            label = workloads.label(name, shapes[i % len(shapes)])
            self.recorder.emit(**{**row, "kind": "bespoke", "step": step, "model": name, "shape": label,
                                  "cache": cache})
        wanted = len(shapes) * len(strategies) * len(graphs)
        if len(rows) < wanted:
            reason = f"{len(rows)} of {wanted} measurements were made; log.txt has the messages"
            self.recorder.emit(kind="fail", step=step, what=what, reason=reason)

    def full(self, step, rounds):
        """Rounds over all models, so that time running out takes the same from each."""
        shapes = {n: [s for _, s in self.sets(n)] for n in self.args.names if self.ready(step, n)}
        for strategies, graphs in rounds:
            for name, points in shapes.items():
                if points:
                    self.time(step, name, self.model(name), points, strategies, graphs, self.scratch / "bench", "shared")

    def bench(self):
        self.full("bench", [(["none", "eager"], ["whole"])])

    def strategies(self):
        self.full("strategies", [(["lazy", "static"], ["whole"]), (STRATEGIES, ["off"])])

    def matrix(self):
        for name, shapes in MATRIX.items():
            file = self.model(name) if name in workloads.NAMES else self.args.models / name / "model.onnx"
            if not self.ready("matrix", name, file):
                continue
            for strategy in STRATEGIES:
                for graph in GRAPHS:
                    folder = self.scratch / f"matrix-{name}-{strategy}-{graph}"
                    for cache in ("cold", "warm"):
                        self.time("matrix", name, file, shapes, [strategy], [graph], folder, cache)

    def torch(self):
        if self.args.torch_alone:
            for name in self.args.names:
                self.torch_model(name, [])
            return
        with concurrent.futures.ThreadPoolExecutor(len(self.args.names)) as pool:
            gate = ["--gate", self.scratch / "gate"]
            list(pool.map(lambda name: self.torch_model(name, gate), self.args.names))

    def torch_model(self, name, extra):
        # a shape is begun only if even a slow one can end before the process would be stopped
        seconds = max(10, min(self.args.limits["torch"], self.recorder.left()) - 75)
        code, text = self.run("torch", name, [
            sys.executable, HERE / "time_torch.py", name, "--modes", self.args.modes, "--size", self.args.size,
            "--device", "cuda" if self.gpu else "cpu", "--runs", self.args.runs, "--seconds", f"{seconds:.0f}", *extra])
        if text is None:
            return
        for row in objects(text):
            self.recorder.emit(**row)
        if code != 0:
            self.recorder.emit(kind="fail", step="torch", what=name, reason="it did not end well; log.txt has the messages")


def machine(args):
    """What the numbers depend on."""
    def ask(*command):
        try:
            out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=30, check=True).stdout
            return "; ".join(out.strip().splitlines())
        except (OSError, subprocess.SubprocessError):
            return "unknown"

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    facts = {
        "date": datetime.date.today().isoformat(),
        "GPU, driver, memory": ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "processors": f"{os.cpu_count()} × {platform.machine()}",
        "bespoke": ask(args.bundle / "bespoke", "--version"),
        "commit": ask("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "Python": platform.python_version(),
    }
    facts |= {name: version(name) for name in ("torch", "triton", "transformers", "diffusers", "torchvision")}
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
    parser.add_argument("--steps", type=commas, default=list(LIMITS), help=f"default: {','.join(LIMITS)}")
    parser.add_argument("--names", type=commas, default=workloads.NAMES, help=f"default: {','.join(workloads.NAMES)}")
    parser.add_argument("--minutes", type=float, default=9, help="for everything; default: 9")
    parser.add_argument("--limit", action="append", default=[], metavar="STEP=SECONDS",
                        help=f"for one process of a step; default: {' '.join(f'{k}={v}' for k, v in LIMITS.items())}")
    parser.add_argument("--reuse", action="store_true", help="do not export again what --work holds whole")
    parser.add_argument("--reference", choices=["fp16", "fp32"], default="fp16", help="precision of PyTorch's references")
    parser.add_argument("--check-strategies", type=commas, default=["none", "eager"], help="default: none,eager")
    parser.add_argument("--modes", default="eager,compile", help="of time_torch.py; default: eager,compile")
    parser.add_argument("--torch-alone", action="store_true", help="no two models at a time, for exact first_s; slower")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of a measurement; default: 30")
    parser.add_argument("--bench-seconds", type=float, default=3, help="of timed runs of a measurement; default: 3")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "host"], default="cuda", help="host: to try this program")
    args = parser.parse_args()
    args.models = args.models or args.bundle.parent / "bundle-models"
    args.limits = dict(LIMITS)
    for text in args.limit:
        step, _, seconds = text.partition("=")
        if step not in LIMITS or not seconds.isdigit():
            parser.error(f"--limit {text}: write STEP=SECONDS with one of {', '.join(LIMITS)}")
        args.limits[step] = int(seconds)
    for what, given, known in (("step", args.steps, LIMITS), ("model", args.names, workloads.NAMES),
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
    recorder = Recorder(args.out, args.minutes * 60)
    recorder.emit(kind="machine", **machine(args))
    with tempfile.TemporaryDirectory(prefix="bespoke-measure-") as scratch:
        steps = Steps(args, recorder, pathlib.Path(scratch))
        for step in args.steps:
            start = time.monotonic()
            try:
                getattr(steps, step)()
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
    print(table.page(recorder.rows, ["peers"]), end="")
    print(f"written: {args.out / 'table.md'}")


if __name__ == "__main__":
    main()
