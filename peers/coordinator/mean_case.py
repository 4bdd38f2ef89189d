"""A mean of a proved round of which its owner is to show of what it is made.

The owner has the burden of proof: each part is signed by its author, once in a round, so an owner that made
the mean of what it got can show it, and nobody can make it look otherwise. That the mean is the one which
members took follows from the result that the record names. What is drawn, and when: `mean_proofs`.
Keeps what is shown, one chunk of each member; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peers.coordinator.open_round import OpenRound
from peers.protocol.evidence import ShownDigests, ShownMean, ShownPart
from transport.collectives.plan import Plan
from transport.effects import Payload


@dataclass(slots=True)
class MeanCase:
    """One chunk of one record."""

    current: OpenRound
    """The round as it was committed."""
    result: bytes
    """What the record names."""
    owner: bytes
    drawn: int
    """Which of its chunks (`transport.collectives.plan.Plan.drawn_of`)."""
    until: float
    """So long the owner is waited for."""
    identities: Mapping[bytes, bytes]
    """Of all members of the round."""
    parts: dict[bytes, tuple[ShownPart, Payload]] = field(default_factory=dict)
    """By author."""
    mean: Payload | None = None
    digests: Payload | None = None

    @property
    def plan(self) -> Plan:
        """Of the attempt that was committed."""
        return self.current.plans[self.current.attempt]

    @property
    def complete(self) -> bool:
        """Everything was shown."""
        whole = self.mean is not None and self.digests is not None
        return whole and self.parts.keys() == set(self.plan.members)

    def take(self, message: ShownPart | ShownMean | ShownDigests, payload: Payload) -> None:
        """One thing that the owner shows; each counts once."""
        if isinstance(message, ShownMean):
            self.mean = payload if self.mean is None else self.mean
        elif isinstance(message, ShownDigests):
            self.digests = payload if self.digests is None else self.digests
        elif message.author in self.plan.members:
            self.parts.setdefault(message.author, (message, payload))
