"""Reference and errors of specs.

Where PyTorch is, it computes the reference in float64 and runs the same operator in the spec's type, set to its most exact: no
TF32, no sums in 16 bits. Where it is not, numpy computes the reference.
"""
import math

import errors


class Numpy:
    """The reference alone."""

    def __init__(self, np):
        self.np = np

    def rows(self, spec, arrays, results):
        """A row for each result, `who` -> array."""
        np = self.np
        reference = spec.reference(np, *(a if a.dtype == bool else a.astype(np.float64) for a in arrays))
        for who, result in results.items():
            yield row(who, result.astype(np.float64), reference)


class Torch:
    """PyTorch on a device."""

    def __init__(self, device):
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA device")
        self.torch, self.device = torch, device
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

    def rows(self, spec, arrays, results):
        """A row for each result, and one for PyTorch's; what PyTorch refuses is an error of its own."""
        torch = self.torch
        with torch.inference_mode():
            tensors = [torch.from_numpy(a).to(self.device) for a in arrays]
            numbers = [t if t.dtype == torch.bool else t.double() for t in tensors]
            reference = spec.reference(torch, *numbers)
            for who, result in results.items():
                yield row(who, torch.from_numpy(result).to(self.device).double(), reference)
            kind = getattr(torch, spec.type.torch)
            theirs = spec.call(torch, *(t if t.dtype == torch.bool else t.to(kind) for t in tensors))
            yield row("torch", theirs.double(), reference)


def row(who, result, reference):
    """The errors of a result, arrays of numpy or tensors in float64."""
    if tuple(result.shape) != tuple(reference.shape):
        raise ValueError(f"the result of {who} is {tuple(result.shape)}, not {tuple(reference.shape)}")
    return dict(who=who, elements=math.prod(reference.shape), **errors.compare(result, reference))
