"""What an outer loop asks of its member: one frozen dataclass per command.

`tell` carries a command out on the member and says how it was taken; the loop is told of that
(`OuterLoop.told`).
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.member.member import Member
from peers.protocol.record import Record
from transport.collectives.reducer import Reducer


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer a contribution; tells whether the member took it."""

    fragment: int
    tokens: int
    weight: int
    reducer: Reducer
    norm: float

    def tell(self, now: float, member: Member) -> bool:
        offer = (self.fragment, self.tokens, self.weight, self.reducer, self.norm)
        return member.offer(now, *offer) is not None


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Take an offer back; tells whether no round has it."""

    fragment: int

    def tell(self, now: float, member: Member) -> bool:
        return member.withdraw(now, self.fragment)


@dataclass(frozen=True, slots=True)
class ConfirmApplied:
    """A record was applied; ``state`` is the digest of what followed."""

    record: Record
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.applied(now, self.record, self.state)
        return True


@dataclass(frozen=True, slots=True)
class ConfirmLoaded:
    """A fetched state was loaded."""

    fragment: int
    version: bytes
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.loaded(now, self.fragment, self.version, self.state)
        return True


@dataclass(frozen=True, slots=True)
class ConfirmCaptured:
    """This worker's initial state of a fragment was captured as the run's."""

    fragment: int
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.captured(now, self.fragment, self.state)
        return True


@dataclass(frozen=True, slots=True)
class Swap:
    """Gossip: average with this step's group; tells whether the member took it."""

    fragment: int
    step: int
    tokens: int
    reducer: Reducer

    def tell(self, now: float, member: Member) -> bool:
        return member.swap(now, self.fragment, self.step, self.tokens, self.reducer)


@dataclass(frozen=True, slots=True)
class ConfirmMoved:
    """Gossip: this worker's outer state moved; ``state`` is its digest."""

    fragment: int
    state: bytes

    def tell(self, now: float, member: Member) -> bool:
        member.moved(now, self.fragment, self.state)
        return True


Command = Offer | TakeBack | ConfirmApplied | ConfirmLoaded | ConfirmCaptured | Swap | ConfirmMoved
