"""PyTorch's side: the kernels behind its operators, by the device's clock.

The calls of all copies are captured in one CUDA graph, their results kept so that each has memory of its own. Timed are
replays of it that follow each other, between two events; the time of a call is that by the number of replays and copies.
Nothing of the host is in it as long as a replay takes longer than to ask for it.
"""
import gc
import statistics

ROUNDS = 5
ROUND_MS, WARM_MS = 20, 100
# between timed replays, as for `bespoke bench --host-time`
MOST_REPLAYS = 64


class Missing(Exception):
    """Why PyTorch cannot be timed here."""


class Vendor:
    """PyTorch on the GPU."""

    def __init__(self):
        try:
            import torch
        except ImportError as error:
            raise Missing(f"{error}; see models/builders/requirements.txt") from error
        if not torch.cuda.is_available():
            raise Missing("PyTorch finds no CUDA device")
        self.torch = torch
        torch.manual_seed(0)

    def tensor(self, operand):
        torch = self.torch
        if operand.kind == "index":
            return torch.randint(operand.below, operand.dims, device="cuda")
        return torch.rand(operand.dims, device="cuda").sub_(0.5).mul_(0.35).half()

    def operands(self, case):
        """Those of every copy."""
        return [[self.tensor(o) for o in case.operands] for _ in range(case.copies)]

    def time(self, case, way, operands):
        """Microseconds of one call, and how many replays are between two events."""
        torch = self.torch
        call = case.ways[way](torch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            # libraries set themselves up, and compilers compile, outside of the capture
            for tensors in operands[:2]:
                call(*tensors)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                kept = [call(*tensors) for tensors in operands]
            one = max(self.replays(graph, stream, 1), 1e-3)
            self.replays(graph, stream, max(1, int(WARM_MS / one)))
            replays = max(2, min(MOST_REPLAYS, int(ROUND_MS / one)))
            rounds = [self.replays(graph, stream, replays) / replays for _ in range(ROUNDS)]
        del kept, graph
        return statistics.median(rounds) * 1e3 / len(operands), replays

    def replays(self, graph, stream, count):
        """Milliseconds of so many."""
        before, after = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record(stream)
        for _ in range(count):
            graph.replay()
        after.record(stream)
        after.synchronize()
        return before.elapsed_time(after)

    def free(self):
        """Gives the device's memory back."""
        gc.collect()
        self.torch.cuda.empty_cache()

    def copy_bandwidth(self, size=256 << 20):
        """Bytes that a copy of so many reads and writes a second."""
        torch = self.torch
        tensors = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(4)]

        class Copies:
            copies = 4
            ways = {"copy": lambda torch: lambda to, of: to.copy_(of)}

        us, _ = self.time(Copies, "copy", [(tensors[i], tensors[i - 1]) for i in range(4)])
        return 2 * size / us * 1e6
