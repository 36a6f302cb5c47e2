"""Functions of specs: as ONNX nodes, as a call of PyTorch, and written out in float64 for numpy or PyTorch."""
import math


def erf(lib, x):
    return lib.erf(x) if hasattr(lib, "erf") else lib.vectorize(math.erf)(x)


def softmax(lib, x, axis):
    e = lib.exp(x - lib.amax(x, axis=axis, keepdims=True))
    return e / e.sum(axis)[(slice(None),) * (axis % x.ndim) + (None,)]


def sigmoid(lib, x):
    return 1 / (1 + lib.exp(-x))


def silu_nodes(model, x):
    return model.node("Mul", [x, model.node("Sigmoid", [x], f"{x}_gate")], f"{x}_silu")


def one(kind):
    """A function that is an operator of ONNX."""
    return lambda model, x: model.node(kind, [x], f"{x}_{kind}")


# name -> nodes, call, reference
ACTIVATIONS = {
    "relu": (one("Relu"), lambda torch, x: torch.relu(x), lambda lib, x: x * (x > 0)),
    "gelu": (one("Gelu"), lambda torch, x: torch.nn.functional.gelu(x), lambda lib, x: x * (1 + erf(lib, x * 0.5**0.5)) / 2),
    "silu": (silu_nodes, lambda torch, x: torch.nn.functional.silu(x), lambda lib, x: x * sigmoid(lib, x)),
    "tanh": (one("Tanh"), lambda torch, x: torch.tanh(x), lambda lib, x: lib.tanh(x)),
    "sigmoid": (one("Sigmoid"), lambda torch, x: torch.sigmoid(x), sigmoid),
    "exp": (one("Exp"), lambda torch, x: torch.exp(x), lambda lib, x: lib.exp(x)),
}


class Epilogue:
    """What follows a product: an activation, or none, and the sum with a residual, or none."""

    def __init__(self, draw):
        self.activation = draw.choice(None, "relu", "gelu", "silu")
        self.residual = draw.chance(0.4)
        self.words = [w for w in (self.activation, "residual" if self.residual else None) if w]

    def nodes(self, model, y, residual):
        if self.activation:
            y = ACTIVATIONS[self.activation][0](model, y)
        return model.node("Add", [y, residual], f"{y}_sum") if self.residual else y

    def apply(self, lib, y, residual, way):
        """`way` 1 is the call of PyTorch, 2 the reference."""
        if self.activation:
            y = ACTIVATIONS[self.activation][way](lib, y)
        return y + residual if self.residual else y
