"""The element types of random specs: how numbers round to them, and their bits in ONNX's files.

In numpy, numbers of every type are held as float32, where all of them are exact: numpy has no bf16, and versions of onnx differ in
what they take for it.
"""
import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Float:
    """A type: its number in ONNX's TensorProto.DataType, its name in PyTorch, the bits of a significand."""

    name: str
    onnx: int
    torch: str
    digits: int

    @property
    def unit(self):
        """Root mean square of the relative error that rounding a number makes on average.

        An error is even within half a step of 2^(1 - digits), and so has the variance step²/12; over significands from 1 to 2, as
        likely as numbers of all sizes make them, the mean of 1/significand² is 3/(8 ln 2) = 0.541. The root of 0.541/12 is 0.212.
        """
        return 0.212 * 2 ** (1 - self.digits)

    def encode(self, np, array):
        """The bytes of an array's numbers, rounded to nearest even."""
        if self.name == "fp16":
            return array.astype("<f2").tobytes()
        if self.name == "fp32":
            return array.astype("<f4").tobytes()
        bits = np.ascontiguousarray(array, "<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()

    def decode(self, np, data, dims):
        """The numbers that bytes hold, as float32."""
        if self.name == "bf16":
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(dims)
        return np.frombuffer(data, "<f2" if self.name == "fp16" else "<f4").astype(np.float32).reshape(dims)

    def near(self, number):
        """The number of this type that is next to a number."""
        digits = 2.0 ** (self.digits - math.frexp(number)[1])
        return round(number * digits) / digits

    def rounded(self, np, array):
        """An array's numbers as this type has them."""
        return self.decode(np, self.encode(np, array), array.shape)


TYPES = {t.name: t for t in (Float("fp16", 10, "float16", 11), Float("bf16", 16, "bfloat16", 8), Float("fp32", 1, "float32", 24))}
