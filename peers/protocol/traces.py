"""What a node tells whoever watches it: one frozen dataclass per fact, the same in simulation and for real.

Facts only, made where they happen; text for people is made at the edge. `Trace.name` is the fact's short name
("committed" for `CommittedTrace`): it is what counters and the simulator's hash go by.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from peers.protocol.messages import Report
from transport.effects import Trace


def fields_of(trace: Trace) -> dict[str, Any]:
    """A trace's fields by name, as they are: for texts that name them."""
    return {each.name: getattr(trace, each.name) for each in fields(trace)}  # type: ignore[arg-type]


# -- members come and go ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CertifiedTrace(Trace):
    """An identity was admitted for good."""

    peer: bytes
    peer_name: str


@dataclass(frozen=True, slots=True)
class RefusedTrace(Trace):
    """A member that wanted to enter was refused; ``code`` for programs, ``detail`` for people."""

    peer: bytes
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class StageGivenTrace(Trace):
    """A joiner was told which stage it is to train."""

    peer: bytes
    peer_name: str
    stage: int


@dataclass(frozen=True, slots=True)
class StageMoveTrace(Trace):
    """A member was told to move to another stage."""

    peer: bytes
    peer_name: str
    stage: int
    to: int


@dataclass(frozen=True, slots=True)
class EnteredTrace(Trace):
    """A member entered."""

    peer: bytes
    peer_name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RemovedTrace(Trace):
    """A membership is over."""

    peer: bytes
    peer_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportTrace(Trace):
    """A member told how its training goes."""

    peer: bytes
    peer_name: str
    report: Report


# -- the shared state ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeedTrace(Trace):
    """A member was named to give the run its first state."""

    peer: bytes
    peer_name: str


@dataclass(frozen=True, slots=True)
class ActiveTrace(Trace):
    """A member holds the shared state of commit ``index``."""

    peer: bytes
    peer_name: str
    index: int


@dataclass(frozen=True, slots=True)
class UnusableTrace(Trace):
    """A member cannot use a result or a state that the others hold, or some of those who hand it out."""

    peer: bytes
    peer_name: str
    fragment: int
    peers: tuple[bytes, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NeedsStateTrace(Trace):
    """A member cannot follow from where it is."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class BehindTrace(Trace):
    """Members hold records that the journal lacks: it is lost, or an old copy. Nothing is changed."""

    index: int
    """Where the journal ends."""
    newest: int
    names: str


@dataclass(frozen=True, slots=True)
class AdoptedTrace(Trace):
    """The owner had the members' record adopted."""

    index: int
    journal_index: int


@dataclass(frozen=True, slots=True)
class RecomputedTrace(Trace):
    """The host computed a disputed state once more, or could not."""

    fragment: int
    index: int
    found: bool
    reason: str
    """Why it could not."""


@dataclass(frozen=True, slots=True)
class DisputedTrace(Trace):
    """Members hold different states after the same commit, and which is right is not known: no round of that
    fragment opens, and nothing is overwritten."""

    fragment: int
    index: int
    camps: str
    """Names of those who hold one state, then of those who hold the next."""
    why: str


@dataclass(frozen=True, slots=True)
class ParityTrace(Trace):
    """A member held other bits than the others at the same commit, and fetches the state again (S1)."""

    peer: bytes
    fragment: int
    index: int


@dataclass(frozen=True, slots=True)
class LeftBehindTrace(Trace):
    """Gossip: a member came back with a replica that is far behind the others', and fetches one of theirs."""

    peer: bytes
    peer_name: str
    steps: int
    """Outer steps of its replica when it came."""


@dataclass(frozen=True, slots=True)
class SeedLostTrace(Trace):
    """The first state is lost before anything was built on it."""

    head: bytes


@dataclass(frozen=True, slots=True)
class StateLostTrace(Trace):
    """Nobody who is here holds a state of the run."""

    head: bytes
    index: int


@dataclass(frozen=True, slots=True)
class SavedTrace(Trace):
    """A member's disk has the shared state of commit ``index``."""

    peer: bytes
    peer_name: str
    index: int


@dataclass(frozen=True, slots=True)
class CoveredTrace(Trace):
    """All fragments of the shared state of commit ``index`` are on members' disks, of which each has a
    share."""

    index: int


@dataclass(frozen=True, slots=True)
class SavedOtherTrace(Trace):
    """What a member says it saved, or what it loaded, is not the shared state of commit ``index``."""

    peer: bytes
    peer_name: str
    index: int


@dataclass(frozen=True, slots=True)
class RestoredTrace(Trace):
    """The state of head ``lost`` is gone; the run goes on from the one that ``peer`` holds."""

    lost: bytes
    index: int
    peer: bytes
    to_index: int
    reason: str


# -- rounds -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedTrace(Trace):
    """A round opened."""

    serial: int
    fragment: int
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RepairedTrace(Trace):
    """A round goes on without the members in ``lost``."""

    serial: int
    attempt: int
    lost: tuple[bytes, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SetAsideTrace(Trace):
    """A live member was left out of a round."""

    peer: bytes
    serial: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartedTrace(Trace):
    """Two members do not reach each other; both go on, and own no chunks for a while."""

    serial: int
    peers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DissentTrace(Trace):
    """Members hold different results; ``peers`` are those who differ from most, if there is a most."""

    serial: int
    peers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AbortedTrace(Trace):
    """A round was given up."""

    serial: int
    fragment: int
    reason: str


@dataclass(frozen=True, slots=True)
class CommittedTrace(Trace):
    """A round was committed, ``seconds`` after it opened."""

    index: int
    serial: int
    fragment: int
    members: tuple[bytes, ...]
    weights: tuple[float, ...]
    attempt: int
    seconds: float
    num_rounds: int
    """So far; fewer than the index where the run went back, which is a commit too and moves nothing."""
    course: int = 0
    """The stage whose round it was, of a model that is cut."""


@dataclass(frozen=True, slots=True)
class OutlierTrace(Trace):
    """A contribution was rejected for its norm (S12)."""

    peer: bytes
    peer_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoisonedTrace(Trace):
    """``peer`` reports that the contributions of ``peers`` must not be added up."""

    peer: bytes
    peers: tuple[bytes, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ProvedWrongTrace(Trace):
    """The coordinator judged what it was shown: that member is out for good."""

    peer: bytes
    peer_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class GridlockTrace(Trace):
    """Members waited for each other in a circle: ``peers`` are asked to offer ``fragment``."""

    fragment: int
    peers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SwappedTrace(Trace):
    """Gossip: every member that holds a state has taken outer step ``index``."""

    index: int
    members: tuple[bytes, ...]


# -- links --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessagesDroppedTrace(Trace):
    """A peer took nothing for so long that its link begins anew."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class BadFrameTrace(Trace):
    """A peer sent what is no message, and was closed."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class PeerBarredTrace(Trace):
    """A peer was closed for what is no message again and again, and is not let in for a while."""

    peer: bytes
    barred_s: float
    reason: str
    """What it sent last."""
