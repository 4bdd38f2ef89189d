"""What the ranks of a site say to each other at one step, and what follows from it. Pure.

Each rank says where it is and what it did (`Said`); the first one answers with orders, of which the last is
to go on (`Order`). Owns those words, their form as bytes, and what all that was said comes to. Owns no
decision about rounds: that is `loop.session`'s, on the first rank alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


class Word:
    """Something that is said, as bytes and back."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()  # type: ignore[call-overload]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Of what `to_bytes` gave."""
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class Said(Word):
    """What one rank says when it comes to a place where all of them meet."""

    place: str
    """Where its loop is, as a user calls it: "optimizer.step"."""
    tokens: int = 0
    loss: float | None = None
    """Of that step, if the loop told one."""
    stop: bool = False
    """It was asked to train no further."""
    out: bool = False
    """It has no batch left."""
    failed: str = ""
    """Why it cannot go on."""
    about: str = ""
    """At the beginning: what it has, see `site_terms`."""


@dataclass(frozen=True, slots=True)
class Facts(Word):
    """How the site's worker stands, for the ranks that do not speak."""

    step: int = 0
    swarm_step: int = 0
    tokens: int = 0
    loss: float = 0.0
    waited_s: float = 0.0
    round: int = 0
    lag: int = 0
    active: bool = False
    finished: bool = False
    tokens_per_second: float = 0.0
    pseudo_grad_norm: float = 0.0
    fates: dict[str, int] = field(default_factory=dict)
    stop: bool = False
    """All train no further."""
    out: bool = False
    """A rank has no batch left: none of them trains on one."""


@dataclass(frozen=True, slots=True)
class Order(Word):
    """What the first rank has all others do. ``do`` is "gather", "land" or "show" a fragment, "frozen",
    "mend", "taken" so many steps, "wait", "terms", "boxes", "go", or "end"."""

    do: str
    number: int = 0
    """Of the fragment, or of steps."""
    text: str = ""
    mendable: bool = False
    """With "end": a person can mend it."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> Facts:
        """With "go"."""
        return Facts(**self.facts)


def go(facts: Facts) -> Order:
    """The last order of a meeting."""
    return Order("go", facts=asdict(facts))


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks said, together."""

    tokens: int
    loss: float | None
    """The mean over the ranks that told one, weighted by tokens."""
    stop: bool
    out: int | None
    """The first rank that has no batch left."""
    error: str
    """Why the site cannot go on, or nothing."""


def agreed(said: Sequence[Said]) -> Agreed:
    """By rank, what each said. Where a rank is somewhere else, or failed, there is an error."""
    told = [(each.loss, max(1, each.tokens)) for each in said if each.loss is not None]
    weights = sum(weight for _, weight in told)
    return Agreed(
        tokens=sum(each.tokens for each in said),
        loss=math.fsum(loss * weight for loss, weight in told) / weights if told else None,
        stop=any(each.stop for each in said),
        out=next((rank for rank, each in enumerate(said) if each.out), None),
        error=_error(said),
    )


def _error(said: Sequence[Said]) -> str:
    for rank, each in enumerate(said):
        if each.failed:
            return f"rank {rank}: {each.failed}" if len(said) > 1 else each.failed
    for rank, each in enumerate(said):
        if each.place != said[0].place:
            return (
                f"rank {rank} is at {each.place} and rank 0 at {said[0].place}: all ranks of a site take the"
                " same steps and make the same calls"
            )
    return ""
