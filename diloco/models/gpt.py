"""The built-in model: a compact decoder over bytes, for demonstrations and experiments.

Owns the architecture (RMSNorm, rotary positions, SwiGLU, norms on queries and keys, tied embeddings, no
biases), its initialisation from a generator, its loss and sampling. Knows nothing of training.

Shape letters: B batch, T positions, C width, N heads, D channels of a head, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 256
ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class GPTSizes:
    """How large the model is: blocks, heads, width, and the longest sequence."""

    layers: int
    heads: int
    width: int
    context: int
    waist: int = 0
    """Channels of the residual stream that are learned, of a model of layers (`waist`); 0: all."""


class Attention(nn.Module):
    """Causal attention with rotary positions; queries and keys are normalised to bound logits."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q = nn.RMSNorm(width // heads)
        self.norm_k = nn.RMSNorm(width // heads)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        split = (*x_BTC.shape[:2], self.heads, -1)
        q, k, v = (each.view(split).transpose(1, 2) for each in self.qkv(x_BTC).chunk(3, dim=-1))
        q = _rotate(self.norm_q(q), cos_TD, sin_TD)
        k = _rotate(self.norm_k(k), cos_TD, sin_TD)
        y_BNTD = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y_BTC: Tensor = self.out(y_BNTD.transpose(1, 2).flatten(2))
        return y_BTC


class SwiGLU(nn.Module):
    """Gated feed-forward: down(silu(gate x) * up x), 8/3 widths inside, rounded up to a multiple of 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = 32 * math.ceil(width * 8 / 3 / 32)
        self.gate_up = nn.Linear(width, 2 * inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BTC).chunk(2, dim=-1)
        y_BTC: Tensor = self.down(F.silu(gate) * up)
        return y_BTC


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.RMSNorm(width)
        self.feed = SwiGLU(width)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attention(self.norm_attention(x_BTC), cos_TD, sin_TD)
        y_BTC: Tensor = x_BTC + self.feed(self.norm_feed(x_BTC))
        return y_BTC


class GPT(nn.Module):
    """Decoder over bytes. ``width`` is a multiple of 2 * ``heads``; ``context`` is the longest sequence."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layers: int, heads: int, width: int, context: int, seed: int = 0) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} is not a multiple of 2 * {heads} heads")
        self.context = context
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        cos, sin = rotation(context, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        initialise(self, torch.Generator().manual_seed(seed), layers)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V] for int64 bytes [B, T]."""
        length = tokens_BT.shape[1]
        x_BTC = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC, self.cos[:length], self.sin[:length])
        logits_BTV: Tensor = self.head(self.norm(x_BTC))
        return logits_BTV

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte, in fp32."""
        logits_BTV = self(tokens_BT).float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    def generate(self, prompt: bytes, n: int, temperature: float = 1.0, seed: int = 0) -> bytes:
        """``n`` bytes that follow ``prompt``; temperature 0 takes the likeliest. The same seed and weights
        give the same bytes. Raises ValueError for an empty prompt."""
        return draw_bytes(self, self.context, prompt, n, temperature, seed)


def initialise(model: nn.Module, generator: torch.Generator, layers: int) -> None:
    """Draw all matrices of a model of so many blocks, or of a part of it."""
    # The two matrices of a block that write to the residual stream start smaller, as there are
    # 2 * layers of them (GPT-2).
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            residual = name.endswith(("out.weight", "down.weight"))
            scale = 1 / math.sqrt(2 * layers) if residual else 1.0
            nn.init.normal_(parameter, std=0.02 * scale, generator=generator)


@torch.no_grad()
def draw_bytes(model: nn.Module, context: int, prompt: bytes, n: int, temperature: float, seed: int) -> bytes:
    """What `GPT.generate` returns, of a ``model`` that makes logits [B, T, V] of bytes [B, T]."""
    if not prompt:
        raise ValueError("the prompt is empty: give at least one byte")
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    tokens = list(prompt)
    for _ in range(n):
        window = torch.tensor([tokens[-context:]], device=device)
        tokens.append(_draw(model(window)[0, -1].float().cpu(), temperature, generator))
    return bytes(tokens[len(prompt) :])


def _draw(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits_V.argmax())
    shares_V = torch.softmax(logits_V / temperature, dim=-1)
    return int(torch.multinomial(shares_V, 1, generator=generator))


def rotation(context: int, channels: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, D] of rotary positions (RoFormer, arXiv 2104.09864)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, channels, 2, dtype=torch.float32) / channels)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(x_BNTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    first, second = x_BNTD.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BNTD * cos_TD.to(x_BNTD.dtype) + turned * sin_TD.to(x_BNTD.dtype)
