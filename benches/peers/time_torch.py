"""Times PyTorch on the full models: what a user has without exporting anything.

    python3 benches/peers/time_torch.py bert dit --modes eager,compile --seconds 120

Prints one JSON line for every (model, shape, mode), on standard output:

    first_s   seconds until the first result at that shape, compilation included; compile caches start empty
    wall_ms   median time of a run, on the host's clock, from the call until the device is done
    gpu_ms    median time between two events on the stream, around the call

Weights and inputs are fp16 with the same kind of values as `bespoke bench` uses: floats within ±0.175, integers 1. Each
mode compiles anew for every shape, if it compiles at all. cuDNN may try its algorithms at the first run of a shape.

With `--gate FILE` several of these processes may run at the same time: they hold a lock on FILE, shared while they
work and exclusive while they measure. Compilations overlap and measurements are alone on the machine; `first_s` then
comes from a busy processor, and the line says so (`"shared": true`).
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time

import workloads

# what the field calls the fastest settings; `compile` is the fastest of them in steady state on most shapes
MODES = {
    "eager": None,
    "compile": dict(mode="reduce-overhead", dynamic=False),
    "compile-dynamic": dict(mode="reduce-overhead", dynamic=True),
    "compile-autotune": dict(mode="max-autotune", dynamic=False),
}
# before timing, at least: a GPU that waited for a compiler has lowered its clocks and takes a while to raise them
WARM_RUNS, WARM_SECONDS = 5, 0.3


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


def emit(**line):
    print(json.dumps(line), flush=True)


def inputs_like(torch, samples, device):
    generator = torch.Generator(device).manual_seed(1)

    def like(t):
        if not t.is_floating_point():
            return torch.ones(t.shape, dtype=t.dtype, device=device)
        return ((torch.rand(t.shape, generator=generator, device=device) - 0.5) * 0.35).half()

    return [like(t) for t in samples]


class Clock:
    """Times calls of a function; on a GPU by both clocks, else by the host's alone."""

    def __init__(self, torch, device):
        self.torch, self.gpu = torch, device == "cuda"

    def settle(self):
        if self.gpu:
            self.torch.cuda.synchronize()

    def once(self, run):
        self.settle()
        start = time.perf_counter()
        run()
        self.settle()
        return time.perf_counter() - start

    def medians(self, run, runs):
        start, warm = time.perf_counter(), 0
        while warm < WARM_RUNS or time.perf_counter() - start < WARM_SECONDS:
            self.once(run)
            warm += 1
        wall, gpu = [], []
        for _ in range(runs):
            if not self.gpu:
                wall.append(self.once(run) * 1e3)
                continue
            before, after = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.settle()
            start = time.perf_counter()
            before.record()
            run()
            after.record()
            after.synchronize()
            wall.append((time.perf_counter() - start) * 1e3)
            gpu.append(before.elapsed_time(after))
        return statistics.median(wall), statistics.median(gpu) if gpu else None


def time_mode(torch, args, name, work, module, mode, gate, deadline):
    """Times a mode at every shape. A shape that fails is a line, and the next one is tried."""
    torch._dynamo.reset()
    settings = MODES[mode]
    call = module if settings is None else torch.compile(module, **settings)
    clock = Clock(torch, args.device)
    for shape in work.shapes:
        samples = work.sample(shape)
        label = workloads.label(name, {n: tuple(t.shape) for n, t in zip(work.inputs, samples, strict=True)})
        where = dict(model=name, shape=label, mode=mode)
        if time.monotonic() > deadline:
            emit(kind="skip", peer="torch", reason=f"the {args.seconds:g} s of --seconds are over", **where)
            continue
        try:
            inputs = inputs_like(torch, samples, args.device)
            with torch.inference_mode():
                first = clock.once(lambda: call(*inputs))
                with gate.alone():
                    wall, gpu = clock.medians(lambda: call(*inputs), args.runs)
        except Exception as error:  # whatever a peer breaks with is its result
            emit(kind="fail", peer="torch", reason=f"{type(error).__name__}: {error}"[:300], **where)
            continue
        emit(kind="torch", peer="torch", **where, first_s=round(first, 3), wall_ms=round(wall, 4),
             gpu_ms=gpu and round(gpu, 4), runs=args.runs, shared=bool(args.gate))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(workloads.NAMES)}")
    parser.add_argument("--modes", default="eager,compile", help=f"of {', '.join(MODES)}; default: eager,compile")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: to try this program")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this program")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each measurement; default: 30")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="no measurement is begun after this time; those left out are lines of kind `skip`")
    parser.add_argument("--cudnn-benchmark", action=argparse.BooleanOptionalAction, default=True,
                        help="let cuDNN try its algorithms at the first run of a shape")
    parser.add_argument("--gate", metavar="FILE", help="a file to lock, see above")
    args = parser.parse_args()
    modes = args.modes.split(",")
    if unknown := set(args.names) - set(workloads.NAMES):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if unknown := set(modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")

    with tempfile.TemporaryDirectory(prefix="torch-caches-") as caches:
        # set before PyTorch is imported: what an earlier process compiled would make first_s meaningless
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = caches
        os.environ["TRITON_CACHE_DIR"] = os.path.join(caches, "triton")
        import torch

        if args.device == "cuda" and not torch.cuda.is_available():
            sys.exit("error: PyTorch finds no CUDA device; `--device cpu --size small` tries this program without one")
        torch.backends.cudnn.benchmark = args.cudnn_benchmark
        deadline = time.monotonic() + args.seconds
        gate = Gate(args.gate)
        for name in args.names or workloads.NAMES:
            try:
                torch.manual_seed(0)
                # made where it is used: initialising a billion weights takes long on a processor
                with torch.device(args.device):
                    work = workloads.build(name, args.size)
                module = work.module.half().eval().requires_grad_(False).to(args.device)
            except ImportError as error:
                emit(kind="fail", peer="torch", model=name, reason=f"{error}; see models/builders/requirements.txt")
                continue
            for mode in modes:
                time_mode(torch, args, name, work, module, mode, gate, deadline)
            del work, module
            if args.device == "cuda":
                torch._dynamo.reset()
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
