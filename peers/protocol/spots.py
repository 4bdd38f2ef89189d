"""What is said about spot checks of means (`peers.coordinator.spot_checks`, `peers.member.spot_checks`).

Fields carry their bounds, as those of `messages` do. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol import fields
from transport.collectives.fields import ChunkIndex
from transport.frames import Count, Key, kind
from transport.limits import LIMITS

SECTION_ELEMENTS = LIMITS.payload_bytes // 4
"""As many as one frame takes in fp32. Codecs share nothing between sections."""


def section_of(drawn: int, num_elements: int) -> slice:
    """The elements of a chunk of that length that are checked."""
    num_sections = max(1, -(-num_elements // SECTION_ELEMENTS))
    start = drawn % num_sections * SECTION_ELEMENTS
    return slice(start, min(start + SECTION_ELEMENTS, num_elements))


@kind(120)
@dataclass(frozen=True, slots=True)
class Spot:
    """A section of that chunk of a round that all have done is computed again by one member: send it your
    part. The owner of the chunk does too."""

    serial: fields.Serial
    chunk: ChunkIndex
    section: Count
    """Of the sections of `SECTION_ELEMENTS` of the chunk, the one at this place, counted round and round."""
    checker: Key


@kind(121)
@dataclass(frozen=True, slots=True)
class SpotPart:
    """My part of the chunk that you check: the same bytes as its owner got, and from the owner what it added
    to them in the section that is checked, in fp32."""

    serial: fields.Serial
    chunk: ChunkIndex


@kind(122)
@dataclass(frozen=True, slots=True)
class Spotted:
    """I have computed a mean again: it is that of its parts, or it is not."""

    serial: fields.Serial
    agrees: bool
    answered: bool = True
    """The owner sent a part of its own. Where it did not, nothing was computed and nothing agrees."""
