"""Operators that move memory: normalisations, activations, and what only rearranges, in fp16.

Each is compared with what a copy of 256 MiB reads and writes a second. Where PyTorch's own operator is several kernels,
torch.compile is timed as well.
"""
from case import HALF, Case, Operand, Table
from report import markdown, number, ratio, summary

EPSILON = 1e-5
GROUPS = 32
SIZES = {
    "full": {
        "rows": [(4096, 4096), (16384, 3072), (12288, 768), (128, 768)],
        "residual": [(16384, 3072), (12288, 768)],
        "transpose": [(4096, 4096)],
        # rows of the table, how many are taken, and their length
        "gather": [(32768, 16384, 2048)],
        "joined": [(8192, 4096)],
        "group_norm": [(2, 320, 64), (2, 640, 32), (2, 1280, 16), (2, 320, 96)],
    },
    "small": {"rows": [(8, 32)], "residual": [(8, 32)], "transpose": [(16, 24)], "gather": [(16, 8, 32)], "joined": [(8, 32)],
              "group_norm": [(2, 64, 4)]},
}


def compiled(function):
    """Behind torch.compile, for fixed shapes."""
    return lambda torch: torch.compile(function(torch), dynamic=False)


def of_rows(operator, dims, kind, ways, weights=(), **attributes):
    """One ONNX operator along the rows of x, with vectors as weights."""
    operands = (Operand("x", dims), *(Operand(w, dims[-1:], "weight") for w in weights))
    return Case(table="memory", operator=operator, shape="×".join(map(str, dims)), operands=operands, ways=ways,
                writes=dims[0] * dims[1], nodes=lambda model, *names: [model.node(kind, names, f"{model.prefix}y", **attributes)])


def rows(dims):
    """Normalisations and an activation, each at one size."""
    n = dims[-1:]

    def layer_norm(torch):
        return lambda x, w, b: torch.nn.functional.layer_norm(x, n, w, b, EPSILON)

    def rms_norm(torch):
        return lambda x, w: torch.nn.functional.rms_norm(x, n, w, EPSILON)

    yield of_rows("layer_norm", dims, "LayerNormalization", {"eager": layer_norm}, ("w", "b"), axis=-1, epsilon=EPSILON)
    yield of_rows("rms_norm", dims, "RMSNormalization", {"eager": rms_norm}, ("w",), axis=-1, epsilon=EPSILON)
    yield of_rows("softmax", dims, "Softmax", {"eager": lambda torch: lambda x: torch.softmax(x, -1)}, axis=-1)
    yield of_rows("gelu", dims, "Gelu", {"eager": lambda torch: torch.nn.functional.gelu})


def residual(dims):
    """A sum that is kept, and its normalisation."""
    n = dims[-1:]

    def both(torch):
        def call(x, r, w, b):
            total = x + r
            return total, torch.nn.functional.layer_norm(total, n, w, b, EPSILON)

        return call

    def nodes(model, x, r, w, b):
        total = model.node("Add", [x, r], f"{model.prefix}total")
        return [total, model.node("LayerNormalization", [total, w, b], f"{model.prefix}y", axis=-1, epsilon=EPSILON)]

    return Case(
        table="memory", operator="add + layer_norm", shape="×".join(map(str, dims)),
        operands=(Operand("x", dims), Operand("r", dims), Operand("w", n, "weight"), Operand("b", n, "weight")), nodes=nodes,
        ways={"eager": both, "compile": compiled(both)}, writes=2 * dims[0] * dims[1])


def transpose(dims):
    return Case(
        table="memory", operator="transpose", shape="×".join(map(str, dims)), operands=(Operand("x", dims),),
        nodes=lambda model, x: [model.node("Transpose", [x], f"{model.prefix}y", perm=[1, 0])],
        ways={"eager": lambda torch: lambda x: x.t().contiguous()}, writes=dims[0] * dims[1])


