"""What a node is given: where the coordinator is, and what it needs to be that one, or to train.

Values only; what comes of them is `peers.node`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers.admission.door import Door
from peers.coordinator.judgement import Judge
from peers.coordinator.rules import Rules
from peers.protocol.application import Application
from peers.protocol.held import Held
from peers.protocol.profile import Profile
from peers.protocol.record import Record
from peers.protocol.shares import Stored
from peers.routing.state import StreamTerms


@dataclass(frozen=True, slots=True)
class Contact:
    """Where the coordinator is."""

    key: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a coordinating node needs; the journal has the entries of an earlier life, in order."""

    rules: Rules
    journal: list[Any]
    door: Door
    adopting: bool = False
    """The owner is about to choose a record of the members to go on from."""
    resume: int | None = None
    """The owner wants the run to go on from the record of this index, as soon as a member holds it."""
    judge: Judge | None = None
    """Decodes what members show; without one their word is all there is."""
    recompute_bytes: int = 0
    """Most bytes of a state of which this process computes a step once more (`events.RecomputeWanted`)."""
    secret: bytes = b""
    """Drawn at random for this process, so that nobody can tell what the coordinator draws."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a training node needs."""

    profile: Profile
    app: Application
    patience_s: float = 60.0
    """How long a member with a living link may move nothing in an exchange."""
    held: Held | None = None
    """What ``app`` loaded from a checkpoint; without it the state comes from others, or it is a first one."""
    keeps: bool = False
    """Results of rounds go to this machine's disk: the driver was given a function for that."""
    leads_on: bool = True
    """If so: whether they are there, of all rounds after what is ``held``, as far as they were had."""
    stored: Stored | None = None
    """Shares of states on this machine's disk, of which others may have the rest."""
    later: tuple[Record, ...] = ()
    """Records that lead on from what is ``held``, as this machine's disk has them."""
    stream: StreamTerms | None = None
    """What travels between this member's stage and others; None where nothing does."""
