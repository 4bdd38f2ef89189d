"""The built-in model as a list of layers: the decoder of `gpt` with a head of its own, fit to be cut.

Owns the layers, which take and return one tensor each, and their initialisation: each layer draws from a
generator of its own, so that a stage that builds only some has the values that the whole model would have.
Knows neither stages nor training.

Shape letters as in `gpt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diloco.models.gpt import VOCABULARY, Block, GPTSizes, draw_bytes, initialise, rotation
from diloco.models.waist import WaistBlock, WaistEmbedding, WaistHead

M = TypeVar("M", bound=nn.Module)


class BlockLayer(Block):
    """A block that knows the rotary positions by itself."""

    cos: Tensor
    sin: Tensor

    def __init__(self, sizes: GPTSizes) -> None:
        super().__init__(sizes.width, sizes.heads)
        cos, sin = rotation(sizes.context, sizes.width // sizes.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x_BTC: Tensor) -> Tensor:  # type: ignore[override]
        length = x_BTC.shape[1]
        return super().forward(x_BTC, self.cos[:length], self.sin[:length])


class Head(nn.Module):
    """The last norm, and logits [B, T, V] by a matrix that is not the embedding's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(self.norm(x_BTC))
        return logits_BTV


def gpt_layers(sizes: GPTSizes, seed: int = 0) -> list[Callable[[], nn.Module]]:
    """What builds each layer: the embedding, ``sizes.layers`` blocks, the head; those of `waist` if there is
    one. Raises ValueError for a waist that is as wide as the model."""
    if sizes.waist:
        return _waist_layers(sizes, seed)
    makers: list[Callable[[], nn.Module]] = [
        partial(nn.Embedding, VOCABULARY, sizes.width),
        *[partial(BlockLayer, sizes)] * sizes.layers,
        partial(Head, sizes.width),
    ]
    return [partial(_made, make, sizes, seed, index) for index, make in enumerate(makers)]


def _waist_layers(sizes: GPTSizes, seed: int) -> list[Callable[[], nn.Module]]:
    if not 0 < sizes.waist < sizes.width:
        raise ValueError(f"a waist of {sizes.waist} channels is not within a width of {sizes.width}")
    makers: list[Callable[[], nn.Module]] = [
        partial(WaistEmbedding, sizes.waist),
        *[partial(WaistBlock, sizes, seed)] * sizes.layers,
        partial(WaistHead, sizes, seed),
    ]
    return [partial(_made, make, sizes, seed, index) for index, make in enumerate(makers)]


def cross_entropy_sum(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, int]:
    """The summed cross-entropy in nats, in fp32, and the number of bytes. Raises `IndexError` for targets
    that are no class, on every device: where a GPU's kernel finds them it ends the process."""
    flat = logits_BTV.float().flatten(0, 1)
    least, most = map(int, targets_BT.aminmax())
    if least < 0 or most >= flat.shape[-1]:
        raise IndexError(f"targets from {least} to {most} of {flat.shape[-1]} classes")
    return F.cross_entropy(flat, targets_BT.flatten(), reduction="sum"), targets_BT.numel()


class LayeredGPT(nn.Sequential):
    """All layers in one process, under the names that stages have together."""

    def __init__(self, sizes: GPTSizes, seed: int = 0) -> None:
        super().__init__(*[make() for make in gpt_layers(sizes, seed)])
        self.context = sizes.context

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte, in fp32."""
        logits_BTV = self(tokens_BT).float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    def generate(self, prompt: bytes, n: int, temperature: float = 1.0, seed: int = 0) -> bytes:
        """As `GPT.generate`."""
        return draw_bytes(self, self.context, prompt, n, temperature, seed)


def _made(make: Callable[[], M], sizes: GPTSizes, seed: int, index: int) -> M:
    layer = make()
    drawn = int.from_bytes(hashlib.sha256(f"{seed}\nlayer {index}".encode()).digest()[:8], "big") >> 1
    if all(not each.is_meta for each in layer.parameters()):  # else it is built to be counted only
        initialise(layer, torch.Generator().manual_seed(drawn), sizes.layers)
    return layer
