"""Text encoder (Devlin et al. 2018) with a padding mask. Dynamic: batch and sequence."""
import torch
from torch import nn
from torch.export import Dim

from workload import Workload, jitter_norms


class Encoder(nn.Module):
    """Only the last hidden state leaves the graph."""

    def __init__(self, config):
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def build(size):
    from transformers import BertConfig

    if size == "full":
        config = BertConfig(attn_implementation="sdpa")
        shapes = [(1, 37), (1, 128), (8, 128), (32, 384)]
    else:
        config = BertConfig(attn_implementation="sdpa", vocab_size=500, hidden_size=64, num_hidden_layers=2,
                            num_attention_heads=4, intermediate_size=256, max_position_embeddings=512)
        shapes = [(1, 37), (3, 16), (2, 128)]

    batch, seq = Dim("batch", min=1, max=64), Dim("seq", min=2, max=512)

    def sample(shape):
        b, n = shape
        mask = torch.ones(b, n, dtype=torch.int64)
        # Every row but the first is padded to another length.
        for row in range(1, b):
            mask[row, max(1, n - row * (n // (b + 1)) - 1):] = 0
        return torch.randint(0, config.vocab_size, (b, n)), mask

    example = torch.randint(0, config.vocab_size, (4, 128)), torch.ones(4, 128, dtype=torch.int64)
    dims = {0: batch, 1: seq}
    return Workload(jitter_norms(Encoder(config)), example, {"input_ids": dims, "attention_mask": dims},
                    ["input_ids", "attention_mask"], ["last_hidden_state"], sample, shapes)
