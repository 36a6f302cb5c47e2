"""What every builder returns, and the pieces that more than one of them needs."""
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Workload:
    """One model, ready to be exported.

    module   an fp32 `nn.Module`; the exporter converts it to fp16
    example  the inputs that the export traces, in the order of `inputs`
    dynamic  `torch.export` dynamic shapes, keyed by input name
    inputs   input names, in graph order
    outputs  output names, in graph order
    sample   shape -> inputs: what reference data is made from
    shapes   the shapes at which reference data is kept
    """

    module: nn.Module
    example: tuple
    dynamic: dict
    inputs: list
    outputs: list
    sample: callable
    shapes: list = field(default_factory=list)


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in fp32 and rounded back, as decoders do (Zhang & Sennrich 2019)."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return y.to(x.dtype) * self.weight


def jitter_norms(module):
    """Gives norms weights, biases and statistics that differ by channel, so that a mixed-up channel shows."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, RmsNorm)):
            if getattr(m, "weight", None) is not None:
                nn.init.uniform_(m.weight, 0.7, 1.3)
            if getattr(m, "bias", None) is not None:
                nn.init.uniform_(m.bias, -0.2, 0.2)
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.2, 0.2)
            nn.init.uniform_(m.running_var, 0.6, 1.6)
    return module
