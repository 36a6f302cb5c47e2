"""A random spec: one operator, or a few that a kernel fuses, with its type, its extents and what lies around it.

A spec is drawn from a seed, its template, its type and its number alone, by Python's own generator: the same one everywhere,
whichever others are drawn. It says its operator three times: as ONNX nodes, as a call of PyTorch, and as a reference in float64
that is written out, for numpy's arrays or PyTorch's tensors.
"""
import dataclasses
import math
import random
from collections.abc import Callable

from floats import Float


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor that a spec reads: an `input`, a `mask` (an input of booleans) or a `weight` in the model's file.

    `dims` are names of extents, which are symbols of the model, and numbers, which it fixes. Numbers have a normal distribution.
    """

    name: str
    dims: tuple
    kind: str = "input"
    deviation: float = 1.0
    mean: float = 0.0


@dataclasses.dataclass(frozen=True)
class Spec:
    """See the module.

    text       what tells it from others of its template and type
    extents    those of its symbols
    nodes      adds its ONNX nodes: takes a `model.Model` and the operands' names, returns the result's
    call       what PyTorch is asked for: takes `torch` and the operands
    reference  the result in float64: takes `numpy` or `torch` and the operands
    exact      whether nothing is rounded, so that there is one right result
    row        how many results share what is computed of their row, its mean or its sum of exponentials, and that one's error
    """

    template: str
    type: Float
    text: str
    extents: dict
    operands: tuple
    nodes: Callable
    call: Callable
    reference: Callable
    exact: bool = False
    row: int = 1

    @property
    def key(self):
        return dict(template=self.template, type=self.type.name, spec=self.text)

    def dims(self, operand):
        """The extents of an operand."""
        return [self.extents.get(d, d) for d in operand.dims]

    def arrays(self, np, seed):
        """Random operands: float32 with numbers of the spec's type, and booleans. A query sees its first key at least."""
        numbers = np.random.default_rng([seed, *" ".join(self.key.values()).encode()])
        found = []
        for operand in self.operands:
            dims = self.dims(operand)
            if operand.kind == "mask":
                seen = numbers.random(dims) < 0.6
                seen[..., 0] = True
                found.append(seen)
                continue
            array = numbers.standard_normal(dims, np.float32)
            # in place: these are most of the arrays' time
            array *= operand.deviation
            array += operand.mean
            found.append(self.type.rounded(np, array))
        return found


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large specs may be: an extent, a row, the elements of an operand, the scores of an attention; sizes of heads."""

    extent: int
    row: int
    elements: int
    scores: int
    heads: tuple


SIZES = {
    "full": Limits(2048, 16384, 1 << 20, 1 << 24, (32, 40, 64, 72, 80, 96, 128, 160, 192, 256)),
    "small": Limits(24, 48, 1 << 10, 1 << 12, (8, 16, 32)),
}


class Draw:
    """What is left to chance, within limits."""

    def __init__(self, seed, template, kind, number, limits):
        self.random = random.Random(f"{seed} {template} {kind.name} {number}")
        self.type, self.number, self.limits = kind, number, limits

    def choice(self, *of):
        return self.random.choice(of)

    def chance(self, part):
        return self.random.random() < part

    def extent(self, most, least=1):
        """A number of any size, large ones rather; every second one a multiple of eight, as fast paths want them."""
        found = int(least * ((most + 1) / least) ** (self.random.random() ** 0.6))
        eights = -(-found // 8) * 8
        return eights if self.chance(0.5) and eights <= most else min(found, most)

    def extents(self, count, most):
        """So many whose product is at most this, in any order."""
        found = []
        for left in range(count, 0, -1):
            rest = most // math.prod(found)
            # the first ones leave something to the others
            share = rest if left == 1 else min(rest, 4 * rest ** (1 / left))
            found.append(self.extent(max(1, min(self.limits.extent, int(share)))))
        self.random.shuffle(found)
        return found


def times(*extents):
    return "×".join(map(str, extents))
