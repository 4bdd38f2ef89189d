"""How the contributions of members become a mean: what rounds and gossip have in common for a member.

A member is made with one of two: `peers.member.rounds.Rounds`, which the coordinator opens, or
`peers.member.swaps.Swaps`, which members agree on among themselves. The node asks it for the
links that it needs; nobody else asks which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from peers.protocol.commands import Swap
from peers.protocol.messages import NoSwap
from transport.collectives.chunks import EarlyPart, MeanChunk, PartChunk
from transport.effects import Payload

Handler = Callable[[float, Any], None]


class Averaging(Protocol):
    """What a member asks of rounds or of gossip."""

    needs_all_links: bool
    """Everybody exchanges with everybody, so that there is a link to each member."""

    @property
    def handlers(self) -> Mapping[type, Handler]:
        """Handlers of the coordinator's messages about exchanges, by kind."""

    def entered(self, now: float) -> None:
        """The coordinator has let this member in, and remembers no earlier exchange of it."""

    def swap(self, now: float, swap: Swap) -> None:
        """Average with the group of a step; `Swapped` or `SwapFailed` follows."""

    def take_chunk(
        self, now: float, peer: bytes, message: PartChunk | MeanChunk, payload: Payload, cost: int
    ) -> None:
        """One chunk; `pump` is to follow. Raises `BadFrame`."""

    def offered(self, now: float, fragment: int) -> None:
        """A contribution was offered to the coordinator."""

    def take_early(self, now: float, peer: bytes, message: EarlyPart, payload: Payload, cost: int) -> None:
        """A part of somebody that left before its round opened; `pump` is to follow. Raises `BadFrame`."""

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew, or is gone: what was under way is lost."""

    def refused(self, now: float, peer: bytes, message: NoSwap) -> None:
        """A peer does not exchange with this member."""

    def lose_sight(self, now: float, peer: bytes) -> None:
        """The link to a peer ended and is not back, or is refused, or it said goodbye."""

    def partner_left(self, now: float, peer: bytes, reason: str) -> None:
        """A member is out of the run."""

    def pump(self, now: float) -> None:
        """Move exchanges on, and report what they came to."""

    def tick(self, now: float) -> None:
        """Report, or give up on, members who owe something and are silent."""
