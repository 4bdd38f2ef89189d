"""Which layers are whose: a run of a model's layers for each stage.

Owns where a model is cut, from numbers alone: builds and holds no layer, and needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from diloco.errors import PipelineError
from diloco.outer.fragments import partition
from transport.limits import LIMITS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """The stage that a peer has: number ``stage``, from 0 (the one that is fed) to ``stages`` - 1 (the one
    that has the loss). ``cuts`` are the first layers of stages 1, 2, ...; without them the stages' numbers of
    parameters are as near to equal as whole layers allow. Raises `PipelineError` for numbers that make no
    stage."""

    stage: int
    stages: int
    cuts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        stage, stages, cuts = self.stage, self.stages, self.cuts
        if not 1 <= stages <= LIMITS.stages:
            raise PipelineError(f"{stages} stages are not possible: choose from 1 to {LIMITS.stages}")
        if not 0 <= stage < stages:
            raise PipelineError(f"there is no stage {stage}: {stages} stages are numbered 0 to {stages - 1}")
        if not cuts:
            return
        if len(cuts) != stages - 1:
            raise PipelineError(
                f"cuts {list(cuts)} make {len(cuts) + 1} stages and not {stages}:"
                " name the first layer of each stage but the first"
            )
        if any(after <= before for before, after in pairwise((0, *cuts))):
            raise PipelineError(f"cuts {list(cuts)} must rise from 1 on: each stage has a layer at least")

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.stages - 1

    def ends(self, boundary: T) -> tuple[T | None, T | None]:
        """What lies below and above the stage in a model whose boundaries are all alike: None at the outer
        ends."""
        return None if self.is_first else boundary, None if self.is_last else boundary

    def layers(self, sizes: Sequence[int]) -> range:
        """The layers of this stage, of a model whose layers have so many parameters each. Raises
        `PipelineError` as `all_layers` does."""
        return self.all_layers(sizes)[self.stage]

    def all_layers(self, sizes: Sequence[int]) -> list[range]:
        """The layers of every stage. Raises `PipelineError` if one would have none."""
        count = len(sizes)
        if self.stages > count:
            raise PipelineError(
                f"{self.stages} stages of {count} layers are not possible: choose 1 to {count} stages"
                if count
                else "a model without layers cannot be cut"
            )
        if self.cuts and self.cuts[-1] >= count:
            raise PipelineError(
                f"a cut at layer {self.cuts[-1]} leaves the last stage no layer: the model has {count},"
                f" numbered 0 to {count - 1}"
            )
        if self.cuts:
            return [range(a, b) for a, b in pairwise((0, *self.cuts, count))]
        groups = partition([(str(i), size) for i, size in enumerate(sizes)], self.stages)
        return [range(group[0], group[-1] + 1) for group in groups]
