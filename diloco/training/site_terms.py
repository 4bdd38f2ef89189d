"""What the ranks of a site have, as they say it before they begin, and whether it goes together. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from diloco.training.site_boxes import Box

_SHOWN = 120


@dataclass(frozen=True, slots=True)
class About:
    """What one rank has."""

    layout: str
    """One line per tensor: fragment, name, shape, dtype."""
    boxes: list[list[Box]]
    """By fragment, and then of frozen parameters, what is here of each tensor."""
    optimizers: int = 1
    tells_tokens: bool = False
    """The loop calls `Outer.step_done` with them."""
    frozen: str = ""
    """Digest of the frozen parameters that it has whole."""

    def to_text(self) -> str:
        """As JSON."""
        boxes = [[[each.start, each.shape] for each in several] for several in self.boxes]
        rest = [self.optimizers, self.tells_tokens, self.frozen]
        return json.dumps([self.layout, boxes, *rest], separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> About:
        """Of what `to_text` gave."""
        layout, boxes, *rest = json.loads(text)
        found = [[Box(tuple(start), tuple(shape)) for start, shape in several] for several in boxes]
        return cls(layout, found, *rest)


def difference(abouts: Sequence[About]) -> str:
    """By rank: why these do not train one model together, or nothing."""
    for rank, each in enumerate(abouts):
        ours, theirs = abouts[0].layout.splitlines(), each.layout.splitlines()
        for mine, other in zip_longest(ours, theirs, fillvalue="nothing"):
            if mine != other:
                return (
                    f"the ranks of this site have different models: {_short(mine)} on rank 0,"
                    f" {_short(other)} on rank {rank}"
                )
        if each.optimizers != abouts[0].optimizers:
            return (
                f"attach was given {abouts[0].optimizers} optimizers on rank 0, and {each.optimizers} on rank"
                f" {rank}"
            )
        if each.tells_tokens != abouts[0].tells_tokens:
            return f"tokens_per_step is None on rank {0 if abouts[0].tells_tokens else rank} alone"
    return ""


def _short(line: str) -> str:
    """Without its fragment."""
    return (line.partition(" ")[2] or line)[:_SHOWN]