def gather(there, taken, length):
    """Random rows of a table; the table itself need not be read."""
    return Case(
        table="memory", operator="gather", shape=f"{taken}×{length} of {there}",
        operands=(Operand("x", (there, length)), Operand("i", (taken,), "index", there)),
        nodes=lambda model, x, i: [model.node("Gather", [x, i], f"{model.prefix}y", axis=0)],
        ways={"eager": lambda torch: lambda x, i: torch.index_select(x, 0, i)}, writes=taken * length,
        moved=2 * taken * length * HALF + taken * 8)


def concat(m, n):
    """Two halves of rows side by side."""
    half = (m, n // 2)
    return Case(
        table="memory", operator="concat", shape=f"2 of {m}×{n // 2}", operands=(Operand("a", half), Operand("b", half)),
        nodes=lambda model, a, b: [model.node("Concat", [a, b], f"{model.prefix}y", axis=1)],
        ways={"eager": lambda torch: lambda a, b: torch.cat([a, b], 1)}, writes=m * n)


def cut(m, n):
    """The second half of the rows of x."""
    def nodes(model, x):
        bounds = [model.ints(f"{model.prefix}{name}", [value]) for name, value in (("from", n), ("to", 2 * n), ("axis", 1))]
        return [model.node("Slice", [x, *bounds], f"{model.prefix}y")]

    return Case(
        table="memory", operator="slice", shape=f"{m}×{n} of {m}×{2 * n}", operands=(Operand("x", (m, 2 * n)),), nodes=nodes,
        ways={"eager": lambda torch: lambda x: x[:, n:].contiguous()}, writes=m * n, moved=2 * m * n * HALF)


def group_norm(batch, channels, side):
    """With SiLU behind it, channels last in memory, as between convolutions."""
    def both(torch):
        functional = torch.nn.functional
        return lambda x, w, b: functional.silu(functional.group_norm(x.permute(0, 3, 1, 2), GROUPS, w, b, EPSILON))

    def nodes(model, x, w, b):
        own = model.prefix
        first = model.node("Transpose", [x], f"{own}first", perm=[0, 3, 1, 2])
        normal = model.node("GroupNormalization", [first, w, b], f"{own}normal", num_groups=GROUPS, epsilon=EPSILON)
        gate = model.node("Sigmoid", [normal], f"{own}gate")
        active = model.node("Mul", [normal, gate], f"{own}active")
        return [model.node("Transpose", [active], f"{own}y", perm=[0, 2, 3, 1])]

    return Case(
        table="memory", operator="group_norm + silu", shape=f"{batch}, {channels}, {side}²",
        operands=(Operand("x", (batch, side, side, channels)), Operand("w", (channels,), "weight"),
                  Operand("b", (channels,), "weight")),
        nodes=nodes, ways={"compile": compiled(both)}, writes=batch * channels * side * side)


def cases(size):
    sizes = SIZES[size]
    made = [case for dims in sizes["rows"] for case in rows(dims)]
    made.sort(key=lambda case: ["layer_norm", "rms_norm", "softmax", "gelu"].index(case.operator))
    for make, key in ((residual, "residual"), (transpose, "transpose")):
        made += [make(dims) for dims in sizes[key]]
    for make, key in ((gather, "gather"), (concat, "joined"), (cut, "joined"), (group_norm, "group_norm")):
        made += [make(*dims) for dims in sizes[key]]
    return made


def page(results):
    ways = results.ways()
    body = []
    for name, row, ours, theirs in results:
        body.append([*name, number(row["bytes"] / 1e6), str(row["copies"]), *(results.way(name, w) for w in ways), number(ours),
                     number(ratio(ours, theirs)), results.share(name, theirs), results.share(name, ours), results.steps(name)])
    head = ["operator", "shape", "MB", "copies", *(f"{w} µs" for w in ways), "bespoke µs", "ratio", "PyTorch's share",
            "bespoke's share", "steps a copy"]
    return markdown(head, body) + summary(results, lambda name: name[0]) + (
        "\nShare: of the bandwidth of a copy of 256 MiB, bytes being what is to be read and written once.\n")


TABLE = Table("memory", "Operators that move memory", cases, page)
