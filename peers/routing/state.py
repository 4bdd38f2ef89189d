"""What a member knows of microbatches: those that are here, what became of others, and the sessions with the
replicas that it exchanges them with. Facts, and lookups among them; decisions are in `streaming` and beside
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from peers.protocol.placing import Wiring, stages_exchange
from peers.protocol.stage_work import MicrobatchId
from peers.routing.replicas import Replicas
from peers.routing.wiring import Wires
from transport.collectives.stream import Assembly, num_pieces
from transport.effects import Payload

MAX_KEPT = 4096
"""Microbatches of one peer of which something is kept that only it can end: more is no honest peer's."""

Name = tuple[int, int]
"""A microbatch as messages name it: its feeder's membership, and its number."""


Entry = tuple[int, int, int]
"""The same, and the attempt by which it comes."""


class StreamOutlet(Protocol):
    """What the stream asks of the node: the part of `MemberOutlet` that it needs."""

    def send(self, now: float, peer: bytes, message: Any) -> None:
        """Say one control message."""

    def send_stream(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        """Send one payload, which waits behind no other bulk; the caller looked at `stream_room` first."""

    def stream_room(self, peer: bytes) -> int:
        """Bytes that ``peer`` would take of those now; -1 without a link to it."""

    def deliver(self, event: object) -> None:
        """Hand an event to the training loop."""


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """What a member is told of its stage when it begins. Sizes are of encoded payloads, in bytes."""

    stage: int
    stages: int
    input_bytes: int
    """An activation that comes, and a gradient that goes down; 0 at stage 0."""
    output_bytes: int
    """An activation that goes up, and a gradient that comes; 0 at the last stage."""
    targets_bytes: int
    """Of one microbatch."""
    window: int
    """Most microbatches of one feeder that have not ended."""
    piece_bytes: int
    patience_s: float
    """After so long without a sign of a microbatch above, the replica there is asked."""
    wiring: Wiring = Wiring.LINES
    seed: int = 0
    """Of the run, for a wiring that goes by chance."""
    quota: int = 1
    """Microbatches of an inner step of a replica of mean speed."""

    @property
    def is_last(self) -> bool:
        """Whether the loss is computed here."""
        return self.stage == self.stages - 1


class Phase(Enum):
    """Where a microbatch is at this replica."""

    WAITING = "waiting"
    """Its input is whole, and its forward has not begun."""
    BEGUN = "begun"
    UP = "up"
    """What it was made here is kept for the stage above, until the gradient is back."""
    BACK = "back"
    """The gradient is with the training thread."""
    COUNTED = "counted"
    """The gradient for the stage below is kept, until it was heard there."""


@dataclass(slots=True, eq=False)
class Item:
    """One microbatch that is here."""

    name: Name
    id: MicrobatchId | None
    """As the training thread names it; None while the roster does not tell of the feeder."""
    path: list[int]
    below: int
    """The membership that sent it here; 0 at stage 0."""
    phase: Phase
    payload: Payload | None = None
    """What came, while it waits; what goes up, while it is up; the gradient for below, once counted."""
    attempt: int = 1
    """Of sending it up."""
    mark: int = 0
    """Of its feeder, as far as who brought it said then, who may be gone when it goes up."""
    sent_to: int = 0
    """The membership above to which a part of it was sent last; 0 if none was."""
    tokens: int = 0
    since_s: float = 0.0
    """When it went up, or was last heard of."""
    asked: int = 0
    """The membership two above that is asked whether it has this one; 0 if none is."""
    asked_at: int = 0
    """The epoch from which on its answer counts."""
    num_waits: int = 0
    """How often the one above answered that it has it."""
    told: bool = False
    """The training thread has it."""
    evaluates: bool = False
    """It goes forward only: no gradient comes of it, and nobody counts it."""
    renewed: bool = False
    """It comes to another replica than its feeder chose: at the last stage that asks for the targets."""

    @property
    def loses_nothing(self) -> bool:
        """Whether its gradient has come or is made here, so that it is counted whatever happens above."""
        return self.phase in (Phase.BACK, Phase.COUNTED)


@dataclass(slots=True, eq=False)
class Job:
    """A payload on its way to a peer."""

    name: Name
    message: Any
    """Of piece 0."""
    payload: Payload
    num_pieces: int
    takes_slot: bool
    item: Item | None = None
    next_piece: int = 0


@dataclass(slots=True, eq=False)
class Pair:
    """A session of the link with a membership: begun when both have said `Meet` in it."""

    key: bytes
    since: int
    ready: bool = False
    gradients: deque[Job] = field(default_factory=deque)
    targets: deque[Job] = field(default_factory=deque)
    ups: deque[Job] = field(default_factory=deque)
    num_sent_up: int = 0
    may_send_up: int = 0
    """Microbatches in all, in this session, by what the other end said."""
    granted: int = 0
    """The same of what comes from there."""
    taken: int = 0
    held: set[Name] = field(default_factory=set)
    """What the other end holds, as it said before it met."""
    inputs: dict[Entry, Assembly] = field(default_factory=dict)
    """Activations that are not whole."""
    gradients_in: dict[Name, Assembly] = field(default_factory=dict)
    targets_in: dict[int, Assembly] = field(default_factory=dict)
    refused: dict[Entry, int] = field(default_factory=dict)
    """Activations that are not taken: pieces that are still to come."""

    def jobs(self) -> Iterator[deque[Job]]:
        """By urgency."""
        yield from (self.gradients, self.targets, self.ups)


@dataclass(slots=True, eq=False)
class Past:
    """What became of one feeder's microbatches here, above its mark."""

    mark: int = 0
    """Everything of a lower number is over, as the feeder itself says."""
    marks: dict[int, int] = field(default_factory=dict)
    """The same by the word of others who pass its microbatches on, which stand: each about what it brings."""
    counted: dict[int, int] = field(default_factory=dict)
    """By number: the membership that brought it; 0 at stage 0."""
    over: dict[int, int] = field(default_factory=dict)
    """Given up here, likewise."""

    def mark_by(self, sender: int) -> int:
        """Below that nothing is begun which ``sender`` brings."""
        return max(self.mark, self.marks.get(sender, 0))

    def raise_mark(self, mark: int) -> None:
        """The feeder says that more is over."""
        if mark > self.mark:
            self.mark = mark
            self.counted = {number: by for number, by in self.counted.items() if number >= mark}
            self.over = {number: by for number, by in self.over.items() if number >= mark}

    def raise_mark_by(self, sender: int, mark: int) -> None:
        """Somebody who passes microbatches on says so: what it brought is forgotten below that."""
        if mark > self.mark_by(sender):
            self.marks[sender] = mark
            self.counted = {n: by for n, by in self.counted.items() if n >= mark or by != sender}
            self.over = {n: by for n, by in self.over.items() if n >= mark or by != sender}

    def is_over(self, number: int, sender: int = 0) -> bool:
        """Whether nothing new is begun of it, as ``sender`` brings it."""
        return number < self.mark_by(sender) or number in self.over


@dataclass(slots=True, eq=False)
class Fed:
    """Stage 0: one microbatch of its own that has not ended."""

    targets: Payload
    evaluates: bool = False
    sent_to: set[int] = field(default_factory=set)
    """Memberships that were sent the targets."""


@dataclass(eq=False)
class StreamState:
    """Everything that one membership of this member knows; a new membership begins with a new one."""

    key: bytes
    since: int
    terms: StreamTerms
    outlet: StreamOutlet
    replicas: Replicas
    wires: Wires
    items: dict[Name, Item] = field(default_factory=dict)
    pairs: dict[bytes, Pair] = field(default_factory=dict)
    """By key."""
    past: dict[int, Past] = field(default_factory=dict)
    """By membership of the feeder."""
    targets: dict[Name, Payload] = field(default_factory=dict)
    """At the last stage."""
    unheard: list[Item] = field(default_factory=list)
    """Whole inputs of feeders of which the roster does not tell yet."""
    asks: list[tuple[bytes, Any]] = field(default_factory=list)
    """Questions whose epoch was not heard yet, each with who asks."""
    quota: int = 0
    """What was told last; 0 if nothing was."""
    more_come: bool = True
    """Likewise."""
    feeds: bool = True
    """As the coordinator was told."""
    fed: dict[int, Fed] = field(default_factory=dict)
    next_number: int = 0
    may_feed: int = -1
    """What was told last."""
    blocked: bool = False
    """What was fed was not taken: it is to be told when it may be."""
    drains: bool = False
    drained: bool = False

    @property
    def mark(self) -> int:
        """Of this feeder."""
        return min(self.fed, default=self.next_number)

    def id_of(self, name: Name) -> MicrobatchId | None:
        """As the training thread names it; None while the roster does not tell of the feeder."""
        if name[0] == self.since:
            return MicrobatchId(self.key, *name)
        feeder = self.replicas.standing(name[0])
        return None if feeder is None else MicrobatchId(feeder.key, *name)

    def past_of(self, feeder: int) -> Past:
        """What became of a feeder's microbatches."""
        return self.past.setdefault(feeder, Past())

    def pair_with(self, since: int) -> Pair | None:
        """The session with a membership that stands, as far as this end knows: it may not have heard of this
        one, and then says nothing and hears nothing until it has."""
        replica = self.replicas.standing(since)
        pair = None if replica is None else self.pairs.get(replica.key)
        return pair if pair is not None and pair.since == since else None

    def stands_at(self, since: int, stage: int) -> bool:
        """Whether a membership stands, as far as this one heard, and is of that stage."""
        replica = self.replicas.standing(since)
        return replica is not None and replica.stage == stage

    def say(self, now: float, since: int, message: Any) -> None:
        """Say something to a membership; nothing without a session, where whatever matters is said anew when
        one begins."""
        pair = self.pair_with(since)
        if pair is not None:
            self.outlet.send(now, pair.key, message)

    def is_mine(self, pair: Pair, me: int, you: int) -> bool:
        """Whether a message is between these two memberships."""
        return you == self.since and me == pair.since and self.replicas.standing(me) is not None

    def exchanges_with(self, stage: int) -> bool:
        """Whether this stage says anything to another one."""
        return stages_exchange(self.terms.stage, stage, self.terms.stages)

    def pieces(self, total_bytes: int) -> int:
        """Of a payload of that size."""
        return num_pieces(total_bytes, self.terms.piece_bytes)

    @property
    def unheard_gradients(self) -> set[Name]:
        """Of what was counted here and may be counted elsewhere too, if this member died."""
        return {name for name, item in self.items.items() if item.phase is Phase.COUNTED}
