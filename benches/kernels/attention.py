"""Attention in fp16 without a mask: queries [B, H, M, D], keys and values [B, G, N, D], heads of queries sharing those of keys.

In ONNX it stands as exporters write it: keys turned, a product, a factor, a softmax, a product; shared heads expanded. PyTorch
is timed with each of its backends; one that refuses a shape is a row.
"""
from case import Case, Operand, Table
from report import errors, markdown, number, ratio, summary

# batch, heads, heads of keys, queries, keys, size of a head
SHAPES = {
    "full": [(1, 24, 24, 4352, 4352, 128), (32, 12, 12, 384, 384, 64), (2, 10, 10, 4096, 4096, 64), (2, 10, 10, 4096, 77, 64),
             (2, 8, 8, 4096, 4096, 40), (2, 8, 8, 1024, 1024, 80), (2, 8, 8, 256, 256, 160), (8, 16, 8, 1, 1000, 128)],
    "small": [(1, 2, 2, 24, 24, 16), (2, 4, 2, 1, 33, 16)],
}
BACKENDS = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}


def backend(name, grouped):
    def way(torch):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        chosen = getattr(SDPBackend, BACKENDS[name])
        # the argument is given only where it is needed: not every backend takes it
        more = dict(enable_gqa=True) if grouped else {}

        def call(q, k, v):
            with sdpa_kernel(chosen):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, **more)

        return call

    return way


def exported(dims, heads):
    """Adds the nodes; `dims` are those of keys and values."""
    batch, shared, keys, size = dims

    def repeated(model, x, name):
        if heads == shared:
            return x
        apart = model.node("Unsqueeze", [x, model.ints(f"{name}_axis", [2])], f"{name}_apart")
        dims = [batch, shared, heads // shared, keys, size]
        wide = model.node("Expand", [apart, model.ints(f"{name}_dims", dims)], f"{name}_wide")
        return model.node("Reshape", [wide, model.ints(f"{name}_joined", [batch, heads, keys, size])], f"{name}_all")

    def nodes(model, q, k, v):
        own = model.prefix
        turned = model.node("Transpose", [repeated(model, k, f"{own}k")], f"{own}turned", perm=[0, 1, 3, 2])
        scores = model.node("MatMul", [q, turned], f"{own}scores")
        scaled = model.node("Mul", [scores, model.half(f"{own}scale", size**-0.5)], f"{own}scaled")
        shares = model.node("Softmax", [scaled], f"{own}shares", axis=-1)
        return [model.node("MatMul", [shares, repeated(model, v, f"{own}v")], f"{own}y")]

    return nodes


def reference(lib, q, k, v):
    batch, heads, queries, size = q.shape
    shared = k.shape[1]
    q = q.reshape(batch, shared, heads // shared, queries, size)
    # random scores are small: nothing has to be taken off before the exponential
    e = lib.exp(q @ k[:, :, None].swapaxes(-1, -2) * size**-0.5)
    return (e @ v[:, :, None] / e.sum(-1)[..., None]).reshape(batch, heads, queries, size)


def case(batch, heads, shared, queries, keys, size):
    q, kv = (batch, heads, queries, size), (batch, shared, keys, size)
    many = f"{heads}/{shared}" if heads != shared else f"{heads}"
    length = f"{queries}" if queries == keys else f"{queries}×{keys}"
    return Case(
        table="attention", operator="attention", shape=f"{batch}, {many}, {length}, {size}",
        operands=(Operand("q", q), Operand("k", kv), Operand("v", kv)), nodes=exported(kv, heads),
        ways={name: backend(name, heads != shared) for name in BACKENDS}, writes=batch * heads * queries * size,
        flops=4 * batch * heads * queries * keys * size, reference=reference)


def page(results):
    ways = results.ways()
    body = []
    for name, row, ours, theirs in results:
        speeds = [number(results.per_second(name, "flops", us)) for us in (theirs, ours)]
        body.append([name[1], str(row["copies"]), *(results.way(name, w) for w in ways), number(ours), *speeds,
                     number(ratio(ours, theirs)), results.steps(name)])
    head = ["batch, heads, length, head", "copies", *(f"{w} µs" for w in ways), "bespoke µs", "PyTorch TFLOP/s",
            "bespoke TFLOP/s", "ratio", "steps a copy"]
    return markdown(head, body) + summary(results) + errors(results)


TABLE = Table("attention", "Attention", lambda size: [case(*shape) for shape in SHAPES[size]], page, errors=True)
