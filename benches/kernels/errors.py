"""How far results are from the exact one: bespoke's and PyTorch's on the same random operands, against float64.

`max` is the largest difference by the largest element of the reference, `rms` the root of the mean squared difference by that
of the mean squared element.
"""


def compare(result, reference):
    """Both errors of a result, arrays of numpy or torch in float64."""
    off = result - reference
    largest = float(abs(reference).max()) or 1.0
    square = float((reference * reference).mean()) or 1.0
    return dict(max=float(abs(off).max()) / largest, rms=(float((off * off).mean()) / square) ** 0.5)


def rows(case, operands, result, vendor):
    """A row for bespoke's result, and one for each of PyTorch's ways where it is there."""
    if vendor is None:
        import numpy as np

        reference = case.reference(np, *(o.astype(np.float64) for o in operands))
        yield dict(who="bespoke", **compare(result.astype(np.float64), reference))
        return
    torch = vendor.torch
    with torch.inference_mode():
        tensors = [torch.from_numpy(o).cuda() for o in operands]
        reference = case.reference(torch, *(t.double() for t in tensors))
        yield dict(who="bespoke", **compare(torch.from_numpy(result).cuda().double(), reference))
        for way, make in case.ways.items():
            try:
                theirs = make(torch)(*tensors)
            except RuntimeError:
                # what refuses a shape is a row of the timing
                continue
            yield dict(who=way, **compare(theirs.double(), reference))
