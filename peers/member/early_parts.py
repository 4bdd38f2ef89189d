"""Parts that leave before their round opens, so that the line carries bytes while the coordinator is asked.

A member whose last rounds had the same list sends its parts to the owners of that list as soon as it
offers. An owner holds them, of one contribution of each member, and uses none before their author says of
which round they are. It says so once it has heard `Open`, of the contribution that is in that round, and
only if list, owners and chunks are those for which it sent them; otherwise it sends all parts as it would
have. So nobody is counted in a round of which it does not know (S4), and what an author sends early, twice,
too much of or for no round at all stays its own affair: it is held against its credit, and never more than
a bound (R1).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from peers.member.contributions import Contribution, Contributions
from peers.member.exchanges import Exchanges
from peers.member.outlet import MemberOutlet
from peers.protocol.messages import Open, SentEarly
from transport.collectives.chunks import EarlyPart, PartChunk
from transport.collectives.plan import Plan
from transport.effects import Payload
from transport.limits import Limits
from transport.link.streams import FRAME_COST


@dataclass(slots=True)
class _Sending:
    """A contribution whose parts leave early, or have left."""

    contribution: Contribution
    founders: tuple[bytes, ...]
    idle: frozenset[bytes]
    chunk_elements: int
    queues: dict[bytes, deque[int]]
    """By owner, the chunks that may still go."""
    sent: set[tuple[int, bytes]] = field(default_factory=set)
    """Chunks, and their owners."""
    costs: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Held:
    """What came early from one member."""

    number: int
    parts: dict[int, tuple[Payload, int]] = field(default_factory=dict)
    """By chunk, with what it costs."""
    cost: int = 0


class EarlyParts:
    """Those that this member sends, and those that it holds."""

    def __init__(
        self,
        me: bytes,
        contributions: Contributions,
        exchanges: Exchanges,
        outlet: MemberOutlet,
        limits: Limits,
    ) -> None:
        self._me = me
        self._contributions = contributions
        self._exchanges = exchanges
        self._outlet = outlet
        self._limits = limits
        self._list: tuple[tuple[bytes, ...], frozenset[bytes]] = (), frozenset()
        """Founders of the last round, and who of them owned nothing."""
        self._repeats = False
        """The round before that one had the same."""
        self._chunk_elements: dict[int, int] = {}
        """By fragment, in its last round."""
        self._told = 0
        """The last round of which this member has said that early parts are of it."""
        self._sending: _Sending | None = None
        self.held: dict[bytes, Held] = {}
        """By member."""
        self.said: dict[tuple[bytes, int], int] = {}
        """By author and number: the round of which it says that those parts are."""

    # -- what this member sends ---------------------------------------------------------------

    def offered(self, fragment: int) -> None:
        """A contribution was offered: its parts may leave, if the next round may well be like the last. Those
        of one contribution at a time do: an owner holds no more. Nor may the next ones overtake, on the bulk
        lane, the word about those before."""
        if self._waits() or self._may_be_held():
            return
        self._sending = None
        mine, (founders, idle) = self._contributions.offered[fragment], self._list
        chunk_elements = self._chunk_elements.get(fragment, 0)
        if not self._repeats or not chunk_elements or not mine.weight or self._me not in founders:
            return
        mine.reducer.begin(chunk_elements, len(founders))
        num_chunks, num = -(-mine.reducer.num_elements // chunk_elements), len(founders)
        # Everyone begins with the member after itself, as in the exchange.
        start = founders.index(self._me)
        queues = {
            founders[i % num]: deque(
                range(-(-(i % num) * num_chunks // num), -(-(i % num + 1) * num_chunks // num))
            )
            for i in range(start + 1, start + num)
            if founders[i % num] not in idle
        }
        self._sending = _Sending(mine, founders, idle, chunk_elements, queues)

    def pump(self, now: float) -> bool:
        """Send one part to each owner that has room for it; True if there may be more to do."""
        sending, moved = self._sending, False
        if sending is None or not self._waits():
            return False
        for owner, queue in sending.queues.items():
            moved |= bool(queue) and self._send(now, sending, owner, queue)
        return moved

    def _waits(self) -> bool:
        """What leaves early is only offered so far."""
        mine = self._sending.contribution if self._sending is not None else None
        return mine is not None and self._contributions.offered.get(mine.fragment) is mine and not mine.serial

    def _may_be_held(self) -> bool:
        """An owner may not have heard yet of which round the last ones are. Once the exchange is done here,
        all have used them."""
        running = self._exchanges.running.get(self._told)
        return running is not None and not running.exchange.done

    def _send(self, now: float, sending: _Sending, owner: bytes, queue: deque[int]) -> bool:
        mine, chunk = sending.contribution, queue[0]
        size = mine.reducer.size_bytes(chunk)
        cost = sending.costs.get(owner, 0) + size + FRAME_COST
        if cost > self._limits.early_bytes:
            queue.clear()
            return False
        # Whatever else is sent to this owner finds room too, however long no round opens.
        if self._outlet.room(owner) < size + 2 * self._limits.payload_bytes:
            return False
        queue.popleft()
        sending.costs[owner] = cost
        sending.sent.add((chunk, owner))
        self._outlet.send_bulk(now, owner, EarlyPart(mine.number, chunk), mine.reducer.encode(chunk), "early")
        return True

    def joined(self, now: float, message: Open, plan: Plan, mine: Contribution) -> set[tuple[int, bytes]]:
        """This member takes part in a round with that contribution: which of its parts have left already, by
        chunk and owner. The owners are told."""
        sending, self._sending = self._sending, None
        if sending is None or sending.contribution is not mine or plan.attempt or plan.proved or plan.lost:
            return set()
        sent_for = sending.founders, sending.idle, sending.chunk_elements
        if sent_for != (plan.founders, plan.idle, message.chunk_elements):
            return set()
        if sending.sent:
            self._told = message.serial
        for owner in sorted({owner for _, owner in sending.sent}):
            self._outlet.send(now, owner, SentEarly(message.serial, mine.number))
        return sending.sent

    def learn(self, message: Open, plan: Plan) -> None:
        """A round has opened: the next one may have the same list."""
        if not plan.attempt:
            listed = plan.founders, plan.idle
            self._repeats = listed == self._list and not plan.proved
            self._list = listed
            self._chunk_elements[message.fragment] = message.chunk_elements
        else:
            self._repeats = False

    # -- what others have sent ----------------------------------------------------------------

    def take(self, now: float, peer: bytes, message: EarlyPart, payload: Payload, cost: int) -> None:
        """A part of somebody. Raises `BadFrame` if it is of a round and does not fit there."""
        serial = self.said.get((peer, message.number))
        if serial is not None:
            self._exchanges.take_chunk(now, peer, PartChunk(serial, 0, message.chunk), payload, cost)
            return
        held = self.held.get(peer)
        if held is None or message.number > held.number:
            self._drop(now, peer)
            held = self.held[peer] = Held(message.number)
        full = held.cost + cost > self._limits.early_bytes
        if message.number < held.number or message.chunk in held.parts or full:
            self._outlet.consumed(now, peer, cost)
            return
        held.parts[message.chunk] = payload, cost
        held.cost += cost

    def told(self, now: float, peer: bytes, message: SentEarly) -> None:
        """An author says of which round its early parts are. Raises `BadFrame` if they do not fit there."""
        passed = self._exchanges.has_passed
        self.said = {by: serial for by, serial in self.said.items() if not passed(serial)}
        mine = sum(author == peer for author, _ in self.said)
        if passed(message.serial) or mine >= self._limits.fragments:
            return  # what is held is replaced by what it sends for the next one
        self.said[peer, message.number] = message.serial
        held = self.held.get(peer)
        if held is None or held.number != message.number:
            return
        del self.held[peer]
        for chunk, (payload, cost) in held.parts.items():
            self._exchanges.take_chunk(now, peer, PartChunk(message.serial, 0, chunk), payload, cost)

    def _drop(self, now: float, peer: bytes) -> None:
        held = self.held.pop(peer, None)
        if held is not None:
            self._outlet.consumed(now, peer, held.cost)

    # -- links and sessions -------------------------------------------------------------------

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew, or is gone: what was sent over it may be lost, and the credit that
        its parts took is void."""
        self.held.pop(peer, None)
        self.said = {by: serial for by, serial in self.said.items() if by[0] != peer}
        if self._sending is not None:
            self._sending.queues.pop(peer, None)
            self._sending.sent = {each for each in self._sending.sent if each[1] != peer}

    def entered(self, now: float) -> None:
        """The coordinator remembers no earlier round: nobody knows which the next one will be like."""
        self._repeats, self._sending = False, None
