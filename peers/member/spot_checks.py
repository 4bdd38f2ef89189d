"""Spot checks: whether a mean is that of its parts, computed again by a member that does not own the chunk.

The coordinator draws a chunk when all are done. Every author but its owner sends the checker its part once
more, the same bytes; the checker adds them up and says whether what the owner called the mean can be that of
these and of some contribution of the owner's own. The owner's part is not asked for: it could be made up to
fit, so it may be anything as long as it claims. Nobody waits for any of this, and what is late is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from peers.member.exchanges import Exchanges
from peers.member.outlet import MemberOutlet
from peers.protocol.application import Application
from peers.protocol.spots import Spot, SpotPart, Spotted
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.collectives.reducer import Part
from transport.effects import Payload, Phantom
from transport.errors import Poisoned

_ROOM = 2.0
"""How many times as far off as it may be a mean has to be before its owner is spoken ill of."""
_ROUNDING = 1e-4
"""Of the mean's own norm: sums in fp32."""


@dataclass(frozen=True, slots=True)
class _Check:
    """What this member is to compute again."""

    spot: Spot
    fragment: int
    plan: Plan
    owner: bytes
    chunk_elements: int
    mean: Payload
    mine: Payload


class SpotChecks:
    """A member's part in them. It keeps one check, and one part of each peer."""

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        app: Application,
        exchanges: Exchanges,
        max_peers: int,
        outlet: MemberOutlet,
    ) -> None:
        self._me = me
        self._coordinator = coordinator
        self._app = app
        self._exchanges = exchanges
        self._max_peers = max_peers
        self._outlet = outlet
        self._check: _Check | None = None
        self.parts: dict[bytes, tuple[SpotPart, Payload]] = {}
        """The last one of each peer."""

    def begin(self, now: float, spot: Spot) -> None:
        """The coordinator has drawn a chunk of a round that all have done, and is about to commit it."""
        running = self._exchanges.running.get(spot.serial)
        if running is None or running.plan is None or not running.exchange.done:
            return
        exchange, plan = running.exchange, running.plan
        if spot.chunk >= exchange.num_chunks:
            return
        owner = plan.owner(spot.chunk, exchange.num_chunks)
        if spot.checker == self._me != owner:
            self._check = _check(spot, running.fragment, exchange, plan, owner)
            self._compute(now)
        elif self._me != owner:
            # A copy: the contribution may change as soon as the round is committed.
            part = _copy(exchange.reducer.encode(spot.chunk))
            if self._outlet.room(spot.checker) >= len(part):
                said = SpotPart(spot.serial, spot.chunk)
                self._outlet.send_bulk(now, spot.checker, said, part, "check")

    def take_part(self, now: float, peer: bytes, message: SpotPart, payload: Payload) -> None:
        """A part of somebody, perhaps before this member was told what to check."""
        if len(self.parts) < self._max_peers or peer in self.parts:
            self.parts[peer] = message, payload
            self._compute(now)

    def drop(self, peer: bytes) -> None:
        """The link to a peer is gone: what it sent is not kept."""
        self.parts.pop(peer, None)

    def _compute(self, now: float) -> None:
        check = self._check
        if check is None:
            return
        spot, payloads = check.spot, {self._me: check.mine}
        for peer, (message, payload) in self.parts.items():
            if (message.serial, message.chunk) == (spot.serial, spot.chunk):
                payloads[peer] = payload
        shares = [each for each in check.plan.shares if each[1] != check.owner]
        if any(member not in payloads for _, member, _ in shares):
            return
        self._check = None
        parts = [Part(index, share, payloads[member]) for index, member, share in shares]
        self.parts.clear()
        agrees = self._agrees(check, parts)
        if agrees is not None:
            self._outlet.send(now, self._coordinator, Spotted(spot.serial, agrees))

    def _agrees(self, check: _Check, parts: list[Part]) -> bool | None:
        """None if a part cannot be added up, which is not the owner's fault."""
        reducer = self._app.receiver(check.fragment)
        reducer.begin(check.chunk_elements, len(check.plan.members))
        try:
            off, rounding, length = reducer.deviation(check.spot.chunk, parts, check.mean)
        except Poisoned:
            return None
        index, _, share = next(each for each in check.plan.shares if each[1] == check.owner)
        limits = check.plan.limits.parts
        own = share * math.sqrt(limits[index]) if limits else math.inf
        return off <= _ROOM * (own + rounding) + _ROUNDING * length


def _check(spot: Spot, fragment: int, exchange: DirectReduce, plan: Plan, owner: bytes) -> _Check:
    mean, mine = exchange.means()[spot.chunk], exchange.reducer.encode(spot.chunk)
    return _Check(spot, fragment, plan, owner, exchange.chunk_elements, _copy(mean), _copy(mine))


def _copy(payload: Payload) -> Payload:
    return payload if isinstance(payload, Phantom) else bytes(payload)
