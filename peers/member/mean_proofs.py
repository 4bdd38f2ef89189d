"""An owner shows the coordinator of what it made a mean, when it is asked to in a proved round.

All that is copied when it is asked for, since the round is about to be committed, and sent as there is room.
It keeps what one question is about. Decides nothing: see `peers.coordinator.mean_proofs`.
"""

from __future__ import annotations

from collections import deque

from peers.member.exchanges import Exchanges
from peers.member.outlet import MemberOutlet
from peers.protocol.evidence import ProveMean, ShownDigests, ShownMean, ShownPart
from transport.effects import Payload, Phantom
from transport.limits import LIMITS


class MeanProofs:
    """A member's answers."""

    def __init__(self, me: bytes, exchanges: Exchanges, outlet: MemberOutlet) -> None:
        self._me = me
        self._exchanges = exchanges
        self._outlet = outlet
        self._unsent: deque[tuple[object, Payload]] = deque()

    def begin(self, now: float, asked: ProveMean) -> None:
        """The coordinator wants to see of what a mean is made."""
        running = self._exchanges.running.get(asked.serial)
        if running is None or not running.exchange.done or running.plan is None:
            return
        exchange, serial = running.exchange, asked.serial
        chunk = running.plan.drawn_of(self._me, asked.drawn, exchange.num_chunks)
        if chunk is None or 32 * exchange.num_chunks > LIMITS.payload_bytes:
            return
        digests, made_of = b"".join(exchange.digests()), exchange.made_of(chunk)
        if not made_of:
            return
        size = exchange.reducer.num_elements
        self._unsent = deque(
            (ShownPart(serial, author, size, *proof), _copy(part)) for author, proof, part in made_of
        )
        self._unsent.append((ShownMean(serial), _copy(exchange.means()[chunk])))
        self._unsent.append((ShownDigests(serial), digests))
        self.tick(now)

    def drop(self) -> None:
        """The coordinator lost its memory of us, and what was under way."""
        self._unsent.clear()

    def tick(self, now: float) -> None:
        """There may be room."""
        while self._unsent and self._outlet.show(now, *self._unsent[0]):
            self._unsent.popleft()


def _copy(payload: Payload) -> Payload:
    return payload if isinstance(payload, Phantom) else bytes(payload)
