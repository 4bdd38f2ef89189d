"""The built-in model with a waist: little of the residual stream is learned, and only that leaves a stage.

Owns the layers whose writes stay in a fixed subspace of k dimensions (Protocol Models, arXiv 2506.01260), as
`diloco.models.layered` has those without. The subspace is that of the first k channels: any other fixed one
differs by a rotation, which the matrices that read absorb. Matrices that write have k rows, so that whatever
changes parameters (the optimizer, an average, a rounded exchange) cannot leave the subspace, and nothing has
to be projected back after a step; for plain gradients both are the same. The other channels of a token are a
fixed random vector that everybody has from the seed. Layers hand on the k learned channels and, in one column
more, the tokens as whole numbers.

Shape letters as in `gpt`; K is the waist, S is K + 1.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from diloco.models.gpt import VOCABULARY, Block, GPTSizes, rotation

FIXED_STD = 0.02
"""Standard deviation of the fixed channels: that of an embedding at its start."""


class WaistEmbedding(nn.Module):
    """Tokens [B, T] to learned channels and the tokens, [B, T, S]."""

    def __init__(self, waist: int) -> None:
        super().__init__()
        self.learned = nn.Embedding(VOCABULARY, waist)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return join(self.learned(tokens_BT), tokens_BT)


class WaistBlock(Block):
    """A block that reads all channels and writes to the first K."""

    cos: Tensor
    sin: Tensor
    fixed: Tensor

    def __init__(self, sizes: GPTSizes, seed: int) -> None:
        super().__init__(sizes.width, sizes.heads)
        self.attention.out = nn.Linear(sizes.width, sizes.waist, bias=False)
        self.feed.down = nn.Linear(self.feed.down.in_features, sizes.waist, bias=False)
        cos, sin = rotation(sizes.context, sizes.width // sizes.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("fixed", fixed_channels(seed, sizes.width - sizes.waist), persistent=False)

    def forward(self, x_BTS: Tensor) -> Tensor:  # type: ignore[override]
        x_BTK, tokens_BT = apart(x_BTS)
        length, fixed = x_BTS.shape[1], self.fixed[tokens_BT].to(x_BTK.dtype)
        cos_TD, sin_TD = self.cos[:length], self.sin[:length]
        whole_BTC = torch.cat((x_BTK, fixed), -1)
        x_BTK = x_BTK + self.attention(self.norm_attention(whole_BTC), cos_TD, sin_TD)
        whole_BTC = torch.cat((x_BTK, fixed), -1)
        return join(x_BTK + self.feed(self.norm_feed(whole_BTC)), tokens_BT)


class WaistHead(nn.Module):
    """The last norm of all channels, and logits [B, T, V]."""

    fixed: Tensor

    def __init__(self, sizes: GPTSizes, seed: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(sizes.width)
        self.head = nn.Linear(sizes.width, VOCABULARY, bias=False)
        self.register_buffer("fixed", fixed_channels(seed, sizes.width - sizes.waist), persistent=False)

    def forward(self, x_BTS: Tensor) -> Tensor:
        x_BTK, tokens_BT = apart(x_BTS)
        whole_BTC = torch.cat((x_BTK, self.fixed[tokens_BT].to(x_BTK.dtype)), -1)
        logits_BTV: Tensor = self.head(self.norm(whole_BTC))
        return logits_BTV


def join(x_BTK: Tensor, tokens_BT: Tensor) -> Tensor:
    """What layers hand on, [B, T, S]."""
    return torch.cat((x_BTK, tokens_BT[..., None].to(x_BTK.dtype)), -1)


def apart(x_BTS: Tensor) -> tuple[Tensor, Tensor]:
    """The learned channels and the tokens of it."""
    return x_BTS[..., :-1], x_BTS[..., -1].detach().long()


@cache
def fixed_channels(seed: int, channels: int) -> Tensor:
    """Those of every token, [V, ``channels``]: uniform, the same bits on every machine. Shared: never write
    to it."""
    raw = np.random.PCG64(np.random.SeedSequence([seed, VOCABULARY])).random_raw(VOCABULARY * channels)
    whole = (np.asarray(raw, dtype=np.uint64) >> np.uint64(40)).astype(
        np.int64
    ) - 2**23  # of [-1, 1) in 2^-23
    values = whole.astype(np.float64) * (2.0**-23 * 3**0.5 * FIXED_STD)
    return torch.from_numpy(values.astype(np.float32)).view(VOCABULARY, channels)
