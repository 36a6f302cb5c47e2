"""Denoiser of latent diffusion (Rombach et al. 2021): convolutions, GroupNorm, self- and cross-attention,
skip connections. Dynamic: height and width of the latent, in steps of 8."""
import torch
from torch import nn
from torch.export import Dim

from workload import Workload, jitter_norms


class Denoiser(nn.Module):
    """diffusers' U-Net as a function of three tensors."""

    def __init__(self, config):
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(in_channels=4, out_channels=4, use_linear_projection=True, **config)

    def forward(self, sample, timestep, ctx):
        return self.unet(sample, timestep, ctx, return_dict=False)[0]


def build(size):
    if size == "full":
        context, words = 1024, 77
        config = dict(sample_size=64, cross_attention_dim=context, attention_head_dim=[5, 10, 20, 20],
                      block_out_channels=(320, 640, 1280, 1280), layers_per_block=2)
        shapes, traced = [(64, 64), (96, 96), (64, 96)], (64, 64)
    else:
        context, words = 32, 11
        config = dict(sample_size=16, cross_attention_dim=context, attention_head_dim=[2, 3, 3, 3],
                      block_out_channels=(16, 24, 24, 24), layers_per_block=1, norm_num_groups=8)
        shapes, traced = [(16, 16), (16, 40), (32, 24)], (32, 32)

    low = 4 if size == "full" else 2
    h, w = Dim("h8", min=low, max=24), Dim("w8", min=low, max=24)

    def sample(shape):
        return torch.randn(2, 4, *shape), torch.tensor([10.0]), torch.randn(2, words, context)

    return Workload(jitter_norms(Denoiser(config)), sample(traced),
                    {"sample": {2: 8 * h, 3: 8 * w}, "timestep": None, "ctx": None},
                    ["sample", "timestep", "ctx"], ["noise"], sample, shapes)
