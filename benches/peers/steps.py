"""What every step of a measurement needs: the arguments, the processes, where models and caches lie."""
import json
import os
import shutil
import sys

import workloads

STRATEGIES = ["none", "eager", "lazy", "static"]


def objects(text):
    """The JSON objects among the lines of a text."""
    for line in (text or "").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row


def read_json(file):
    """A document; None if the process did not come so far."""
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def read_events(file):
    """The events of a file, what a stopped process has left of it included."""
    try:
        return list(objects(file.read_text(errors="replace")))
    except OSError:
        return []


class Context:
    """See the module."""

    def __init__(self, args, recorder, scratch):
        self.args, self.recorder, self.scratch = args, recorder, scratch
        self.emit = recorder.emit
        self.gpu = args.device == "cuda"
        self.size = args.size
        self.bespoke = args.bundle / "bespoke"
        self.env = dict(os.environ)
        # where bespoke looks for NVRTC's wheel
        self.env.setdefault("VIRTUAL_ENV", sys.prefix)
        if (args.models / "nvrtc").is_dir():
            self.env.setdefault("BESPOKE_NVRTC", str(args.models / "nvrtc"))

    def run(self, step, what, command, env=None, limit=None):
        """Runs a process of a step; see `Recorder.execute`."""
        most = self.args.limits[step]
        return self.recorder.execute(step, what, command, min(limit or most, most), env or self.env)

    def place(self):
        """Flags for where bespoke runs."""
        flags = ["--device", self.args.device]
        return flags + (["--target", self.args.target] if self.args.target else [])

    def file(self, name):
        """A model's file: one that was exported, or one that was fetched."""
        return (self.args.models if name in workloads.FETCHED else self.args.work) / name / "model.onnx"

    def ready(self, step, name):
        """Whether a model is there; that it is not is a row."""
        file = self.file(name)
        if not file.exists():
            self.emit(kind="skip", step=step, what=name, reason=f"there is no {file.name} of it")
        return file.exists()

    def names(self, step, wanted=None):
        """The models of a step that were asked for and are there."""
        asked = [n for n in (wanted or self.args.names) if n in self.args.names]
        return [n for n in asked if self.ready(step, n)]

    def cache(self, name, empty=False):
        """The folder of the kernel cache that the steps of a model share."""
        folder = (self.args.caches or self.scratch / "cache") / name
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def bench(self, step, name, shapes, strategies, graphs=("whole",), state="shared", flags=None):
        """One process of `bespoke bench`, `flags` over those below. Its measurements, in the order strategies, graphs, shapes,
        become rows; they are returned too. The file is kept up to date, so that a process that is stopped leaves what it has
        measured."""
        what = f"{name} {','.join(strategies)} {','.join(graphs)} {state}"
        document = self.scratch / "bench.json"
        document.unlink(missing_ok=True)
        settings = {"--iterations": self.args.runs, "--duration": 0, "--max-duration": self.args.bench_seconds, "--warm-up":
                    self.args.warm_up, "--patience": 300, "--cache-dir": self.cache(name), "--opt-shapes":
                    workloads.flag(workloads.opt(name, self.size)), "--export-json": document} | (flags or {})
        command = [self.bespoke, "bench", self.file(name), *self.place(), "--json", "--specialize", ",".join(strategies),
                   "--cuda-graph", ",".join(graphs)]
        for flag, value in settings.items():
            command += [flag] if value is True else [flag, value]
        for shape in shapes:
            command += ["--shapes", workloads.flag(shape)]
        _, text = self.run(step, what, command)
        if text is None:
            return []
        rows = (read_json(document) or {}).get("measurements", [])
        for i, row in enumerate(rows):
            row["label"] = workloads.label(name, shapes[i % len(shapes)])
            kept = {k: v for k, v in row.items() if k not in ("profile", "label")}
            self.emit(**{**kept, "kind": "bespoke", "step": step, "model": name, "shape": row["label"], "cache": state})
        wanted = len(shapes) * len(strategies) * len(graphs)
        if len(rows) < wanted:
            reason = f"{len(rows)} of {wanted} measurements were made; log.txt has the messages"
            self.emit(kind="fail", step=step, what=what, reason=reason)
        return rows

    def replay(self, step, name, what, requests, strategy, cache=None, extra=(), limit=None):
        """One process of `bespoke run` along a trace, its tensors on the device. Returns its events, those of a process
        that was stopped included, and whether it ended by itself."""
        trace = workloads.write_trace(self.scratch / "trace.jsonl", requests)
        events = self.scratch / "events.jsonl"
        events.unlink(missing_ok=True)
        command = [self.bespoke, "run", self.file(name), "--shape-trace", trace, "--no-transfers", "--specialize", strategy,
                   "--cache-dir", cache or self.cache(name), *self.place(), "--no-learn", "--events", events, "--json",
                   "--quiet", *extra]
        if strategy == "static":
            command += ["--opt-shapes", workloads.flag(workloads.opt(name, self.size))]
        code, text = self.run(step, f"{name} {what}", command, limit=limit)
        if text is None:
            return [], False
        rows = read_events(events)
        if code != 0:
            self.emit(kind="fail", step=step, what=f"{name} {what}", reason="it did not end well; log.txt has the messages")
        return rows, code == 0

    @staticmethod
    def runs(events):
        """The runs among events, in order, each with the extents of its inputs by name as `shapes`."""
        names = next((e["inputs"] for e in events if e["event"] == "started"), [])
        runs = sorted((e for e in events if e["event"] == "run"), key=lambda e: e["run"])
        for run in runs:
            run["shapes"] = dict(zip(names, map(tuple, run["dims"])))
        return runs
