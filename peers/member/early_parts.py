"""Parts that leave before their round opens, so that the line carries bytes while the coordinator is asked.

A member whose last rounds had the same list sends its parts to the owners of that list as soon as it
offers. An owner holds them, of one contribution of each member, and uses none before `Open` names that very
contribution of their author, for a round in which everybody sends the same to the same; both ends see from
`Open` alone whether they count. An author who has taken its contribution back since declines, and then
nobody comes to a result with its parts: for that a mean of the author itself is needed, in the first attempt
in which alone they count, and who owns no chunk sends none early (S4). What an author sends early, twice, too
much of or for no round at all stays its own affair: it is held against its credit, and never more than a
bound (R1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from peers.member.contributions import Contribution, Contributions
from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.outlet import MemberOutlet
from peers.protocol.messages import Open
from transport.collectives.chunks import EarlyPart
from transport.collectives.plan import Plan, chunks_of
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import Limits
from transport.link.streams import FRAME_COST


@dataclass(slots=True)
class _Sending:
    """A contribution whose parts leave early, or have left."""

    contribution: Contribution
    cut: bytes
    queues: dict[bytes, deque[int]]
    """By owner, the chunks that may still go."""
    sent: set[tuple[int, bytes]] = field(default_factory=set)
    """Chunks, and their owners."""
    costs: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Held:
    """What came early from one member, of one contribution."""

    number: int
    cut: bytes
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
        self._plan: Plan | None = None
        """Of the last round, if the one before it had the same list."""
        self._list: tuple[tuple[bytes, ...], frozenset[bytes]] = (), frozenset()
        """Founders of the last round, and who of them owned nothing."""
        self._chunk_elements: dict[int, int] = {}
        """By fragment, in its last round."""
        self._counted_in = 0
        """The last round in which early parts of this member count."""
        self._sending: _Sending | None = None
        self.held: dict[bytes, Held] = {}
        """By member."""

    # -- what this member sends ---------------------------------------------------------------

    def offered(self, fragment: int) -> None:
        """A contribution was offered: its parts may leave, if the next round may well be like the last. Those
        of one contribution at a time do: an owner holds no more."""
        if self._waits() or self._may_be_held():
            return
        self._sending = None
        mine, plan = self._contributions.offered[fragment], self._plan
        chunk_elements = self._chunk_elements.get(fragment, 0)
        if plan is None or not chunk_elements or not mine.weight:
            return
        mine.reducer.begin(chunk_elements, len(plan.founders))
        num_chunks = -(-mine.reducer.num_elements // chunk_elements)
        if _may_send(plan, self._me, num_chunks):
            queues = dict(self._queues(plan, num_chunks))
            self._sending = _Sending(mine, plan.cut(chunk_elements), queues)

    def _queues(self, plan: Plan, num_chunks: int) -> Iterator[tuple[bytes, deque[int]]]:
        # Everyone begins with the member after itself, as in the exchange.
        founders, num = plan.founders, len(plan.founders)
        start = founders.index(self._me)
        for i in range(start + 1, start + num):
            if founders[i % num] not in plan.idle:
                yield founders[i % num], deque(chunks_of(i % num, num, num_chunks))

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
        """An owner may not have heard yet that the round of the last ones opened. Once the exchange is done
        here, all have used them."""
        running = self._exchanges.running.get(self._counted_in)
        return running is not None and not running.exchange.done

    def _send(self, now: float, sending: _Sending, owner: bytes, queue: deque[int]) -> bool:
        mine, chunk = sending.contribution, queue[0]
        size = mine.reducer.size_bytes(chunk)
        cost = sending.costs.get(owner, 0) + size + FRAME_COST
        # Chunks were cut for the format of the last round; in another they may take more than a frame.
        if cost > self._limits.early_bytes or size > self._limits.payload_bytes:
            queue.clear()
            return False
        # Whatever else is sent to this owner finds room too, however long no round opens.
        if self._outlet.room(owner) < size + 2 * self._limits.payload_bytes:
            return False
        queue.popleft()
        sending.costs[owner] = cost
        sending.sent.add((chunk, owner))
        message = EarlyPart(mine.number, sending.cut, chunk)
        self._outlet.send_bulk(now, owner, message, mine.reducer.encode(chunk), "early")
        return True

    def joined(self, message: Open, plan: Plan, mine: Contribution) -> set[tuple[int, bytes]]:
        """This member takes part in a round with that contribution: which of its parts have left already, by
        chunk and owner."""
        sending, self._sending = self._sending, None
        if sending is None or sending.contribution is not mine or not _counts(message, plan):
            return set()
        if sending.cut != plan.cut(message.chunk_elements):
            return set()
        self._counted_in = message.serial
        return sending.sent

    def learn(self, message: Open, plan: Plan) -> None:
        """A round has opened: the next one may have the same list."""
        listed = plan.founders, plan.idle
        repeats = not plan.attempt and not plan.proved and listed == self._list and self._me in plan.founders
        self._plan = plan if repeats else None
        if not plan.attempt:
            self._list = listed
            self._chunk_elements[message.fragment] = message.chunk_elements

    # -- what others have sent ----------------------------------------------------------------

    def take(self, now: float, peer: bytes, message: EarlyPart, payload: Payload, cost: int) -> None:
        """A part of somebody. Raises `BadFrame` if it is of a round and does not fit there."""
        for running in self._exchanges.running.values():
            if running.early.get(peer) == (message.number, message.cut):
                self._outlet.consumed(now, peer, cost)
                running.exchange.early_part(now, peer, message.chunk, payload)
                return
        held = self.held.get(peer)
        if held is None or message.number > held.number:
            self._drop(now, peer)
            held = self.held[peer] = Held(message.number, message.cut)
        of_another = (message.number, message.cut) != (held.number, held.cut)
        if of_another or message.chunk in held.parts or held.cost + cost > self._limits.early_bytes:
            self._outlet.consumed(now, peer, cost)
            return
        held.parts[message.chunk] = payload, cost
        held.cost += cost

    def opened(self, now: float, message: Open, plan: Plan, running: RunningExchange) -> None:
        """A round, or another attempt at it, has begun here: take what is held for it. What is held of
        earlier contributions is for none."""
        running.early = {}
        cut, num_chunks = plan.cut(message.chunk_elements), running.exchange.num_chunks
        for author, number in zip(message.founders, message.numbers, strict=False):
            if _counts(message, plan) and author != self._me and _may_send(plan, author, num_chunks):
                running.early[author] = number, cut
            held = self.held.get(author)
            if held is None or held.number > number:
                continue
            if running.early.get(author) == (held.number, held.cut):
                self._use(now, author, running)
            else:
                self._drop(now, author)

    def _use(self, now: float, author: bytes, running: RunningExchange) -> None:
        for chunk, (payload, cost) in self.held.pop(author).parts.items():
            self._outlet.consumed(now, author, cost)
            try:
                running.exchange.early_part(now, author, chunk, payload)
            except BadFrame:
                continue  # it does not fit: as good as not sent; its author will be missed

    def _drop(self, now: float, peer: bytes) -> None:
        held = self.held.pop(peer, None)
        if held is not None:
            self._outlet.consumed(now, peer, held.cost)

    # -- links and sessions -------------------------------------------------------------------

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew, or is gone: what was sent over it may be lost, and the credit that
        its parts took is void."""
        self.held.pop(peer, None)
        for running in self._exchanges.running.values():
            running.early.pop(peer, None)
        if self._sending is not None:
            self._sending.queues.pop(peer, None)
            self._sending.sent = {each for each in self._sending.sent if each[1] != peer}

    def entered(self, now: float) -> None:
        """The coordinator remembers no earlier round: nobody knows which the next one will be like."""
        self._plan, self._sending = None, None


def _counts(message: Open, plan: Plan) -> bool:
    """Whether early parts count in an attempt: in one of all, that names contributions."""
    return bool(message.numbers) and not (plan.attempt or plan.proved or plan.lost)


def _may_send(plan: Plan, author: bytes, num_chunks: int) -> bool:
    """Whether nobody comes to a result of the first attempt without a mean of this author, by which it shows
    that it takes part."""
    index = plan.founders.index(author)
    return author not in plan.idle and bool(chunks_of(index, len(plan.founders), num_chunks))
