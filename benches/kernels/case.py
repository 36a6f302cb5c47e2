"""What is timed: one operator at one shape, said once for both sides.

A case has operands, the ONNX nodes that compute it and the calls of PyTorch that do the same. Both sides run as many copies of it
as it takes to leave the GPU's caches behind (`copies`), each on operands of its own; the time of a case is that of all of
them by their number.

A table is a `Table`: its cases and what its rows of results look like as Markdown. The driver lists all of them.
"""
import dataclasses
import math
from collections.abc import Callable

# what the operands of all copies are to fill together: several times the caches of any card
FOOTPRINT = 256 << 20
MOST_COPIES = 64
HALF = 2


@dataclasses.dataclass(frozen=True)
class Operand:
    """A tensor of fp16 that a case reads; an `input` of the model, or a `weight` in its file. An `index` is one of random int64
    below `below`, in the file."""

    name: str
    dims: tuple
    kind: str = "input"
    below: int = 0

    @property
    def bytes(self):
        return math.prod(self.dims) * (8 if self.kind == "index" else HALF)


@dataclasses.dataclass(frozen=True)
class Case:
    """See the module.

    nodes      adds the ONNX nodes of one copy to a `model.Model`; takes it and the names of the operands, returns the names
               of the results
    ways       name -> what PyTorch is called with: takes the module `torch`, returns a function of the operands
    writes     elements of the results
    moved      bytes that one call has to read and write at least, if it is not all operands and results
    reference  the result from operands in float64, for errors: takes `numpy` or `torch` and the operands as its arrays
    """

    table: str
    operator: str
    shape: str
    operands: tuple
    nodes: Callable
    ways: dict
    writes: int
    flops: int = 0
    moved: int = 0
    reference: Callable | None = None

    @property
    def name(self):
        return f"{self.operator} {self.shape}"

    @property
    def bytes(self):
        return self.moved or sum(o.bytes for o in self.operands) + self.writes * HALF

    @property
    def copies(self):
        return max(2, min(MOST_COPIES, math.ceil(FOOTPRINT / self.bytes)))

    def row(self):
        """What tables say of it, as a row of the kind `case`."""
        return dict(kind="case", **self.key(), flops=self.flops, bytes=self.bytes, copies=self.copies)

    def key(self):
        return dict(table=self.table, operator=self.operator, shape=self.shape)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: `cases` takes `full` or `small`, the latter to try the program; `page` takes a `report.Results`."""

    name: str
    title: str
    cases: Callable
    page: Callable
    errors: bool = False
