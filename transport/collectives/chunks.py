"""The messages of an exchange: a part of a chunk for its owner, and the mean of a chunk from its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from transport.collectives.fields import Attempt, ChunkIndex, Serial
from transport.collectives.proofs import Path, Signature
from transport.frames import Between, Small, kind

Cut = Annotated[bytes, Between(16, 16)]


@kind(10)
@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class PartChunk:
    """One member's encoded part of one chunk, for its owner."""

    serial: Serial
    attempt: Attempt
    chunk: ChunkIndex


@kind(175)
@dataclass(slots=True)
class EarlyPart:
    """A part that leaves before its exchange opens."""

    number: Small
    """Of the contribution that it is of, among its author's."""
    cut: Cut
    """How it was cut, and for whom: it counts only in an exchange that has the same."""
    chunk: ChunkIndex


@kind(11)
@dataclass(slots=True)  # made for every frame, and a frozen one takes twice as long to make
class MeanChunk:
    """The encoded mean of one chunk, from its owner."""

    serial: Serial
    attempt: Attempt
    chunk: ChunkIndex


@kind(110)
@dataclass(slots=True)
class ProvedPart(PartChunk):
    """A part with what shows that its author vouched for it."""

    path: Path
    signature: Signature


@kind(111)
@dataclass(slots=True)
class ProvedMean(MeanChunk):
    """A mean with the same."""

    path: Path
    signature: Signature
