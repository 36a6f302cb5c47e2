"""What the adapters of all peers share: arguments, which shapes, how a run is timed, the rows.

An adapter is a file time_NAME.py with a subclass of `Peer`. It is told a model, a mode and the extents of the inputs, and gives
back a function that does one run and returns when it is done, inputs and outputs being on the device. What is run is either
listed shapes (`--shapes`, by default those of workloads.py): the first run at each, then a number of timed ones after warming
up. Or it is a shape trace (`--shape-trace`): its requests one after the other, each timed. Either way there is one JSON line on
standard output for every (model, shape, mode):

    kind       peer
    peer, mode, model, shape     who did what; `shape` is the label of workloads.py
    dims       extents of the inputs by name
    trace      the trace's name, or null
    load_s     to make the model ready, where that is a step of its own; shapes of a mode that share it repeat it
    first_s    to the first result at the shape, compiling included; caches start empty but where the mode says otherwise
    wall_ms    median of the timed runs, by the host's clock, each from the call until the device is done; with a trace,
               of all runs of the shape but the first; null if there is none
    gpu_ms     the same between two events on the device's stream, where the peer has one
    runs       how many
    memory_bytes    most device memory so far, and by whom it was counted:
    memory_of       `allocator`, the peer's own; or `card`, all that is in use less what was before
    shared     whether other processes kept the processor busy; then first_s is too long

A shape that could not be measured is a line of kind `skip` or `fail` with a `reason`; so is a peer that is not there.
"""
import argparse
import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import time

import workloads

# before timing, at least: a GPU that waited for a compiler has lowered its clocks and takes a while to raise them
WARM_RUNS, WARM_SECONDS = 5, 0.3


class Missing(Exception):
    """Why a peer cannot be measured here."""


class Peer:
    """What an adapter has to say; see the module."""

    name = "?"
    # mode -> what it is
    modes = {}
    # those that are measured if nobody names any; all of them if this is empty
    usual = []
    # seconds that the last `bind` took to make a session of its own
    bind_s = 0

    @staticmethod
    def flags(parser):
        """Adds its own flags."""

    def __init__(self, args):
        self.args = args

    def names(self):
        """Models that it can run."""
        return [*workloads.NAMES, *workloads.FETCHED]

    def file(self, model):
        folder = self.args.models if model in workloads.FETCHED else self.args.work
        file = folder / model / "model.onnx"
        if not file.exists():
            raise Missing(f"there is no {file.name} of {model}")
        return file

    def begin(self, model):
        """A model's turn begins."""

    def open(self, model, mode):
        """Makes a model ready in a mode, if that is a step of its own."""

    def bind(self, model, mode, dims):
        """Inputs and outputs of a shape on the device. Returns a function that runs once and waits for the end."""
        raise NotImplementedError

    def time(self, run):
        """Seconds of a run, and of its part on the device's stream or None."""
        start = time.perf_counter()
        run()
        return time.perf_counter() - start, None

    def memory(self):
        """Most device memory so far, and who counted it."""
        return None, None

    def close(self, model, mode):
        """Frees what `open` made."""


class Gate:
    """Shared while the process works, exclusive while it measures; nothing without a file.

    File locks are not fair: alone, they would let a process that measured go on to its next compilation while others
    still wait to measure, and these would idle until it ends. So those who want to measure share a second lock, the queue,
    and work begins only when nobody is in it. Nobody waits for the queue holding the gate, so nothing can lock up.
    """

    def __init__(self, path):
        self.gate = self.queue = None
        if path:
            self.gate, self.queue = open(path, "a"), open(f"{path}.queue", "a")
            self.work()

    def work(self):
        import fcntl

        fcntl.flock(self.queue, fcntl.LOCK_EX)
        fcntl.flock(self.gate, fcntl.LOCK_SH)
        fcntl.flock(self.queue, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self):
        if not self.gate:
            yield
            return
        import fcntl

        fcntl.flock(self.gate, fcntl.LOCK_UN)
        fcntl.flock(self.queue, fcntl.LOCK_SH)
        fcntl.flock(self.gate, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.gate, fcntl.LOCK_UN)
            fcntl.flock(self.queue, fcntl.LOCK_UN)
            self.work()


class Card:
    """Memory of the GPU in use, by anybody, over what there was at first."""

    def __init__(self):
        self.before = self.used()

    @staticmethod
    def used():
        if not shutil.which("nvidia-smi"):
            return None
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return int(done.stdout) << 20 if done.returncode == 0 and done.stdout.strip().isdigit() else None

    def more(self):
        now = self.used()
        return (None, None) if now is None or self.before is None else (now - self.before, "card")


def emit(**line):
    print(json.dumps(line), flush=True)


def steady(peer, run, runs):
    """Timed runs after warming up."""
    start, warm = time.perf_counter(), 0
    while warm < WARM_RUNS or time.perf_counter() - start < WARM_SECONDS:
        peer.time(run)
        warm += 1
    return [peer.time(run) for _ in range(runs)]


def milliseconds(times):
    """Medians of wall and device times."""
    def median(values):
        values = [v for v in values if v is not None]
        return round(statistics.median(values) * 1e3, 4) if values else None

    return {"wall_ms": median([wall for wall, _ in times]), "gpu_ms": median([gpu for _, gpu in times]), "runs": len(times)}


