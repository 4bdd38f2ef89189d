"""The exchanges that a member takes part in, and the chunks that come before their exchange.

It moves exchanges on and knows who is silent in one. Who exchanges with whom, and what an exchange came to,
is said by `peers.member.rounds` or `peers.member.swaps`. Chunks of an exchange that is not begun here yet are
held and give no credit back, so they are bounded by the sender's window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from peers.member.outlet import MemberOutlet
from peers.member.patience import Owing, Patience
from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import LIMITS, Limits

STEPS_PER_INPUT = 4
"""Steps of exchanges (a chunk reduced, or sent to everyone, or decoded) between two looks at the sockets."""


@dataclass(slots=True)
class RunningExchange:
    """An exchange that this member takes part in."""

    fragment: int
    exchange: DirectReduce
    opened_at: float
    tokens: int
    """Tokens behind this member's contribution to it."""
    told_done: int = -1
    """The last attempt that this member reported as done; -1 for none."""
    told_stuck: int = -1
    num_shown: int = 0
    """Chunks that the coordinator was shown of those that this member refuses, in the present attempt."""
    plan: Plan | None = None
    """Of the present attempt, if it is a round's."""
    early: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """By member, the contribution and the cut of those of its early parts that count here."""


_Held = tuple[bytes, PartChunk | MeanChunk, Payload, int]


class Exchanges:
    """A member's running exchanges."""

    def __init__(
        self, outlet: MemberOutlet, timeout_s: float, patience_s: float, limits: Limits = LIMITS
    ) -> None:
        self.busy = False
        """There is work that waits for nothing: `pump` wants to be called again."""
        self.running: dict[int, RunningExchange] = {}
        """Running exchanges by serial."""
        self._outlet = outlet
        self._patience = Patience(timeout_s, patience_s, limits)
        self._early: list[_Held] = []
        self._newest_serial = 0

    # -- exchanges begin and end --------------------------------------------------------------

    def pass_by(self, now: float, serial: int) -> None:
        """Exchanges up to this serial begin here no more: chunks that came early for them are dropped."""
        self.know(serial)
        self._drop_early(now, lambda each: each <= serial and each not in self.running)

    def know(self, serial: int) -> None:
        """This member was told of exchanges up to this serial: chunks of those that do not run are late."""
        self._newest_serial = max(self._newest_serial, serial)

    def has_passed(self, serial: int) -> bool:
        """Whether chunks of that exchange come too late."""
        return serial <= self._newest_serial and serial not in self.running

    def replay_early(self, now: float, serial: int) -> None:
        """An exchange, or another attempt at it, has begun: take what came early for it."""
        running = self.running[serial]
        attempt = running.exchange.attempt
        due = [h for h in self._early if h[1].serial == serial and h[1].attempt <= attempt]
        self._early = [h for h in self._early if not (h[1].serial == serial and h[1].attempt <= attempt)]
        for held in due:
            try:
                self._take(now, running.exchange, *held)
            except BadFrame:
                continue  # it is not of this plan: as good as not sent; its sender will be missed

    def early_senders(self, which: Callable[[int], bool]) -> list[tuple[bytes, int]]:
        """Who has sent chunks early, and for which serial, of serials that are chosen by ``which``."""
        return sorted({(held[0], held[1].serial) for held in self._early if which(held[1].serial)})

    def close(self, now: float, serial: int) -> RunningExchange | None:
        """Forget an exchange: it has ended."""
        running = self.running.pop(serial, None)
        self._drop_early(now, lambda held: held == serial)
        return running

    def close_all(self, now: float) -> None:
        """Forget every exchange."""
        for serial in list(self.running):
            self.close(now, serial)

    def find_result(self, serial: int, result: bytes) -> DirectReduce | None:
        """The running exchange of that serial, if it has come to that result."""
        running = self.running.get(serial)
        if running is None or not running.exchange.done or running.exchange.digest() != result:
            return None
        return running.exchange

    def _drop_early(self, now: float, void: Callable[[int], bool]) -> None:
        for peer, message, _, cost in self._early:
            if void(message.serial):
                self._outlet.consumed(now, peer, cost)
        self._early = [h for h in self._early if not void(h[1].serial)]

    # -- chunks -------------------------------------------------------------------------------

    def take_chunk(
        self, now: float, peer: bytes, message: PartChunk | MeanChunk, payload: Payload, cost: int
    ) -> None:
        """One chunk; `pump` is to follow. Raises `BadFrame` for what its sender could not have meant."""
        running = self.running.get(message.serial)
        if running is None and message.serial <= self._newest_serial:
            self._outlet.consumed(now, peer, cost)
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
        self._outlet.consumed(now, peer, cost)
        if isinstance(message, PartChunk):
            exchange.part(now, peer, message, payload)
        else:
            exchange.mean(now, peer, message, payload)

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew: what was under way is lost, and so is the credit that chunks held
        for later took. Its end sends those again, as this one does."""
        self._early = [h for h in self._early if h[0] != peer]
        for running in self.running.values():
            running.exchange.send_again(peer)

    def pump(self, now: float, report: Callable[[float, int, RunningExchange], None] | None = None) -> None:
        """Move every exchange on; ``report(now, serial, running)`` is called after each. `busy` tells that
        more can be done at once: what this much work has to send leaves first, and the last of it before
        anything else is decoded."""
        steps, sent, waits = STEPS_PER_INPUT, 0, False

        def send(peer: bytes, message: object, payload: Payload) -> None:
            nonlocal sent
            sent += 1
            self._outlet.send_bulk(now, peer, message, payload, "exchange")

        for serial, running in list(self.running.items()):
            exchange = running.exchange
            if exchange.idle and not exchange.done:
                continue
            while steps and exchange.pump(self._outlet.room, send):
                steps -= 1
                if sent and exchange.only_keeps:
                    waits = True
                    break
            if report is not None:
                report(now, serial, running)
        self.busy = waits or not steps

    def partners(self) -> set[bytes]:
        """Those with whom something is exchanged."""
        return {peer for each in self.running.values() for peer in each.exchange.members}

    def silent(self, now: float, exchange: DirectReduce, *, may_be_late: bool = False) -> tuple[bytes, ...]:
        """Who owes an exchange something and has been silent for too long (see `peers.member.patience`)."""
        owing_parts, chunk_bytes = exchange.owing_parts(), exchange.chunk_bytes
        silent = []
        for peer in sorted(exchange.waiting_for()):
            owing = Owing(
                elapsed_s=now - exchange.started_at,
                idle_s=now - exchange.last_heard(peer),
                num_chunks=exchange.num_heard(peer),
                owes_parts=peer in owing_parts,
                may_be_late=may_be_late,
            )
            cut = now - self._outlet.last_heard(now, peer) > self._patience.timeout_s
            if self._patience.is_over(owing, chunk_bytes, len(exchange.members), cut=cut):
                silent.append(peer)
        return tuple(silent)
