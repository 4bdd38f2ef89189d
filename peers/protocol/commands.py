"""What a training loop asks of its member: one frozen dataclass per command, which crosses threads as data.

`Member.do` carries a command out and says how it was taken; the loop is told of that (`OuterLoop.told`).
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.held import Held
from peers.protocol.messages import Report
from peers.protocol.record import Record
from peers.protocol.stage_work import StageCommand
from transport.collectives.reducer import Reducer


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer a contribution of Euclidean ``norm`` on top of the fragment's version; taken only by a member
    that holds the newest one."""

    fragment: int
    tokens: int
    weight: int
    reducer: Reducer
    norm: float


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Take an offer back, to train on and offer more; refused once a round has it."""

    fragment: int


@dataclass(frozen=True, slots=True)
class Swap:
    """Gossip: average with this step's group; taken only by a member that holds a state."""

    fragment: int
    step: int
    tokens: int
    reducer: Reducer


@dataclass(frozen=True, slots=True)
class ConfirmApplied:
    """A record was applied; ``check`` is that of the state of the fragment that it moved."""

    record: Record
    check: bytes


@dataclass(frozen=True, slots=True)
class ConfirmLoaded:
    """A fetched state was loaded; ``check`` is that of what is held now."""

    fragment: int
    version: bytes
    check: bytes


@dataclass(frozen=True, slots=True)
class RefuseLoaded:
    """A fetched state was not loaded, and why; what was held before is held still."""

    fragment: int
    version: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class ConfirmCaptured:
    """This worker's initial state of a fragment was captured as the run's: its digest, and its check."""

    fragment: int
    state: bytes
    check: bytes


@dataclass(frozen=True, slots=True)
class ConfirmMoved:
    """Gossip: this worker's outer state moved; ``check`` is that of what it is now."""

    fragment: int
    check: bytes


@dataclass(frozen=True, slots=True)
class ConfirmNamed:
    """The state with that check has the digest ``state``; `NO_DIGEST` if it is not held any more."""

    fragment: int
    check: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class BeginSave:
    """The shared state at this head begins to be written to this worker's disk."""

    head: bytes


@dataclass(frozen=True, slots=True)
class ConfirmSaved:
    """The shared state that ``held`` names is on this worker's disk for good. ``keeps``: whatever this worker
    had of results of later rounds is there too."""

    held: Held
    keeps: bool = True
    fragments: frozenset[int] | None = None
    """Those that are on it; None for all."""


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """Tell the coordinator how training goes."""

    report: Report


@dataclass(frozen=True, slots=True)
class LeaveRun:
    """Say goodbye; contributions that no round has taken are given up."""

    reason: str


Command = (
    Offer
    | TakeBack
    | Swap
    | ConfirmApplied
    | ConfirmLoaded
    | RefuseLoaded
    | ConfirmCaptured
    | ConfirmMoved
    | ConfirmNamed
    | BeginSave
    | ConfirmSaved
    | ReportProgress
    | LeaveRun
    | StageCommand
)
