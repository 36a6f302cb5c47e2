"""Diffusion transformer of single-stream blocks: shared input and output projections, adaptive LayerNorm,
normalised queries and keys, rotary positions, tanh-GELU (Peebles & Xie 2022). Dynamic: the number of tokens."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from workload import RmsNorm, Workload, jitter_norms


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.mod = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.lin1 = nn.Linear(width, 3 * width + 4 * width)
        self.lin2 = nn.Linear(5 * width, width)
        self.q_norm, self.k_norm = RmsNorm(width // heads), RmsNorm(width // heads)

    def forward(self, x, v, cos, sin):
        b, n, d = x.shape
        shift, scale, gate = self.mod(F.silu(v))[:, None].chunk(3, -1)
        y = self.norm(x) * (1 + shift) + scale
        qkv, mlp = self.lin1(y).split([3 * d, 4 * d], -1)
        q, k, val = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)

        def rope(t):
            swapped = torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2)
            return t * cos + swapped * sin

        o = F.scaled_dot_product_attention(rope(q), rope(k), val).transpose(1, 2).reshape(b, n, d)
        return x + gate * self.lin2(torch.cat([o, F.gelu(mlp, approximate="tanh")], -1))


class Stack(nn.Module):
    def __init__(self, layers, width, heads):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x, v, cos, sin):
        for block in self.blocks:
            x = block(x, v, cos, sin)
        return x


def build(size):
    if size == "full":
        layers, width, heads, traced = 8, 3072, 24, 1536
        shapes = [1280, 1536, 4352]
    else:
        layers, width, heads, traced = 2, 96, 3, 80
        shapes = [24, 80, 150]

    n = Dim("n", min=4 if size == "small" else 64, max=8192)
    head = width // heads

    def sample(tokens):
        return torch.randn(1, tokens, width), torch.randn(1, width), torch.randn(tokens, head), torch.randn(tokens, head)

    return Workload(jitter_norms(Stack(layers, width, heads)), sample(traced),
                    {"x": {1: n}, "v": None, "cos": {0: n}, "sin": {0: n}},
                    ["x", "v", "cos", "sin"], ["y"], sample, shapes)
