"""One decode step of a language model with grouped-query attention and a growing key/value cache.
Dynamic: batch and the length of the cache."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from workload import RmsNorm, Workload, jitter_norms


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, hidden):
        super().__init__()
        self.heads, self.kv_heads, self.head = heads, kv_heads, width // heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.head, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin, past_k, past_v):
        b, n, d = x.shape
        h, g = self.heads, self.kv_heads
        y = self.qkv(self.norm1(x)).view(b, n, h + 2 * g, self.head).transpose(1, 2)
        q, k, v = y[:, :h], y[:, h:h + g], y[:, h + g:]

        def rope(t):
            first, second = t.chunk(2, -1)
            return t * cos + torch.cat([-second, first], -1) * sin

        k, v = torch.cat([past_k, rope(k)], 2), torch.cat([past_v, v], 2)
        keys, values = k.repeat_interleave(h // g, 1), v.repeat_interleave(h // g, 1)
        o = F.scaled_dot_product_attention(rope(q), keys, values).transpose(1, 2).reshape(b, n, d)
        x = x + self.out(o)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), k, v


class Decoder(nn.Module):
    def __init__(self, layers, width, heads, kv_heads, hidden, vocabulary):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, hidden) for _ in range(layers))
        self.norm = RmsNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids, cos, sin, past_k, past_v):
        x = self.embed(ids)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, cos, sin, past_k[i], past_v[i])
            keys.append(k)
            values.append(v)
        return self.head(self.norm(x)), torch.stack(keys), torch.stack(values)


def build(size):
    if size == "full":
        layers, width, heads, kv_heads, hidden, vocabulary = 16, 2048, 16, 8, 6144, 32000
        shapes = [(1, 200), (1, 1000), (8, 1000)]
    else:
        layers, width, heads, kv_heads, hidden, vocabulary = 2, 64, 4, 2, 192, 500
        shapes = [(1, 5), (2, 64), (3, 33)]

    batch, past = Dim("batch", min=1, max=32), Dim("past", min=2, max=4096)
    head = width // heads

    def sample(shape):
        b, p = shape
        # Real rotary tables: one row for the position that is being decoded.
        angle = p * 10000.0 ** (-torch.arange(0, head, 2) / head)
        angle = torch.cat([angle, angle])[None]
        cache = (layers, b, kv_heads, p, head)
        return (torch.randint(0, vocabulary, (b, 1)), angle.cos(), angle.sin(), torch.randn(cache), torch.randn(cache))

    cache = {1: batch, 3: past}
    return Workload(jitter_norms(Decoder(layers, width, heads, kv_heads, hidden, vocabulary)), sample((2, 64)),
                    {"ids": {0: batch}, "cos": None, "sin": None, "past_k": cache, "past_v": cache},
                    ["ids", "cos", "sin", "past_k", "past_v"], ["logits", "present_k", "present_v"], sample, shapes)
