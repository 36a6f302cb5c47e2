"""Random specs of what multiplies: matrix products, attention, convolutions."""
import math

from formulas import Epilogue, softmax
from spec import Operand, times

CALL, REFERENCE = 1, 2


def product(draw):
    """A linear layer on weights, or a product of two inputs, their batches equal or broadcast; operands turned or not."""
    form = draw.choice("linear", "batched", "broadcast")
    most = draw.limits.elements
    k, n = draw.extents(2, most)
    m = draw.extent(max(1, min(draw.limits.extent, most // max(k, n))))
    batches = draw.extents(draw.choice(0, 1) if form == "linear" else 2, min(12, max(1, most // (m * max(k, n)))))
    names = [f"b{i}" for i in range(len(batches))]
    turned = [form != "linear" and draw.chance(0.4), draw.chance(0.5)]
    # what a linear layer's weight says is fixed, all else is a symbol
    inner, columns = (k, n) if form == "linear" else ("k", "n")
    left, right = ["m", inner], [inner, columns]
    lead = {"linear": [], "batched": names, "broadcast": draw.choice(names[1:], [*names[:1], 1])}[form]
    a = Operand("a", (*names, *(left[::-1] if turned[0] else left)))
    b = Operand("b", (*lead, *(right[::-1] if turned[1] else right)), "weight" if form == "linear" else "input", k**-0.5)
    bias = form == "linear" and draw.chance(0.7)
    after = Epilogue(draw)
    operands = [a, b]
    if bias:
        operands.append(Operand("bias", (n,), "weight"))
    if after.residual:
        operands.append(Operand("r", (*names, "m", columns)))

    def nodes(model, a, b, *more):
        def straight(x, operand, turn):
            rank = len(operand.dims)
            perm = [*range(rank - 2), rank - 1, rank - 2]
            return model.node("Transpose", [x], f"{x}_turned", perm=perm) if turn else x

        y = model.node("MatMul", [straight(a, operands[0], turned[0]), straight(b, operands[1], turned[1])], f"{a}_product")
        if bias:
            y = model.node("Add", [y, more[0]], f"{y}_biased")
        return after.nodes(model, y, more[-1] if more else None)

    def straightened(tensors):
        return [t.swapaxes(-1, -2) if turn else t for t, turn in zip(tensors, turned)]

    def call(torch, a, b, *more):
        a, b = straightened((a, b))
        y = torch.nn.functional.linear(a, b.mT, more[0] if bias else None) if form == "linear" else a @ b
        return after.apply(torch, y, more[-1] if more else None, CALL)

    def reference(lib, a, b, *more):
        a, b = straightened((a, b))
        y = a @ b + more[0] if bias else a @ b
        return after.apply(lib, y, more[-1] if more else None, REFERENCE)

    words = [form, times(*batches, "") + times(m, n, k), *(f"{x}ᵀ" for x, turn in zip("ab", turned) if turn),
             *(["bias"] if bias else []), *after.words]
    extents = dict(zip(names, batches), m=m) | ({} if form == "linear" else dict(k=k, n=n))
    return dict(text=", ".join(words), extents=extents, operands=tuple(operands), nodes=nodes, call=call, reference=reference)


def lengths(draw):
    """Queries and keys: as many, few of either, or one query behind a cache."""
    most = draw.limits.extent
    kind = draw.choice("self", "cross", "decode")
    keys = draw.extent(most if kind != "cross" else max(1, most // 16))
    return kind, {"self": keys, "cross": draw.extent(most), "decode": 1}[kind], keys


def exported(size, masked, kind):
    """An attention as exporters write it: keys turned, a product, a factor of the type, a mask, a softmax, a product."""
    def nodes(model, q, k, v, *mask):
        turned = model.node("Transpose", [k], f"{k}_turned", perm=[0, 1, 3, 2])
        scores = model.node("MatMul", [q, turned], f"{q}_scores")
        scores = model.node("Mul", [scores, model.number(f"{q}_scale", kind, size**-0.5)], f"{q}_scaled")
        if masked:
            scores = model.node("Add", [scores, mask[0]], f"{q}_masked")
        shares = model.node("Softmax", [scores], f"{q}_shares", axis=-1)
        return model.node("MatMul", [shares, v], f"{q}_y")

    return nodes


def attention(draw):
    """An attention in four axes: as ONNX's operator, or as the nodes that exporters write."""
    size = draw.choice(*draw.limits.heads)
    kind, queries, keys = lengths(draw)
    own = draw.chance(0.3)
    heads, sharing = draw.extent(4), 1 if own else draw.choice(1, 2, 4)
    each = heads * max(queries * keys // 16, queries * size, keys * size)
    while sharing > 1 and each * sharing > draw.limits.scores // 4:
        sharing //= 2
    batch = draw.extent(max(1, min(4, draw.limits.elements // max(1, each * sharing))))
    mask = draw.choice(None, "added") if own else draw.choice(None, "bool", "added", *(["causal"] if kind == "self" else []))
    scores = draw.choice(1.0, 3.0)
    operands = [Operand("q", ("b", heads * sharing, "m", size), deviation=scores), Operand("k", ("b", heads, "n", size)),
                Operand("v", ("b", heads, "n", size))]
    if mask in ("bool", "added"):
        operands.append(Operand("mask", draw.choice(("m", "n"), ("b", 1, "m", "n")), "mask" if mask == "bool" else "input"))

    def operator(model, *names):
        return model.node("Attention", names, f"{names[0]}_y", **(dict(is_causal=1) if mask == "causal" else {}))

    # both sides and the reference have the factor that the model has
    scale = draw.type.near(size**-0.5) if own else size**-0.5

    def call(torch, q, k, v, *more):
        k, v = (x.repeat_interleave(sharing, 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, more[0] if more else None, is_causal=mask == "causal",
                                                                scale=scale)

    def reference(lib, q, k, v, *more):
        groups = q.reshape(q.shape[0], heads, sharing, queries, size)
        s = groups @ k[:, :, None].swapaxes(-1, -2) * scale
        if mask == "causal":
            place = lib.cumsum(lib.ones_like(s), -1), lib.cumsum(lib.ones_like(s), -2)
            s = lib.where(place[0] <= place[1], s, -math.inf)
        for found in more:
            apart = found[:, :, None] if found.ndim == 4 else found
            s = lib.where(apart, s, -math.inf) if mask == "bool" else s + apart
        return (softmax(lib, s, -1) @ v[:, :, None]).reshape(q.shape)

    words = [times(batch, heads * sharing) + (f"/{heads}" if sharing > 1 else ""), times(queries, keys), f"head {size}",
             *([f"{mask} mask" if mask != "causal" else mask] if mask else []), *(["exported"] if own else [])]
    return dict(text=", ".join(words), extents=dict(b=batch, m=queries, n=keys), operands=tuple(operands),
                nodes=exported(size, mask, draw.type) if own else operator, call=call, reference=reference, row=size)


def padded(lib, x, pads):
    """An array with zeros around its last axes."""
    for axis, pad in enumerate(pads, x.ndim - len(pads)):
        if pad:
            shape = [*x.shape]
            shape[axis] = pad
            zeros = lib.zeros_like(lib.broadcast_to(x[(slice(None),) * axis + (slice(0, 1),)], tuple(shape)))
            x = lib.concatenate((zeros, x, zeros), axis)
    return x


def convolve(lib, x, w, groups, stride, dilation, pads):
    """A convolution in two axes, tap by tap."""
    batch, channels, *_ = x.shape
    filters, each, *kernel = w.shape
    x = padded(lib, x, pads)
    outs = [(x.shape[2 + i] - dilation * (kernel[i] - 1) - 1) // stride + 1 for i in range(2)]
    x, w, y = x.reshape(batch, groups, each, *x.shape[2:]), w.reshape(groups, filters // groups, each, *kernel), 0
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, columns = (slice(t * dilation, t * dilation + stride * (outs[a] - 1) + 1, stride) for a, t in enumerate((i, j)))
            y = y + lib.einsum("ngchw,gkc->ngkhw", x[..., rows, columns], w[..., i, j])
    return y.reshape(batch, filters, *outs)


def convolution(draw):
    """A convolution in two axes on a weight: plain, in groups or depthwise; pictures have any size, channels do not."""
    full = draw.limits.extent > 64
    kernel = [draw.choice(1, 3, 3, 5, 7) for _ in range(2)] if draw.chance(0.3) else [draw.choice(1, 3, 3, 5)] * 2
    stride, dilation = draw.choice(1, 1, 2), draw.choice(1, 1, 2)
    pads = [dilation * (size - 1) // 2 if draw.chance(0.7) else 0 for size in kernel]
    sort = draw.choice("plain", "plain", "plain", "groups", "depthwise")
    each, filters = (draw.extent(256 if full else 12) for _ in range(2))
    groups = {"plain": 1, "groups": draw.choice(2, 3, 4), "depthwise": each}[sort]
    if sort == "depthwise":
        each = filters = 1
    # a picture holds its kernel
    batch = draw.extent(4)
    least = [dilation * (size - 1) + 1 for size in kernel]
    most = int(max(1, draw.limits.elements // (batch * groups * max(each, filters))) ** 0.5)
    height, width = (draw.extent(max(size, min(most, 96)), size) for size in least)
    bias, after = draw.chance(0.7), Epilogue(draw)
    operands = [Operand("x", ("b", groups * each, "h", "w")),
                Operand("f", (groups * filters, each, *kernel), "weight", (each * math.prod(kernel)) ** -0.5)]
    if bias:
        operands.append(Operand("bias", (groups * filters,), "weight"))
    extents = dict(b=batch, h=height, w=width)
    if after.residual:
        outs = [(x + 2 * p - s) // stride + 1 for x, p, s in zip((height, width), pads, least)]
        operands.append(Operand("r", ("b", groups * filters, "oh", "ow")))
        extents |= dict(zip(("oh", "ow"), outs))

    def nodes(model, x, f, *more):
        y = model.node("Conv", [x, f, *more[:int(bias)]], f"{x}_y", strides=[stride] * 2, dilations=[dilation] * 2, pads=pads * 2,
                       group=groups)
        return after.nodes(model, y, more[-1] if more else None)

    def call(torch, x, f, *more):
        y = torch.nn.functional.conv2d(x, f, more[0] if bias else None, stride, pads, dilation, groups)
        return after.apply(torch, y, more[-1] if more else None, CALL)

    def reference(lib, x, f, *more):
        y = convolve(lib, x, f, groups, stride, dilation, pads)
        return after.apply(lib, y + more[0][:, None, None] if bias else y, more[-1] if more else None, REFERENCE)

    words = [times(batch, groups * each, height, width), f"{groups * filters} filters {times(*kernel)}",
             *(f"{name} {x}" for name, x, usual in (("stride", stride, 1), ("dilation", dilation, 1), ("groups", groups, 1))
               if x != usual), *([f"pads {times(*pads)}"] if any(pads) else []), *(["bias"] if bias else []), *after.words]
    return dict(text=", ".join(words), extents=extents, operands=tuple(operands), nodes=nodes, call=call, reference=reference)
