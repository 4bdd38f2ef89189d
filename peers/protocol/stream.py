"""What replicas of neighbouring stages say to each other about microbatches, and what the coordinator tells
them of each other.

A membership is named by the epoch in which it began: no two have the same number, so a path is one number a
stage, and whatever is numbered at or below the newest epoch that one has heard, and is not in its roster, is
over. Every message between members names both memberships: ``me`` sends, ``you`` is meant; what does not fit
is dropped. Sizes of payloads follow from what members entered with and never from a frame. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peers.protocol import fields
from transport.frames import Between, Count, Key, Small, kind

MAX_HELD = 120
"""Microbatches that one `Holding` names."""
MicrobatchNumber = Small
Route = Annotated[tuple[fields.Epoch, ...], Between(1, fields.MAX_STAGES)]
"""By stage, the number of a membership."""
PieceIndex = Small
HowCode = Annotated[int, Between(1, 2)]
CauseCode = Annotated[int, Between(0, 7)]
HasCode = Annotated[int, Between(0, 3)]
Line = Annotated[int, Between(0, 1 << 16)]

# -- with the coordinator -------------------------------------------------------------------------


@kind(198)
@dataclass(frozen=True, slots=True)
class StandsSince:
    """The number of your membership; from a member, just before it enters: the number that it has had."""

    since: fields.Epoch


@kind(183)
@dataclass(frozen=True, slots=True)
class ReplicaIs:
    """A member of any stage is in, or what is known of it has changed; in what `RosterIs` ends, the epoch is
    0."""

    epoch: fields.Epoch
    key: Key
    since: fields.Epoch
    stage: fields.Stage
    line: Line
    addresses: fields.Addresses
    speed: fields.Speed
    """While it computes, in parts of the median of its stage, as far as that is believed; 0 if not known."""
    drains: bool
    """No new path is to go through it."""
    feeds: bool
    """At stage 0: it may feed more."""


@kind(184)
@dataclass(frozen=True, slots=True)
class ReplicaGone:
    """All memberships of that member that began before ``epoch`` are over."""

    epoch: fields.Epoch
    key: Key


@kind(197)
@dataclass(frozen=True, slots=True)
class RosterIs:
    """You were told of all replicas, each with epoch 0, since you stand (again): whoever else you know is
    gone, as of that epoch."""

    epoch: fields.Epoch


@kind(196)
@dataclass(frozen=True, slots=True)
class Draining:
    """No new path is to go through me: I leave or move."""

    since: fields.Epoch


@kind(200)
@dataclass(frozen=True, slots=True)
class Feeding:
    """Whether I may feed more: a feeder whose batches are at their end says that it does not."""

    since: fields.Epoch
    feeds: bool


@kind(205)
@dataclass(frozen=True, slots=True)
class EndsAre:
    """How all that my process has fed has ended; nothing depends on it."""

    since: fields.Epoch
    settled: Count
    partial: Annotated[tuple[Count, ...], Between(0, fields.MAX_STAGES)]
    """By the stage below which they were given up."""
    num_lost: Count


# -- among members: who is there ------------------------------------------------------------------


@kind(185)
@dataclass(frozen=True, slots=True)
class Meet:
    """Said when a session begins, or a membership: after it frames may be sent. What was sent before, is
    outstanding and was not named by `Holding` is sent again."""

    me: fields.Epoch
    you: fields.Epoch
    slots: Count
    """As in `Slots`."""
    reply: bool
    """It answers another one, and is not answered."""


@kind(186)
@dataclass(frozen=True, slots=True)
class Holding:
    """Before `Meet`: microbatches, feeder and number one after the other, of which I have all that you sent
    up."""

    me: fields.Epoch
    you: fields.Epoch
    held: Annotated[tuple[Count, ...], Between(0, 2 * MAX_HELD)]


@kind(187)
@dataclass(frozen=True, slots=True)
class Slots:
    """So many microbatches in all may be sent up to me in this session: a total, not so many more."""

    me: fields.Epoch
    you: fields.Epoch
    total: Count


# -- among members: microbatches ------------------------------------------------------------------


@kind(188)
@dataclass(frozen=True, slots=True)
class Forward:
    """To the stage above on the path; a piece of the activation travels beside it."""

    me: fields.Epoch
    you: fields.Epoch
    number: MicrobatchNumber
    attempt: fields.Attempt
    route: Route
    """The first one is its feeder."""
    mark: MicrobatchNumber
    """Whatever of that feeder has a lower number is over."""
    piece: PieceIndex
    evaluates: bool = False
    """It goes forward only, and is counted by nobody: `Evaluation` answers it."""


@kind(189)
@dataclass(frozen=True, slots=True)
class Targets:
    """From the feeder to the last stage on the path; a piece travels beside it."""

    me: fields.Epoch
    you: fields.Epoch
    number: MicrobatchNumber
    mark: MicrobatchNumber
    piece: PieceIndex


@kind(190)
@dataclass(frozen=True, slots=True)
class Backward:
    """To the stage below on the path; a piece of the gradient travels beside it."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber
    tokens: fields.Tokens
    piece: PieceIndex


@kind(191)
@dataclass(frozen=True, slots=True)
class GradientHeard:
    """I have that gradient, or have no use for it: it need not be kept for me."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber


@kind(192)
@dataclass(frozen=True, slots=True)
class Ended:
    """Expect nothing of it: it was given up above you. Handed down the path to the feeder."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber
    how: HowCode
    stage: fields.Stage
    cause: CauseCode


@kind(203)
@dataclass(frozen=True, slots=True)
class Evaluation:
    """The loss of one that evaluates. Handed down the path to its feeder, each of whose replicas is done with
    it then."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber
    loss_sum: fields.Loss
    tokens: fields.Tokens


@kind(193)
@dataclass(frozen=True, slots=True)
class Ask:
    """Do you have that one? To be answered once ``epoch`` was heard, from when on nothing of a membership
    counts that was over then."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber
    epoch: fields.Epoch


@kind(194)
@dataclass(frozen=True, slots=True)
class Has:
    """0 no, and nothing of who is gone will be taken; 1 yes; 2 it is computed; 3 it is over."""

    me: fields.Epoch
    you: fields.Epoch
    feeder: fields.Epoch
    number: MicrobatchNumber
    has: HasCode
    epoch: fields.Epoch
    """Of the question that this answers: another one may have been asked since."""


@kind(195)
@dataclass(frozen=True, slots=True)
class AskTargets:
    """The last stage has an activation and no targets: the feeder sends them (again), or `Ended`."""

    me: fields.Epoch
    you: fields.Epoch
    number: MicrobatchNumber
