"""Times PyTorch on the full models: what a user has without exporting anything.

    python3 benches/peers/time_torch.py bert dit --modes eager,compile --seconds 120

See peer.py for what it prints. Weights and inputs are fp16 with the same kind of values as `bespoke bench` uses: floats within
±0.175, integers 1. Each mode compiles anew for every shape, if it compiles at all, but for the dynamic ones. cuDNN may try its
algorithms at the first run of a shape.
"""
import argparse
import os
import tempfile
import time

import peer
import workloads

# what the field calls the fastest settings; `compile` is the fastest of them in steady state on most shapes
MODES = {
    "eager": None,
    "compile": dict(mode="reduce-overhead", dynamic=False),
    "compile-dynamic": dict(mode="reduce-overhead", dynamic=True),
    "compile-autotune": dict(mode="max-autotune", dynamic=False),
}


class Torch(peer.Peer):
    __doc__ = __doc__
    name = "torch"
    modes = MODES
    usual = ["eager", "compile"]

    @staticmethod
    def flags(parser):
        parser.add_argument("--cudnn-benchmark", action=argparse.BooleanOptionalAction, default=True,
                            help="let cuDNN try its algorithms at the first run of a shape")

    def __init__(self, args):
        super().__init__(args)
        # set before PyTorch is imported: what an earlier process compiled would make first_s meaningless
        self.caches = tempfile.TemporaryDirectory(prefix="torch-caches-")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self.caches.name
        os.environ["TRITON_CACHE_DIR"] = os.path.join(self.caches.name, "triton")
        try:
            import torch
        except ImportError as error:
            raise peer.Missing(f"{error}; see models/builders/requirements.txt") from error
        self.torch, self.gpu = torch, args.device == "cuda"
        if self.gpu and not torch.cuda.is_available():
            raise peer.Missing("PyTorch finds no CUDA device; `--device cpu --size small` tries this program without one")
        torch.backends.cudnn.benchmark = args.cudnn_benchmark

    def names(self):
        return workloads.NAMES

    def begin(self, model):
        torch = self.torch
        torch.manual_seed(0)
        try:
            # made where it is used: initialising a billion weights takes long on a processor
            with torch.device(self.args.device):
                work = workloads.build(model, self.args.size)
        except ImportError as error:
            raise peer.Missing(f"{error}; see models/builders/requirements.txt") from error
        self.module = work.module.half().eval().requires_grad_(False).to(self.args.device)
        self.inputs, self.dtypes = work.inputs, [t.dtype for t in work.example]

    def open(self, model, mode):
        self.torch._dynamo.reset()
        settings = MODES[mode]
        self.call = self.module if settings is None else self.torch.compile(self.module, **settings)

    def bind(self, model, mode, dims):
        torch, device = self.torch, self.args.device
        generator = torch.Generator(device).manual_seed(1)

        def like(shape, dtype):
            if not dtype.is_floating_point:
                return torch.ones(shape, dtype=dtype, device=device)
            return ((torch.rand(shape, generator=generator, device=device) - 0.5) * 0.35).half()

        inputs = [like(dims[name], dtype) for name, dtype in zip(self.inputs, self.dtypes, strict=True)]
        call = self.call

        def run():
            with torch.inference_mode():
                call(*inputs)

        return run

    def time(self, run):
        if not self.gpu:
            return super().time(run)
        cuda = self.torch.cuda
        before, after = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda.synchronize()
        start = time.perf_counter()
        before.record()
        run()
        after.record()
        after.synchronize()
        return time.perf_counter() - start, before.elapsed_time(after) / 1e3

    def memory(self):
        return (self.torch.cuda.max_memory_reserved(), "allocator") if self.gpu else (None, None)

    def close(self, model, mode):
        self.call = None
        self.torch._dynamo.reset()
        if self.gpu:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    peer.main(Torch)