class Measuring:
    """One model in one mode."""

    def __init__(self, peer, model, mode, gate, deadline):
        self.peer, self.model, self.mode, self.gate, self.deadline = peer, model, mode, gate, deadline
        self.load_s = None

    def where(self, dims):
        return dict(peer=self.peer.name, model=self.model, mode=self.mode, shape=workloads.label(self.model, dims))

    def open(self):
        start = time.perf_counter()
        self.peer.open(self.model, self.mode)
        self.load_s = time.perf_counter() - start

    def row(self, dims, trace, bind_s, first, times):
        memory, counted = self.peer.memory()
        emit(kind="peer", **self.where(dims), dims=dims, trace=trace, load_s=round(self.load_s + bind_s, 3),
             first_s=round(first, 4), **milliseconds(times), memory_bytes=memory, memory_of=counted,
             shared=self.gate.gate is not None)

    def late(self, dims):
        if time.monotonic() <= self.deadline:
            return False
        emit(kind="skip", reason=f"the {self.peer.args.seconds:g} s of --seconds are over", **self.where(dims))
        return True

    def fail(self, dims, error):
        # whatever a peer breaks with is its result
        reason = str(error) if isinstance(error, Missing) else f"{type(error).__name__}: {error}"
        emit(kind="fail", reason=reason[:300], **self.where(dims))

    def listed(self, shapes, runs):
        """Each shape by itself. One that fails is a line, and the next one is tried."""
        for dims in shapes:
            if self.late(dims):
                continue
            try:
                run = self.peer.bind(self.model, self.mode, dims)
                first, _ = self.peer.time(run)
                with self.gate.alone():
                    times = steady(self.peer, run, runs)
                self.row(dims, None, self.peer.bind_s, first, times)
            except Exception as error:  # noqa: BLE001
                self.fail(dims, error)

    def traced(self, requests, trace):
        """The requests in their order."""
        bound, times, failed = {}, {}, set()
        for dims in requests:
            key = json.dumps(dims)
            if key in failed or key not in bound and self.late(dims):
                failed.add(key)
                continue
            try:
                if key not in bound:
                    run = self.peer.bind(self.model, self.mode, dims)
                    bound[key] = dims, run, self.peer.bind_s
                times.setdefault(key, []).append(self.peer.time(bound[key][1]))
            except Exception as error:  # noqa: BLE001
                failed.add(key)
                self.fail(dims, error)
        for key, own in times.items():
            dims, _, bind_s = bound[key]
            self.row(dims, trace, bind_s, own[0][0], own[1:])


def arguments(kind):
    parser = argparse.ArgumentParser(description=kind.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*workloads.NAMES, *workloads.FETCHED]
    root = workloads.BUILDERS.parents[1]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models, of {' '.join(known)}; default: all that it can run")
    usual = ",".join(kind.usual or kind.modes)
    parser.add_argument("--modes", default=usual, help=f"of {', '.join(kind.modes)}; default: {usual}")
    parser.add_argument("--shapes", action="append", type=workloads.parse, metavar="NAME:1x3x48x320,…",
                        help="a shape to measure; several times for several; default: those of workloads.py")
    parser.add_argument("--shape-trace", type=pathlib.Path, metavar="FILE.jsonl", help="run the requests of this trace instead")
    parser.add_argument("--work", type=pathlib.Path, default=root / "target/full", help="folder of the exported models")
    parser.add_argument("--models", type=pathlib.Path, default=root / "target/bundle-models", help="folder of the fetched models")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this program")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each measurement; default: 30")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="no measurement is begun after this time; those left out are lines of kind `skip`")
    parser.add_argument("--gate", metavar="FILE", help="a file to lock: processes that name the same work at the same time and "
                        "measure one at a time")
    kind.flags(parser)
    args = parser.parse_args()
    args.modes = args.modes.split(",")
    if unknown := set(args.names) - set(known):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if unknown := set(args.modes) - set(kind.modes):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(kind.modes)}")
    if (args.shapes or args.shape_trace) and len(args.names) != 1:
        parser.error("--shapes and --shape-trace are of one model: name it")
    return args


def main(kind):
    args = arguments(kind)
    deadline = time.monotonic() + args.seconds
    try:
        peer = kind(args)
    except Missing as error:
        emit(kind="skip", peer=kind.name, reason=str(error))
        return
    gate = Gate(args.gate)
    requests = workloads.read_trace(args.shape_trace) if args.shape_trace else None
    for model in args.names or peer.names():
        shapes = args.shapes or workloads.points(model, args.size)
        try:
            if model not in peer.names():
                raise Missing(f"{peer.name} has no {model}")
            peer.begin(model)
        except Missing as error:
            emit(kind="skip", peer=peer.name, model=model, reason=str(error))
            continue
        for mode in args.modes:
            measuring = Measuring(peer, model, mode, gate, deadline)
            try:
                measuring.open()
                if requests is not None:
                    measuring.traced(requests, args.shape_trace.stem)
                else:
                    measuring.listed(shapes, args.runs)
            except Missing as error:
                emit(kind="skip", peer=peer.name, model=model, mode=mode, reason=str(error))
            except Exception as error:  # noqa: BLE001
                emit(kind="fail", peer=peer.name, model=model, mode=mode, reason=f"{type(error).__name__}: {error}"[:300])
            finally:
                peer.close(model, mode)
