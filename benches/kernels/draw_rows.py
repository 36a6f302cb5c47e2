"""Random specs of what goes along rows or element by element: normalisations, softmax, reductions, functions."""
import math

from formulas import ACTIVATIONS, sigmoid, silu_nodes, softmax
from spec import Operand, times

EPSILON = 1e-5


def rows(draw):
    """Extents of one to three axes before a row, and its length."""
    length = draw.extent(draw.limits.row, 2)
    return draw.extents(draw.choice(1, 2, 3), max(1, draw.limits.elements // length)), length


def lead(outer):
    names = [f"d{i}" for i in range(len(outer))]
    return names, dict(zip(names, outer))


def normalised(draw, name, kind, weights, call, reference):
    """A normalisation of x, or of a sum with a residual; the length is that of weights in the file, or open."""
    outer, length = rows(draw)
    names, extents = lead(outer)
    fixed, residual = draw.chance(0.7), draw.chance(0.3)
    mean = draw.choice(0.0, 0.0, 2.0)
    if not fixed:
        extents["n"] = length
    last = length if fixed else "n"
    operands = [Operand("x", (*names, last), mean=mean), *([Operand("r", (*names, last))] if residual else [])]
    # factors around 1, as trained layers have them
    operands += [Operand(w, (last,), "weight" if fixed else "input", 0.5, 1.0 if w == "w" else 0.0) for w in weights]

    def nodes(model, x, *more):
        if residual:
            x, more = model.node("Add", [x, more[0]], f"{x}_sum"), more[1:]
        return model.node(kind, [x, *more], f"{x}_y", axis=-1, epsilon=EPSILON)

    def summed(way):
        return lambda lib, x, *more: way(lib, x + more[0], *more[1:]) if residual else way(lib, x, *more)

    words = [times(*outer, length), *(["residual"] if residual else []), *([f"mean {mean:g}"] if mean else []),
             *([] if fixed else ["open rows"])]
    return dict(text=", ".join(words), extents=extents, operands=tuple(operands), nodes=nodes, call=summed(call),
                reference=summed(reference), row=length)


def layer_norm(draw):
    def call(torch, x, w, b):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, EPSILON)

    def reference(lib, x, w, b):
        apart = x - x.mean(-1)[..., None]
        return apart / (((apart * apart).mean(-1) + EPSILON) ** 0.5)[..., None] * w + b

    return normalised(draw, "layer_norm", "LayerNormalization", "wb", call, reference)


def rms_norm(draw):
    def call(torch, x, w):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], w, EPSILON)

    def reference(lib, x, w):
        return x / (((x * x).mean(-1) + EPSILON) ** 0.5)[..., None] * w

    return normalised(draw, "rms_norm", "RMSNormalization", "w", call, reference)


def of_softmax(draw):
    """Along any axis, of scores that are alike or far apart."""
    outer, length = rows(draw)
    axis = len(outer) if draw.chance(0.7) else draw.random.randrange(len(outer) + 1)
    dims = [*outer[:axis], length, *outer[axis:]]
    names, extents = lead(dims)
    deviation = draw.choice(1.0, 4.0)
    return dict(
        text=f"{times(*dims)}, axis {axis}, deviation {deviation:g}", extents=extents,
        operands=(Operand("x", tuple(names), deviation=deviation),),
        nodes=lambda model, x: model.node("Softmax", [x], f"{x}_y", axis=axis), call=lambda torch, x: torch.softmax(x, axis),
        reference=lambda lib, x: softmax(lib, x, axis), row=length)


def chain(name):
    """An activation alone."""
    nodes, call, reference = ACTIVATIONS[name]
    return "x", nodes, call, reference


def gated_nodes(model, x, y):
    return model.node("Mul", [silu_nodes(model, x), y], f"{x}_gated")


def fused_nodes(model, x, y, z):
    product = model.node("Mul", [x, y], f"{x}_product")
    return model.node("Tanh", [model.node("Add", [product, z], f"{x}_sum")], f"{x}_y")


# name -> operands (z is a row), nodes, call, reference
POINTWISE = {name: chain(name) for name in ("gelu", "silu", "tanh", "sigmoid", "exp")} | {
    "silu · y": ("xy", gated_nodes, lambda torch, x, y: torch.nn.functional.silu(x) * y, lambda lib, x, y: x * sigmoid(lib, x) * y),
    "tanh(x · y + z)": ("xyz", fused_nodes, lambda torch, x, y, z: torch.tanh(x * y + z),
                        lambda lib, x, y, z: lib.tanh(x * y + z)),
}


def pointwise(draw):
    # in turn, so that few specs have all of them
    name = [*POINTWISE][draw.number % len(POINTWISE)]
    operands, nodes, call, reference = POINTWISE[name]
    dims = draw.extents(draw.choice(1, 2, 3, 4), draw.limits.elements)
    names, extents = lead(dims)
    given = tuple(Operand(x, tuple(names if x != "z" else names[-1:])) for x in operands)
    return dict(text=f"{name} of {times(*dims)}", extents=extents, operands=given, nodes=nodes, call=call, reference=reference)


# name -> operator of ONNX, call
REDUCTIONS = {
    "sum": ("ReduceSum", lambda torch, x, axes, keep: torch.sum(x, axes, keep)),
    "mean": ("ReduceMean", lambda torch, x, axes, keep: torch.mean(x, axes, keep)),
    "max": ("ReduceMax", lambda torch, x, axes, keep: torch.amax(x, axes, keep)),
}


def reduce(draw):
    """Sums, means and largest elements over some axes, in turn."""
    name = [*REDUCTIONS][draw.number % len(REDUCTIONS)]
    kind, way = REDUCTIONS[name]
    dims = draw.extents(draw.choice(2, 2, 3, 4), draw.limits.elements)
    names, extents = lead(dims)
    axes = sorted(draw.random.sample(range(len(dims)), draw.choice(*range(1, len(dims)))))
    # sums of all that may be reduced stay within fp16
    mean = draw.choice(0.0, 0.25) if math.prod(dims[a] for a in axes) <= 1 << 16 else 0.0
    keep = draw.chance(0.5)

    def nodes(model, x):
        return model.node(kind, [x, model.ints(f"{x}_axes", axes)], f"{x}_y", keepdims=int(keep))

    def reference(lib, x):
        return lib.amax(x, axis=tuple(axes), keepdims=keep) if name == "max" else getattr(x, name)(tuple(axes), keepdims=keep)

    words = [f"{name} of {times(*dims)}", "axes " + " ".join(map(str, axes)), *([f"mean {mean:g}"] if mean else [])]
    return dict(text=", ".join(words), extents=extents, operands=(Operand("x", tuple(names), mean=mean),), nodes=nodes,
                call=lambda torch, x: way(torch, x, axes, keep), reference=reference, exact=name == "max")
