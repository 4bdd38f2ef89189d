"""Which stage of a model cut into several a joiner is to train: its question, and the coordinator's answer.

A joiner asks before it builds anything. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peers.protocol import fields
from transport.frames import kind

ANY_STAGE = -1
"""The wish of a joiner that takes whichever stage it is given."""


class Wiring(StrEnum):
    """How the ways of microbatches through the stages are chosen."""

    LINES = "lines"
    """One replica of each stage forms a line, which is used again and again."""
    THROUGHPUT = "throughput"
    """In proportion to the speeds of all replicas of a stage."""
    RANDOM = "random"
    """A permutation of all replicas for each."""


def stages_exchange(one: int, other: int, num_stages: int) -> bool:
    """Whether members of two stages say anything to each other about microbatches: neighbours, those next to
    them, which are asked, and feeders and the last stage."""
    return 1 <= abs(one - other) <= 2 or {one, other} == {0, num_stages - 1}


@kind(180)
@dataclass(frozen=True, slots=True)
class AskStage:
    """Which stage am I to train?"""

    memory_bytes: fields.Bytes = 0
    """What this machine has for a stage; 0 if it does not say."""
    wish: fields.StageWish = ANY_STAGE
    moves: bool = False
    """Told to, this worker leaves its stage later and trains another one."""


@kind(181)
@dataclass(frozen=True, slots=True)
class StageIs:
    """That one. It is held for the asker for some failure timeouts, and entering with another is refused."""

    stage: fields.Stage


@kind(201)
@dataclass(frozen=True, slots=True)
class MoveTo:
    """That stage has too little: finish what is in flight, offer it, leave, and ask for your stage again."""

    stage: fields.Stage
