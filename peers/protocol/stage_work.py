"""What passes between a stage's training thread and its member about microbatches: commands down, events up.

The member says what came, what may be fed and what is over; the training thread says what it computed. In
which order it computes is `diloco.pipeline.stage_loop`'s affair, what becomes of a microbatch the member's
(`peers.routing`). Nothing is decided here. The memory of a payload is the receiver's from then on, and nobody
writes into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from transport.effects import Payload


class MicrobatchId(NamedTuple):
    """One microbatch of a run, for all its stages."""

    feeder: bytes
    """Key of the peer that fed it; in one process, any name of the line."""
    incarnation: int
    """Of the feeder: the number of its membership, which no other has; in one process, any."""
    number: int
    """Rises by one with each microbatch of that membership, from 0."""

    def __str__(self) -> str:
        return f"microbatch {self.number}"


class How(IntEnum):
    """How a microbatch ended, for its feeder."""

    SETTLED = 0
    """Every stage counted it."""
    PARTIAL = 1
    """It was given up below a stage; that one and those above may have counted it."""
    LOST = 2
    """It was given up where nothing of it had been sent up, or refused."""


class Cause(IntEnum):
    """Why a microbatch was given up."""

    NONE = 0
    CUT = 1
    """A replica above died, and another one above may have what it sent."""
    TWO_GONE = 2
    """More than one replica above on its path died."""
    NO_REPLICA = 3
    """There is nobody in a stage above."""
    FEEDER_GONE = 4
    OVER = 5
    """It was over where it was sent to."""
    REFUSED = 6
    """A tensor of it was not finite, or did not fit."""
    SLOW = 7
    """The replica above had it for so long that nobody waits any more."""


# -- commands: the training thread to its member --------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfirmOpened:
    """`StreamOpened` was taken: nothing of an earlier membership is held any more. Before that no other
    command about microbatches is taken, and no offer."""

    membership: int


@dataclass(frozen=True, slots=True)
class Feed:
    """Stage 0: the next microbatch is drawn, and its input is here. The member chooses its path and sends the
    targets to the last stage of it. Taken if ``number`` follows the last one and is below `MayFeed.until`;
    otherwise the same number is fed again later."""

    number: int
    targets: Payload
    evaluates: bool = False
    """It goes forward only, and nobody counts it: `EvaluationEnded` tells its loss."""


@dataclass(frozen=True, slots=True)
class FeedMore:
    """Stage 0: whether more is to be fed. The others hear that nothing is once all that was fed has ended."""

    more: bool


@dataclass(frozen=True, slots=True)
class ForwardBegan:
    """Its forward begins: its place is free for another one that has not begun."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class ForwardDone:
    """It went forward here; ``payload`` is the encoded activation for the stage above. Not at the last
    stage."""

    microbatch: MicrobatchId
    payload: Payload


@dataclass(frozen=True, slots=True)
class Counted:
    """Its weight gradient was added to what the present inner step accumulates; ``payload`` is the encoded
    gradient for the stage below, None at stage 0. If it is not taken, a new membership begins, and its
    beginning is told once more, as one that voids what was counted."""

    microbatch: MicrobatchId
    tokens: int
    payload: Payload | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """At the last stage: the loss of one that evaluates, which is over with that."""

    microbatch: MicrobatchId
    loss_sum: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """The inner step took exactly these, in the order in which they were counted."""

    microbatches: tuple[MicrobatchId, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class RefuseTensor:
    """The input or the gradient that came is not usable: it is dropped here, and the microbatch given up."""

    microbatch: MicrobatchId
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """This worker is about to leave: feed nothing more, and no new path goes through it. What is in flight
    is finished; `Drained` tells when."""


@dataclass(frozen=True, slots=True)
class TellEnds:
    """Stage 0: how all that this process fed has ended, for the run's status."""

    settled: int
    partial: tuple[int, ...]
    """By the stage below which they were given up."""
    lost: int


StageCommand = (
    ConfirmOpened
    | Feed
    | FeedMore
    | ForwardBegan
    | ForwardDone
    | Counted
    | Evaluated
    | Stepped
    | RefuseTensor
    | Drain
    | TellEnds
)


# -- events: the member to its training thread ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """This worker has a membership with that number: microbatches travel. Whatever was waiting or in flight
    of an earlier one is over and to be dropped. ``void``: so is all that was counted and not offered, and the
    live parameters go back to the outer ones, for others may count the same again. Answered by
    `ConfirmOpened`, before which nothing else is told."""

    membership: int
    void: bool


@dataclass(frozen=True, slots=True)
class MayFeed:
    """Stage 0: numbers below ``until`` may be fed. It never falls within a membership."""

    until: int


@dataclass(frozen=True, slots=True)
class QuotaIs:
    """Inner steps of this worker are of so many microbatches, from the next one on: its share, by speed."""

    quota: int


@dataclass(frozen=True, slots=True)
class MoreCome:
    """Above stage 0: whether anybody feeds what may come here. If nobody does, a step ends with what it
    has."""

    more: bool


@dataclass(frozen=True, slots=True)
class InputArrived:
    """A microbatch may go forward: what the stage below sent, encoded, and at the last stage its targets.
    Not told at stage 0, which has its inputs. Each once."""

    microbatch: MicrobatchId
    payload: Payload
    targets: Payload | None
    evaluates: bool = False
    """It goes forward only."""


@dataclass(frozen=True, slots=True)
class GradientArrived:
    """A microbatch may go backward; ``tokens`` are those of its loss."""

    microbatch: MicrobatchId
    payload: Payload
    tokens: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No gradient of that one will come: drop it, and its place in the quota is free. If it is counted
    already, or being counted just now, it stays so, and `Counted` is said as ever."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class MicrobatchEnded:
    """Stage 0: how one that was fed here ended. Each once."""

    microbatch: MicrobatchId
    how: How
    stage: int
    """Of a partial one: below which it was given up; else 0."""
    cause: Cause


@dataclass(frozen=True, slots=True)
class EvaluationEnded:
    """Stage 0: the loss of one that was fed to evaluate; of no tokens if it was given up. Each once."""

    microbatch: MicrobatchId
    loss_sum: float
    tokens: int


@dataclass(frozen=True, slots=True)
class MayStepEarly:
    """Others of this stage wait for what this one offers: once drained and idle for the grace, it steps and
    offers what it has, also nothing; without the grace if ``at_once``, for nothing comes here."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class MoveWanted:
    """Another stage has too little: finish what is in flight, offer it, leave the run, and ask for a stage
    again, which will be that one."""

    stage: int


@dataclass(frozen=True, slots=True)
class Drained:
    """After `Drain`: nothing is in flight through this worker any more."""


StageEvent = (
    StreamOpened
    | MayFeed
    | QuotaIs
    | MoreCome
    | InputArrived
    | GradientArrived
    | GivenUp
    | MicrobatchEnded
    | EvaluationEnded
    | MayStepEarly
    | MoveWanted
    | Drained
)
