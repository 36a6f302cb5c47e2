"""Matrix products as linear layers have them: x [M, K] · w [N, K]ᵀ, in fp16.

    gemm   sizes of large models, where arithmetic is what takes time
    small  few rows, where reading the weights is
"""
from case import Case, Operand, Table
from report import errors, markdown, number, ratio, summary

LARGE = [(4096, 4096, 4096), (8192, 8192, 8192), (1536, 21504, 3072), (4352, 21504, 3072), (4352, 3072, 15360), (12288, 3072, 768),
         (12288, 768, 3072), (1024, 768, 768)]
ROWS, WEIGHTS = (1, 8, 37, 128), ((2048, 2048), (12288, 2048), (2048, 6144), (32000, 2048))
SHAPES = {
    "full": {"gemm": LARGE, "small": [(m, n, k) for n, k in WEIGHTS for m in ROWS]},
    "small": {"gemm": [(64, 48, 32), (37, 64, 96)], "small": [(m, 64, 32) for m in (1, 8)]},
}
# a product with one row is to take no longer than reading at this part of a copy's bandwidth, and so many microseconds
SHARE, LAUNCH_US = 0.9, 2


def product(model, x, w):
    return [model.node("Gemm", [x, w], f"{model.prefix}y", transB=1)]


def case(table, m, n, k):
    return Case(
        table=table, operator="linear", shape=f"{m}×{n}×{k}", operands=(Operand("x", (m, k)), Operand("w", (n, k), "weight")),
        nodes=product, ways={"linear": lambda torch: torch.nn.functional.linear}, writes=m * n, flops=2 * m * n * k,
        reference=lambda lib, x, w: x @ w.T)


def cases(table):
    return lambda size: [case(table, *shape) for shape in SHAPES[size][table]]


def large_page(results):
    body = []
    for name, row, ours, theirs in results:
        speeds = [number(results.per_second(name, "flops", us)) for us in (theirs, ours)]
        body.append([name[1], str(row["copies"]), number(theirs), number(ours), *speeds, number(ratio(ours, theirs)),
                     results.steps(name)])
    head = ["M×N×K", "copies", "PyTorch µs", "bespoke µs", "PyTorch TFLOP/s", "bespoke TFLOP/s", "ratio", "steps a copy"]
    return markdown(head, body) + summary(results) + errors(results)


def bound(results, name):
    """Microseconds that a product with one row may take; None for others."""
    if not name[1].startswith("1×") or not results.bandwidth:
        return None
    return results.cases[name]["bytes"] / (SHARE * results.bandwidth) * 1e6 + LAUNCH_US


def small_page(results):
    body = []
    for name, row, ours, theirs in results:
        most = bound(results, name)
        kept = "–" if most is None or ours is None else f"{'kept' if ours <= most else 'MISSED'}: {number(most)}"
        speeds = [number(results.per_second(name, "bytes", us)) for us in (theirs, ours)]
        body.append([name[1], number(row["bytes"] / 1e6), str(row["copies"]), number(theirs), number(ours), *speeds,
                     number(ratio(ours, theirs)), results.steps(name), kept])
    head = ["M×N×K", "MB", "copies", "PyTorch µs", "bespoke µs", "PyTorch TB/s", "bespoke TB/s", "ratio", "steps a copy",
            "at most µs"]
    text = markdown(head, body) + summary(results, lambda name: f"M = {name[1].split('×')[0]}")
    return text + (f"\nAt most, where M is 1: the bytes at {SHARE:g} of a copy's bandwidth, and {LAUNCH_US} µs.\n")


LARGE_TABLE = Table("gemm", "Matrix products", cases("gemm"), large_page, errors=True)
SMALL_TABLE = Table("small", "Matrix products with few rows", cases("small"), small_page)
