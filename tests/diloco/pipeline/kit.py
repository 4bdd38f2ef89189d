"""A small model of layers that use their input twice, and the plain loops that it is compared with.

Nothing here is from `diloco.pipeline` but the names of microbatches: a whole model, one graph, one optimizer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diloco.pipeline.boundary import Boundary
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.cuts import Part
from diloco.pipeline.cutting import cut
from diloco.pipeline.in_process import Line, LocalStage
from diloco.pipeline.part import RunningPart

VOCABULARY, POSITIONS, WIDTH = 11, 5, 8
SEQUENCES = 3
TOKENS = SEQUENCES * POSITIONS
Batch = tuple[Tensor, Tensor]


class Mixer(nn.Module):
    """A block whose input goes three ways: attention over positions, a gate, and past both."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed: Tensor = x + self.dropout(y) * torch.sigmoid(self.gate(x))
        return mixed


def layers(num_blocks: int = 4, dropout: float = 0.0) -> list[Callable[[], nn.Module]]:
    blocks = [partial(Mixer, dropout)] * num_blocks
    return [
        partial(nn.Embedding, VOCABULARY, WIDTH),
        *blocks,
        partial(nn.Linear, WIDTH, VOCABULARY),
    ]


def built(makers: Sequence[Callable[[], nn.Module]], seed: int = 0) -> list[nn.Module]:
    """The layers of one whole model."""
    torch.manual_seed(seed)
    return [make() for make in makers]


def loss_sum(output: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Cross-entropy over the targets that are not negative."""
    summed = F.cross_entropy(output.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    return summed, int((targets >= 0).sum())


def batches(count: int, seed: int = 0, *, ragged: bool = False) -> list[Batch]:
    """Microbatches; ``ragged`` ones have targets that are left out."""
    drawn = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        both = torch.randint(VOCABULARY, (SEQUENCES, POSITIONS + 1), generator=drawn)
        targets = both[:, 1:].clone()
        if ragged:
            targets[torch.rand(targets.shape, generator=drawn) < 0.4] = -1
        found.append((both[:, :-1].clone(), targets))
    return found


Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


def adamw(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9)


def line_of(
    model: Sequence[nn.Module],
    cuts: Sequence[int],
    quota: int,
    *,
    make_optimizer: Optimizer = adamw,
    window: int | None = None,
    recompute: bool = True,
    split_backward: bool = False,
    seed: int = 0,
    feeder: bytes = b"",
    clip_norms: Sequence[float | None] = (),
    make_codec: Callable[[Boundary], BoundaryCodec] | None = None,
) -> tuple[Line, list[LocalStage]]:
    """A line of stages that train copies of the model's layers."""
    stages = []
    edge = Boundary((SEQUENCES, POSITIONS, WIDTH))
    for number in range(len(cuts) + 1):
        part = Part(number, len(cuts) + 1, tuple(cuts))
        takes, gives = part.ends(edge)
        running = RunningPart(
            part,
            cut(copy.deepcopy(list(model)), part),
            takes=takes,
            gives=gives,
            loss=loss_sum if part.is_last else None,
            nominal_tokens=quota * TOKENS,
            seed=seed,
            recompute=recompute and not split_backward,
            split_backward=split_backward,
        )
        optimizer = make_optimizer(running.model.parameters())
        clip_norm = clip_norms[number] if clip_norms else None
        stages.append(LocalStage(running, optimizer, quota=quota, clip_norm=clip_norm))
    return Line(stages, window=window, feeder=feeder, make_codec=make_codec), stages


def parameters_of(stages: Sequence[LocalStage]) -> dict[str, Tensor]:
    """Of all stages, by the whole model's names."""
    found: dict[str, Tensor] = {}
    for stage in stages:
        state = stage.part.model.state_dict()
        assert not found.keys() & state.keys()
        found |= state
    return found


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# -- the whole model in one graph --------------------------------------------------------------------


def draw_seed(run_seed: int, feeder: bytes, number: int, stage: int) -> int:
    """From what the design says: one seed for each microbatch and stage, the same whoever computes it."""
    text = "\n".join([str(run_seed), feeder.hex(), "0", str(number), str(stage)])
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) % 2**63


def whole_forward(
    model: nn.Sequential, cuts: Sequence[int], x: Tensor, seeds: Sequence[int] | None = None
) -> Tensor:
    """One forward of all layers; with ``seeds`` the layers of each stage draw from their stage's."""
    if seeds is None:
        output: Tensor = model(x)
        return output
    for (first, end), seed in zip(pairwise([0, *cuts, len(model)]), seeds, strict=True):
        torch.manual_seed(seed)
        for layer in model[first:end]:
            x = layer(x)
    return x


class Plain:
    """One process that accumulates the gradients of microbatches and steps."""

    def __init__(
        self,
        model: Sequence[nn.Module],
        quota: int,
        make_optimizer: Optimizer = adamw,
        *,
        cuts: Sequence[int] = (),
        seed: int | None = None,
        feeder: bytes = b"",
        clip: Callable[[nn.Sequential], None] | None = None,
        first: int = 0,
    ) -> None:
        """``first`` is the number of the first microbatch."""
        self.model = nn.Sequential(*copy.deepcopy(list(model)))
        self.optimizer = make_optimizer(self.model.parameters())
        self.quota, self.cuts, self.seed, self.feeder, self.clip = quota, cuts, seed, feeder, clip
        self.losses: list[float] = []
        self._number = first

    def step(self, microbatches: Sequence[Batch]) -> None:
        nominal, tokens, total = self.quota * TOKENS, 0, 0.0
        self.optimizer.zero_grad()
        for x, targets in microbatches:
            seeds = None
            if self.seed is not None:
                every = range(len(self.cuts) + 1)
                seeds = [draw_seed(self.seed, self.feeder, self._number, stage) for stage in every]
            loss, counted = loss_sum(whole_forward(self.model, self.cuts, x, seeds), targets)
            (loss / nominal).backward()
            self._number += 1
            tokens += counted
            total += loss.item()
        if tokens != nominal:
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.grad *= nominal / tokens
        if self.clip is not None:
            self.clip(self.model)
        self.optimizer.step()
        self.losses.append(total / tokens)


def clip_each(bounds: Sequence[float], cuts: Sequence[int]) -> Callable[[nn.Sequential], None]:
    """Clip the gradients of each stage's layers by themselves."""

    def clip(model: nn.Sequential) -> None:
        for (first, end), bound in zip(pairwise([0, *cuts, len(model)]), bounds, strict=True):
            nn.utils.clip_grad_norm_(model[first:end].parameters(), bound)

    return clip
