"""The rounds that a member takes part in: contributions, exchanges, and chunks that come early.

A contribution stays as it was until its round commits or aborts (S5), meets exactly one fate (S4),
and takes part only in a round whose base is its own (S8). Chunks of a round that is not announced
here yet are held and give no credit back, so they are bounded by the sender's window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from peers.protocol.commands import Offer
from peers.protocol.events import ContributionEnded, Fate, RoundAborted, RoundOpened
from peers.protocol.messages import Abort, Decline, Done, NoSwap, Open, Ready, Rejected, Stuck, Withdraw
from transport.collectives.direct_reduce import DirectReduce, MeanChunk, PartChunk, Plan
from transport.collectives.reducer import Reducer
from transport.effects import Payload
from transport.errors import BadFrame

STEPS_PER_INPUT = 4
"""Steps of exchanges (a chunk reduced, or sent to everyone, or decoded) between two looks at the sockets."""


class Bulk(Protocol):
    """What exchanging asks of the node."""

    def send(self, now: float, peer: bytes, message: Any) -> None: ...

    def send_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, purpose: str) -> None: ...

    def room(self, peer: bytes) -> int: ...

    def consumed(self, now: float, peer: bytes, cost: int) -> None: ...

    def deliver(self, event: object) -> None: ...

    def last_heard(self, now: float, peer: bytes) -> float: ...

    def meet(self, now: float, peer: bytes) -> bool: ...


@dataclass(slots=True)
class Contribution:
    """What this member offers for one fragment."""

    number: int
    fragment: int
    base: bytes
    tokens: int
    weight: int
    reducer: Reducer
    norm: float = 0.0
    serial: int = 0
    """The round that it is in; 0 while it is only offered."""
    committed: bool = False
    """A record that counts it was written; its fate follows when the record is applied."""

    @property
    def may_be_withdrawn(self) -> bool:
        return not self.serial and not self.committed


@dataclass(slots=True)
class RunningExchange:
    """An exchange that this member takes part in."""

    fragment: int
    exchange: DirectReduce
    opened_at: float
    told_done: int = -1
    told_stuck: int = -1
    partners: tuple[bytes, ...] | None = None
    """The others of a gossip group; None for a round of the coordinator's."""
    tokens: int = 0


_Held = tuple[bytes, Any, Payload, int]


