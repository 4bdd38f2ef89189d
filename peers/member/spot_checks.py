"""Spot checks: whether a mean is that of its parts, computed again by a member that does not own the chunk.

The coordinator draws a section of a chunk when all are done. Every author sends the checker its part once
more, the same bytes, and the owner what it added of its own, in fp32. The checker adds up what the owner
added, as the owner did, and says whether that is what the owner called the mean, and whether the owner's
part is within the norm that it claimed: one made up to fit gives its owner nothing that it could not have
contributed. Nobody waits for any of this. What does not come is forgotten, but that of an owner alone:
whoever never shows its part would never be found out. A link that was lost is no such silence. Part of S3.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.member.exchanges import Exchanges
from peers.member.outlet import MemberOutlet
from peers.protocol.application import Application
from peers.protocol.spots import Spot, SpotPart, Spotted, section_of
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.collectives.reducer import Part, Reducer
from transport.effects import Payload, Phantom
from transport.errors import Poisoned

_ROUNDING = 1e-4
"""Of the mean's own norm: sums in fp32."""
_STEPS = 0.25
"""Of what encoding costs: another machine may round a value here and there to the next step."""


def is_same(off: float, rounding: float, length: float) -> bool:
    """Whether a mean is the one that its parts make, by what `Reducer.deviation` says."""
    return off <= _STEPS * min(rounding, length) + _ROUNDING * length


@dataclass(frozen=True, slots=True)
class _Check:
    """What this member is to compute again."""

    spot: Spot
    receiver: Reducer
    plan: Plan
    owner: bytes
    mean: Payload
    mine: Payload
    until: float
    """So long parts are waited for."""


@dataclass(frozen=True, slots=True)
class _Owed:
    """A part for which there was no room yet."""

    checker: bytes
    said: SpotPart
    part: Payload


class SpotChecks:
    """A member's part in them. It keeps one check, one part of its own, and one of each peer."""

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        app: Application,
        exchanges: Exchanges,
        max_peers: int,
        outlet: MemberOutlet,
        patience_s: float,
    ) -> None:
        self._me = me
        self._coordinator = coordinator
        self._app = app
        self._exchanges = exchanges
        self._max_peers = max_peers
        self._outlet = outlet
        self._patience_s = patience_s
        self._check: _Check | None = None
        self._owed: _Owed | None = None
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
        if spot.checker == self._me:
            until = now + self._patience_s
            self._check = None
            if owner != self._me:  # once the round is committed the next one may be of another length
                receiver = self._app.receiver(running.fragment)
                receiver.begin(exchange.chunk_elements, len(plan.members))
                self._check = _check(spot, receiver, exchange, plan, until)
            self._compute(now)
            return
        # A copy: the contribution may change as soon as the round is committed.
        if owner == self._me:
            part = exchange.added(spot.chunk, section_of(spot.section, exchange.reducer.length(spot.chunk)))
        else:
            part = exchange.reducer.encode(spot.chunk)
        self._owed = _Owed(spot.checker, SpotPart(spot.serial, spot.chunk), _copy(part))
        self._send_owed(now)

    def take_part(self, now: float, peer: bytes, message: SpotPart, payload: Payload) -> None:
        """A part of somebody, perhaps before this member was told what to check."""
        if len(self.parts) < self._max_peers or peer in self.parts:
            self.parts[peer] = message, payload
            self._compute(now)

    def drop(self, peer: bytes) -> None:
        """The link to a peer is gone, or began anew: what it sent is not kept, and what it was to send, or to
        get, may be lost."""
        self.parts.pop(peer, None)
        if self._owed is not None and self._owed.checker == peer:
            self._owed = None
        if self._check is not None and peer in self._check.plan.members:
            self._check = None

    def tick(self, now: float) -> None:
        """Time has passed: there may be room, and what is late does not come any more."""
        self._send_owed(now)
        check = self._check
        if check is None or now < check.until:
            return
        self._check = None
        if _missing(check, self._payloads(check)) == {check.owner}:
            said = Spotted(check.spot.serial, agrees=False, answered=False)
            self._outlet.send(now, self._coordinator, said)

    def _send_owed(self, now: float) -> None:
        owed = self._owed
        if owed is not None and self._outlet.room(owed.checker) >= len(owed.part):
            self._owed = None
            self._outlet.send_bulk(now, owed.checker, owed.said, owed.part, "check")

    def _payloads(self, check: _Check) -> dict[bytes, Payload]:
        """What is here of the parts that are to be added up."""
        wanted = check.spot.serial, check.spot.chunk
        here = {peer: payload for peer, (m, payload) in self.parts.items() if (m.serial, m.chunk) == wanted}
        return {**here, self._me: check.mine}

    def _compute(self, now: float) -> None:
        check = self._check
        if check is None:
            return
        payloads = self._payloads(check)
        if _missing(check, payloads):
            return
        self._check = None
        self.parts.clear()
        agrees = self._agrees(check, payloads)
        if agrees is not None:
            self._outlet.send(now, self._coordinator, Spotted(check.spot.serial, agrees))

    def _agrees(self, check: _Check, payloads: dict[bytes, Payload]) -> bool | None:
        """None if a part of another than the owner cannot be added up, which is not the owner's fault."""
        shares, owner = check.plan.shares, check.plan.founders.index(check.owner)
        parts = [Part(i, share, payloads[member], plain=i == owner) for i, member, share in shares]
        reducer = check.receiver
        try:
            section = section_of(check.spot.section, reducer.length(check.spot.chunk))
            off, rounding, length = reducer.deviation(check.spot.chunk, parts, check.mean, section)
        except Poisoned as error:
            return False if error.member == owner else None
        limits = check.plan.limits.parts
        square = reducer.part_squares[[part.member for part in parts].index(owner)]
        return is_same(off, rounding, length) and (not limits or square <= limits[owner])


def _check(spot: Spot, receiver: Reducer, exchange: DirectReduce, plan: Plan, until: float) -> _Check:
    owner = plan.owner(spot.chunk, exchange.num_chunks)
    mean, mine = exchange.means()[spot.chunk], exchange.reducer.encode(spot.chunk)
    return _Check(spot, receiver, plan, owner, _copy(mean), _copy(mine), until)


def _missing(check: _Check, payloads: dict[bytes, Payload]) -> set[bytes]:
    return set(check.plan.members) - payloads.keys()


def _copy(payload: Payload) -> Payload:
    return payload if isinstance(payload, Phantom) else bytes(payload)
