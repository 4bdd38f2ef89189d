"""A course: everything that belongs to one chain of commits, and so to one shared state.

A run has a course for each stage of its model, with that stage's number; where the model is not cut there is
number 0 alone. Facts only: the rounds, the state and the end of a course are decided elsewhere. What is kept
by fragment stands here, so that inside the coordinator it is keyed by course and fragment.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from peers.coordinator.chain import Chain
from peers.coordinator.marks import Marks
from peers.coordinator.mean_case import MeanCase
from peers.coordinator.open_round import OpenRound
from peers.coordinator.saves import Saves
from peers.coordinator.shared_save import SharedSaves
from peers.coordinator.suspicion import Suspicion
from peers.protocol.manifest import Manifest
from peers.protocol.record import Record
from transport.effects import NEVER

_MAX_SUMMARIES = 32


@dataclass(frozen=True, slots=True)
class CommitSummary:
    """The facts of a commit that a status shows."""

    fragment: int
    num_members: int
    seconds: float
    """Seconds from the round's opening to its commit."""


def _no_summaries() -> deque[CommitSummary]:
    return deque(maxlen=_MAX_SUMMARIES)


class RecomputationState(Enum):
    """How far a recomputation is."""

    WAITS = "waits"
    """Its turn has not come: another one is under way."""
    GATHERS = "gathers"
    """What it is computed from is fetched."""
    COMPUTES = "computes"
    FOUND = "found"
    UNSERVED = "unserved"
    """Nobody who is here hands out what it is computed from."""
    FAILED = "failed"
    """This host cannot compute it."""


@dataclass(slots=True)
class Recomputation:
    """A disputed version of a fragment that the host computes once more."""

    version: bytes
    record: Record
    """Of that version."""
    former_version: bytes
    """The version before it."""
    former_check: bytes
    """The check of the state of that, as it was agreed on; empty if it is not known."""
    former: bytes
    """The digest of the same, as it was agreed on before or named since; empty if it is yet to be named."""
    false_names: set[bytes] = field(default_factory=set)
    """Digests of states that were named for it and have another check."""
    at: RecomputationState = RecomputationState.WAITS
    check: bytes = b""
    state: bytes = b""
    """The check and the digest that were found; empty if none were."""
    asked: Counter[bytes] = field(default_factory=Counter)
    """By member: how often it was asked for what it is computed from, once each time that it came."""
    donors: set[bytes] = field(default_factory=set)
    """Members that were asked and are here since."""
    num_tries: int = 0
    """How often nobody handed that out."""
    again_at: float = 0.0
    """When all are asked once more."""
    told: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    """By member: the check and the digest that it told of this version, also if it is gone or took it back;
    nothing that is right if it told two."""

    def note(self, member: bytes, check: bytes, name: bytes) -> None:
        """A member tells a state of this version; its digest may not be known yet."""
        known_check, known_name = self.told.get(member, (check, name))
        is_same = known_check == check and (known_name == name or b"" in (known_name, name))
        self.told[member] = (check, known_name or name) if is_same else (b"", b"")

    def is_right(self, state: tuple[bytes, bytes]) -> bool:
        """Whether a check, and a digest if one was told, are what was computed."""
        return bool(self.state) and state[0] == self.check and state[1] in (b"", self.state)

    def ask(self, members: Iterable[bytes], max_times: int) -> list[bytes]:
        """Those of the members who came since all were asked, and were not asked so often before."""
        found = [each for each in members if each not in self.donors and self.asked[each] < max_times]
        self.donors.update(found)
        self.asked.update(found)
        return found

    @property
    def pending(self) -> bool:
        """Whether it is to be found yet."""
        state = RecomputationState
        return self.at in (state.WAITS, state.GATHERS, state.COMPUTES)


@dataclass(frozen=True, slots=True)
class Dispute:
    """A version of which members hold different states, and which is right is not known."""

    version: bytes
    camps: str
    """Names of those who hold one state, then of those who hold the next."""
    why: str
    """Why it is not known."""


@dataclass(slots=True, eq=False)
class Course:
    """One chain of commits, and what is under way to lengthen it."""

    number: int
    chain: Chain
    manifest: Manifest | None = None
    """What its members train; the first of them sets it."""
    layout_rows: bytes = b""
    """By which others learn where their layout differs (`peers.protocol.layout_rows`). It is not journaled:
    the next member that fits sets it anew."""
    rounds: dict[int, OpenRound] = field(default_factory=dict)
    """Open rounds by fragment."""
    ready_since: dict[int, float] = field(default_factory=dict)
    """By fragment: when the first of the present contributions was offered."""
    grace_ends: dict[int, float] = field(default_factory=dict)
    """By fragment: when a round that could open waits no longer for more contributions."""
    asked: dict[int, float] = field(default_factory=dict)
    """By fragment: the value of ``ready_since`` for which the other members were asked to offer it too."""
    asked_for_buffers: set[bytes] = field(default_factory=set)
    """Active members that were asked for their buffers (`last_round`)."""
    disputes: dict[int, Dispute] = field(default_factory=dict)
    """By fragment, those that somebody has to end."""
    recomputations: dict[int, Recomputation] = field(default_factory=dict)
    """By fragment: the newest version of which different states were told."""
    name_every: set[bytes] = field(default_factory=set)
    """Members that were told to name every version."""
    unnamed_since: float | None = None
    """Since when somebody waits for the state, and not all of it is named; None if nobody does."""
    unbound_since: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    """By fragment: the version of which names are waited for, and since when (`naming`)."""
    opens_at: float = 0.0
    """No round opens before: there is nobody left of whom nobody speaks ill."""
    suspicion: Suspicion = field(default_factory=Suspicion)
    apart: Marks = field(default_factory=lambda: Marks(first=16))
    """Pairs that did not reach each other in a round."""
    spots: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """By serial of a round of which a mean is checked: who does so, and who owns it."""
    unanswered: dict[bytes, int] = field(default_factory=dict)
    """By owner: to how many of its last checks in a row it sent no part of its own."""
    mean_case: MeanCase | None = None
    """The mean of which an owner is to show of what it is made."""
    told_behind: int = 0
    """The newest record that members hold and the journal lacks, as the owner was told."""
    told_behind_at: float = NEVER
    seed: bytes | None = None
    """The member that was named to give the first state."""
    seed_until: float = 0.0
    """Then another one is named, if it has not said its state."""
    num_seeds: int = 0
    """How often one was named."""
    holderless_since: float | None = None
    """Since when no member holds the head, or has come nearer to it."""
    best_here: int = -1
    """Index of the newest state that a member held then."""
    told_lost: bytes = b""
    """The head that nobody holds, and nobody an earlier one, as it was told."""
    saves: Saves = field(default_factory=Saves)
    committed: bool = False
    """This life has written a record: what members claim of others counts no more."""
    shared: SharedSaves = field(default_factory=SharedSaves)
    num_donations: int = 0
    recent: deque[CommitSummary] = field(default_factory=_no_summaries)
    """The last commits."""
    num_steps: int = 0
    """Gossip: outer steps that all members which hold a state have taken."""

    @property
    def has_moved(self) -> bool:
        """Whether anything builds on the first state."""
        return bool(self.chain.index or self.num_steps)

    def begin(self, head: bytes) -> None:
        """Name the first state, or another one in its place: what was saved of that is of no use."""
        self.chain.begin(head)
        self.saves = Saves()

    def round_of(self, serial: int) -> OpenRound | None:
        """The open round of that serial."""
        return next((each for each in self.rounds.values() if each.serial == serial), None)