class Exchanges:
    """A member's contributions and running exchanges."""

    def __init__(
        self, me: bytes, coordinator: bytes, bulk: Bulk, timeout_s: float, patience_s: float
    ) -> None:
        self.busy = False
        """There is work that waits for nothing: `pump` wants to be called again."""
        self.gossips = False
        """Exchanges are agreed on among members, not by the coordinator."""
        self.offered: dict[int, Contribution] = {}
        """By fragment."""
        self.running: dict[int, RunningExchange] = {}
        """By serial."""
        self.tokens_trained = 0
        self.tokens_by_fate: dict[Fate, int] = dict.fromkeys(Fate, 0)
        self._me = me
        self._coordinator = coordinator
        self._bulk = bulk
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._early: list[_Held] = []
        self._newest_serial = 0
        self._next_number = 0

    # -- contributions ------------------------------------------------------------------------

    def offer(self, base: bytes, offer: Offer) -> Contribution:
        """Keep a contribution on top of version ``base``; `say_ready` tells the coordinator."""
        assert offer.fragment not in self.offered, "one contribution per fragment at a time"
        self._next_number += 1
        self.tokens_trained += offer.tokens
        kept = Contribution(
            self._next_number, offer.fragment, base, offer.tokens, offer.weight, offer.reducer, offer.norm
        )
        self.offered[offer.fragment] = kept
        return kept

    def say_ready(self, now: float, fragment: int) -> None:
        c = self.offered[fragment]
        self._bulk.send(now, self._coordinator, Ready(fragment, c.base, c.tokens, c.weight, c.number, c.norm))

    def withdraw(self, now: float, fragment: int) -> Contribution | None:
        """Take a contribution back, to offer more later: its tokens are counted anew then. None if
        a round has it."""
        found = self.offered.get(fragment)
        if found is None or not found.may_be_withdrawn:
            return None
        del self.offered[fragment]
        self.tokens_trained -= found.tokens
        self._bulk.send(now, self._coordinator, Withdraw(fragment, found.number))
        return found

    def end(self, fragment: int, fate: Fate, reason: str) -> Contribution | None:
        """A contribution meets its fate."""
        found = self.offered.pop(fragment, None)
        if found is not None:
            self.tokens_by_fate[fate] += found.tokens
            self._bulk.deliver(ContributionEnded(fragment, found.number, found.tokens, fate, reason))
        return found

    def end_all(self, fate: Fate, reason: str) -> None:
        """Every contribution meets the same fate."""
        for fragment in list(self.offered):
            self.end(fragment, fate, reason)

    def count_applied(self, fragment: int, number: int, tokens: int) -> None:
        """Gossip: what was trained is in this member's own replica, whatever became of its group."""
        self.tokens_trained += tokens
        self.tokens_by_fate[Fate.APPLIED] += tokens
        self._bulk.deliver(ContributionEnded(fragment, number, tokens, Fate.APPLIED, ""))

    def rejected(self, message: Rejected) -> None:
        """The coordinator does not take a contribution."""
        mine = self.offered.get(message.fragment)
        if mine is not None and mine.number == message.number and mine.may_be_withdrawn:
            self.end(message.fragment, Fate.REJECTED, message.reason)

    # -- rounds -------------------------------------------------------------------------------

    def open(self, now: float, message: Open) -> None:
        """A round opens, or goes on with fewer. Raises `BadFrame`."""
        if len(message.founders) != len(message.weights) or min(message.weights, default=0.0) <= 0.0:
            raise BadFrame("a round without a weight for each member")
        self._newest_serial = max(self._newest_serial, message.serial)
        self._drop_early(now, lambda serial: serial < message.serial and serial not in self.running)
        lost = frozenset(message.founders[i] for i in message.lost if i < len(message.founders))
        plan = Plan(message.attempt, message.founders, message.weights, lost)
        running = self.running.get(message.serial) or self._join(now, message)
        if running is None or self._me not in plan.members:
            return
        running.exchange.begin(now, plan)
        self._bulk.deliver(RoundOpened(message.serial, message.attempt, message.fragment, plan.members))
        self._replay_early(now, message.serial)
        self.pump(now)

    def _join(self, now: float, message: Open) -> RunningExchange | None:
        mine = self.offered.get(message.fragment)
        weights = dict(zip(message.founders, message.weights, strict=True))
        agrees = (
            mine is not None
            and not mine.committed
            and mine.base == message.base
            and weights.get(self._me) == mine.weight
        )
        if mine is None or not agrees:
            reason = "nothing is offered" if mine is None else "it is not about what was offered"
            self._bulk.send(now, self._coordinator, Decline(message.serial, reason))
            return None
        mine.serial = message.serial
        exchange = DirectReduce(message.serial, self._me, mine.reducer, max(1, message.chunk_elements), now)
        self.running[message.serial] = RunningExchange(message.fragment, exchange, now)
        return self.running[message.serial]

    def abort(self, now: float, message: Abort) -> None:
        running = self.close(now, message.serial)
        if running is None:
            return
        self._bulk.deliver(RoundAborted(running.fragment, message.serial, message.reason, message.again))
        mine = self.offered.get(running.fragment)
        if mine is None or mine.serial != message.serial or mine.committed:
            return
        mine.serial = 0
        if message.again:
            self.say_ready(now, running.fragment)
        else:
            self.end(running.fragment, Fate.LATE, message.reason)

    def close(self, now: float, serial: int) -> RunningExchange | None:
        """Forget a round: it was committed or aborted."""
        running = self.running.pop(serial, None)
        self._drop_early(now, lambda held: held == serial)
        return running

    def close_all(self, now: float) -> None:
        """Every round of the coordinator's is void; contributions are only offered again."""
        for serial, running in list(self.running.items()):
            if running.partners is None:
                self.close(now, serial)
        for mine in self.offered.values():
            mine.serial = 0

    def open_group(self, now: float, running: RunningExchange, plan: Plan) -> None:
        """An exchange without a coordinator begins. Who else sends to it is matched elsewhere, and told
        so."""
        serial = running.exchange.serial
        self.pass_by(now, serial - 1)
        self._newest_serial = max(self._newest_serial, serial)
        self.running[serial] = running
        running.exchange.begin(now, plan)
        for peer in sorted({held[0] for held in self._early if held[1].serial == serial}):
            if peer not in plan.members:
                self._bulk.send(now, peer, NoSwap(serial))
        self._replay_early(now, serial)
        self.pump(now)

    def pass_by(self, now: float, serial: int) -> None:
        """Nothing up to this serial is exchanged here any more: whoever has begun is told."""
        self._newest_serial = max(self._newest_serial, serial)
        late = {(held[0], held[1].serial) for held in self._early if held[1].serial <= serial}
        for peer, its_serial in sorted(late):
            if its_serial not in self.running:
                self._bulk.send(now, peer, NoSwap(its_serial))
        self._drop_early(now, lambda each: each <= serial and each not in self.running)

    # -- chunks -------------------------------------------------------------------------------

    def chunk(
        self, now: float, peer: bytes, message: PartChunk | MeanChunk, payload: Payload, cost: int
    ) -> None:
        """One chunk; `pump` is to follow. Raises `BadFrame` for what its sender could not have meant."""
        running = self.running.get(message.serial)
        if running is None and message.serial <= self._newest_serial:
            self._bulk.consumed(now, peer, cost)
            if self.gossips and isinstance(message, PartChunk):
                self._bulk.send(now, peer, NoSwap(message.serial))
        elif running is not None and running.partners is not None and peer not in running.partners:
            self._bulk.consumed(now, peer, cost)
            self._bulk.send(now, peer, NoSwap(message.serial))
        elif running is None or message.attempt > running.exchange.attempt:
            self._early.append((peer, message, payload, cost))
        else:
            self._take(now, running.exchange, peer, message, payload, cost)

    def _take(
        self,
        now: float,
        exchange: DirectReduce,
        peer: bytes,
        message: PartChunk | MeanChunk,
        payload: Payload,
        cost: int,
    ) -> None:
        self._bulk.consumed(now, peer, cost)
        if isinstance(message, PartChunk):
            exchange.part(now, peer, message, payload)
        else:
            exchange.mean(now, peer, message, payload)

    def _replay_early(self, now: float, serial: int) -> None:
        running = self.running[serial]
        attempt = running.exchange.attempt
        due = [h for h in self._early if h[1].serial == serial and h[1].attempt <= attempt]
        self._early = [h for h in self._early if not (h[1].serial == serial and h[1].attempt <= attempt)]
        for held in due:
            try:
                self._take(now, running.exchange, *held)
            except BadFrame:
                continue  # it is not of this plan: as good as not sent; its sender will be missed

    def _drop_early(self, now: float, void: Callable[[int], bool]) -> None:
        for peer, message, _, cost in self._early:
            if void(message.serial):
                self._bulk.consumed(now, peer, cost)
        self._early = [h for h in self._early if not void(h[1].serial)]

    def link_began_anew(self, peer: bytes) -> None:
        """What was under way to a peer is lost, and so is the credit that chunks held for later took: its
        end sends those again, as this one does."""
        self._early = [h for h in self._early if h[0] != peer]
        for running in self.running.values():
            running.exchange.send_again(peer)

    def pump(self, now: float) -> None:
        """Move every exchange on, and report what it came to. `busy` tells that more can be done at once:
        what this much work has to send leaves first."""
        steps = STEPS_PER_INPUT
        for serial, running in list(self.running.items()):
            exchange = running.exchange
            if exchange.idle and not exchange.done:
                continue
            send = partial(self._bulk.send_bulk, now, purpose="exchange")
            while steps and exchange.pump(self._bulk.room, send):
                steps -= 1
            if running.partners is not None:
                continue  # it is settled by those who began it
            if exchange.poisoned and running.told_stuck != exchange.attempt:
                running.told_stuck = exchange.attempt
                peer, reason = exchange.poisoned
                self._say_stuck(now, serial, exchange.attempt, (peer,), reason)
            elif exchange.done and running.told_done != exchange.attempt:
                running.told_done = exchange.attempt
                done = Done(serial, exchange.attempt, exchange.digest())
                self._bulk.send(now, self._coordinator, done)
        self.busy = not steps

    def partners(self) -> set[bytes]:
        """Those with whom something is exchanged."""
        return {peer for each in self.running.values() for peer in each.exchange.members}

    def tick(self, now: float) -> None:
        """Report members who owe us something and are silent."""
        for serial, running in self.running.items():
            exchange = running.exchange
            if exchange.done or running.told_stuck == exchange.attempt or running.partners is not None:
                continue
            silent = self.silent(now, exchange)
            if silent:
                running.told_stuck = exchange.attempt
                self._say_stuck(now, serial, exchange.attempt, silent, "")

    def silent(self, now: float, exchange: DirectReduce) -> tuple[bytes, ...]:
        """Who owes an exchange something and has been silent for too long."""
        # A silent link is a cut one. Someone whose link lives may only be slow, or wait for another
        # (a mean needs everyone's parts): that gets more time, and parts before means.
        owing_parts = exchange.owing_parts()
        silent = []
        for peer in sorted(exchange.waiting_for()):
            idle = now - exchange.last_heard(peer)
            cut = now - self._bulk.last_heard(now, peer) > self._timeout_s
            patience = self._timeout_s if cut else self._patience_s
            if idle > patience * (1 if peer in owing_parts else 2):
                silent.append(peer)
        return tuple(silent)

    def _say_stuck(
        self, now: float, serial: int, attempt: int, peers: tuple[bytes, ...], poison: str
    ) -> None:
        self._bulk.send(now, self._coordinator, Stuck(serial, attempt, peers, poison[:64]))
