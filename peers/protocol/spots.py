"""What is said about spot checks of means (`peers.coordinator.spot_checks`, `peers.member.spot_checks`).

Fields carry their bounds, as those of `messages` do. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol import fields
from transport.collectives.fields import ChunkIndex
from transport.frames import Key, kind


@kind(120)
@dataclass(frozen=True, slots=True)
class Spot:
    """That chunk of a round that all have done is computed again by one member: send it your part."""

    serial: fields.Serial
    chunk: ChunkIndex
    checker: Key


@kind(121)
@dataclass(frozen=True, slots=True)
class SpotPart:
    """My part of the chunk that you check, the same bytes as its owner got."""

    serial: fields.Serial
    chunk: ChunkIndex


@kind(122)
@dataclass(frozen=True, slots=True)
class Spotted:
    """I have computed a mean again: it may be that of its parts, or it cannot be."""

    serial: fields.Serial
    agrees: bool
