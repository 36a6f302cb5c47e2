"""bespoke's side: processes of `bespoke bench` and `bespoke run`.

Kernels are compiled beforehand, by runs of models with one copy, several at a time; a timed process then finds them in the
cache. Timed are recorded graphs in which each kernel begins when the one before it has ended (`--cuda-graph chain`), as PyTorch's
do: copies do not run side by side. A time is `queued_ms` of `--host-time`, that of runs which follow each other, by the copies.
"""
import json
import sys

import model


class Ours:
    """See the module; `folder` is where models, results and the kernel cache lie."""

    def __init__(self, args, recorder, folder, env):
        self.args, self.recorder, self.folder, self.env = args, recorder, folder, env

    def flags(self):
        args = self.args
        target = ["--target", args.target] if args.target else []
        return ["--device", args.device, *target, "--specialize", args.specialize, "--no-learn", "--cache-dir", self.folder / "cache",
                "--refine", args.refine]

    def single(self, case, index, data=False):
        """Runs one copy once, so that its kernels are in the cache. With `data`, on random operands, which it returns with the
        result as numpy's arrays; None if it did not end well."""
        import numpy as np

        name = f"{case.table}{index}-one"
        file, weights = model.write(self.folder, name, case, 1)
        command = [self.args.bespoke, "run", file, *self.flags(), "--iterations", 1, "--quiet"]
        operands, out = [], self.folder / name
        if data:
            random = np.random.default_rng(index)
            for operand in case.operands:
                name = f"{operand.name}0"
                if name in weights:
                    offset, dims = weights[name]
                    operands.append(np.fromfile(self.folder / model.POOL, np.float16, int(np.prod(dims)), offset=offset)
                                    .reshape(dims))
                    continue
                operands.append(random.standard_normal(operand.dims, np.float32).astype(np.float16))
                np.save(self.folder / f"{out.name}-{name}.npy", operands[-1])
                command += ["--input", f"{name}={self.folder / f'{out.name}-{name}.npy'}"]
            command += ["--output", out]
        code, text = self.recorder.execute(case.table, f"{case.name}, once", command, self.args.process_seconds, self.env)
        if code != 0:
            if text is not None:
                self.fail(case, "it did not run once; log.txt has the messages")
            return None
        return (operands, np.load(out / "output_0.npy")) if data else ()

    def time(self, case, index):
        """Times all copies; the row of it is kept."""
        args, copies = self.args, case.copies
        file, _ = model.write(self.folder, f"{case.table}{index}", case, copies)
        command = [args.bespoke, "bench", file, *self.flags(), "--cuda-graph", args.graph, "--iterations", args.runs,
                   "--duration", 0, "--max-duration", 1, "--warm-up", args.warm_up, "--patience", 60, "--host-time", "--json",
                   "--quiet"]
        code, text = self.recorder.execute(case.table, case.name, command, args.process_seconds, self.env)
        file.unlink()
        if text is None:
            return
        try:
            found = json.loads(text)["measurements"][0]
        except (json.JSONDecodeError, LookupError):
            self.fail(case, "it was not timed; log.txt has the messages")
            return
        if code != 0:
            print(f"{case.name}: exit status {code}", file=sys.stderr)

        def each(ms):
            return round(ms * 1e3 / copies, 3)

        self.recorder.emit(
            kind="ours", **case.key(), us=each(found["host_time"]["queued_ms"]), wall_us=each(found["steady_ms"]),
            fastest_us=each(found["fastest_ms"]), steps=found["generic"] + found["specialized"], generic=found["generic"],
            compiled=found["compiled"] + found["load_compiled"],
            **{k: found[k] for k in ("strategy", "graph", "runs", "device", "tiles_won")},
            warnings=[w["code"] for w in found["warnings"]])

    def fail(self, case, reason):
        self.recorder.emit(kind="fail", who="bespoke", **case.key(), reason=reason)
