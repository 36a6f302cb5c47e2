"""What a replay of a captured graph takes of the host where nothing but PyTorch and the driver is at work.

    python3 benches/adaptive/time_replay.py

A graph of matrix products, each waiting for the one before, is replayed and awaited, and replayed behind another replay. A JSON
line for each number of nodes and size: the call's median in µs on a device that the host has waited for, and behind a replay
that the device is at. It says how much of the host's part of a run is the driver's own.
"""
import json
import statistics
import time

CALLS = 21
GRAPHS = [(96, 256), (96, 2048), (96, 3072), (370, 1024), (370, 2048)]


def captured(torch, nodes, size):
    a = torch.randn(size, size, device="cuda", dtype=torch.float16) / size
    b = torch.randn(size, size, device="cuda", dtype=torch.float16)
    # the library's own set-up must not be captured
    a @ b
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(nodes):
            b = a @ b
    return graph


def main():
    import torch

    for nodes, size in GRAPHS:
        graph = captured(torch, nodes, size)

        def call():
            start = time.perf_counter()
            graph.replay()
            return (time.perf_counter() - start) * 1e6

        def awaited():
            torch.cuda.synchronize()

        runs, alone, behind = [], [], []
        for _ in range(CALLS):
            start = time.perf_counter()
            alone.append(call())
            awaited()
            runs.append((time.perf_counter() - start) * 1e3)
        for _ in range(CALLS):
            call()
            behind.append(call())
            awaited()
        median = statistics.median
        print(json.dumps({"nodes": nodes, "ms": median(runs), "call_us": median(alone), "behind_us": median(behind)}), flush=True)


if __name__ == "__main__":
    main()
