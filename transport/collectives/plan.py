"""Who takes part in an exchange, who owns which chunk, and how large chunks are. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from transport.collectives.norms import NO_LIMITS, NormLimits
from transport.limits import Limits

BLOCK_ELEMENTS = 4096
"""Chunks begin at multiples of this (unless the limit on chunks is smaller): codecs may share scales, and
choose the largest, within such blocks."""
_LEAST_ELEMENTS = 64 * 1024
"""Below this a chunk's fixed costs outweigh what overlapping more of them gains."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who takes part in an attempt, with which weights; owners follow from it."""

    attempt: int
    founders: tuple[bytes, ...]
    """The members of the first attempt, in the order in which parts are added."""
    weights: tuple[float, ...]
    lost: frozenset[bytes] = frozenset()
    """Founders who are no longer in."""
    idle: frozenset[bytes] = frozenset()
    """Members who own no chunks: they contribute, and others reduce."""
    proved: bool = False
    """Nothing is used that its author did not vouch for."""
    limits: NormLimits = NO_LIMITS
    members: tuple[bytes, ...] = field(init=False)
    owners: tuple[bytes, ...] = field(init=False)
    """Members who reduce; all, where none is left to."""
    shares: tuple[tuple[int, bytes, float], ...] = field(init=False)
    """Of each member: its index among the founders, and its weight over the sum of the members'."""

    def __post_init__(self) -> None:
        present = [(i, m, self.weights[i]) for i, m in enumerate(self.founders) if m not in self.lost]
        total = sum(weight for _, _, weight in present)
        members = tuple(m for _, m, _ in present)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "owners", tuple(m for m in members if m not in self.idle) or members)
        object.__setattr__(self, "shares", tuple((i, m, weight / total) for i, m, weight in present))

    def owner(self, chunk: int, num_chunks: int) -> bytes:
        """Contiguous runs of chunks by founder; only those of the lost and the idle move to others."""
        founder = self.founders[chunk * len(self.founders) // num_chunks]
        if founder not in self.lost and founder not in self.idle:
            return founder
        return self.owners[chunk % len(self.owners)]

    def cut(self, chunk_elements: int) -> bytes:
        """A name of 16 bytes for what this attempt has every member send to whom, if chunks have so many
        elements."""
        idle = bytes(member in self.idle for member in self.founders)
        return sha256(b"".join((chunk_elements.to_bytes(8), *self.founders, idle))).digest()[:16]

    def drawn_of(self, owner: bytes, drawn: int, num_chunks: int) -> int | None:
        """One of the chunks of an owner, counted round and round; None if it has none."""
        owned = [chunk for chunk in range(num_chunks) if self.owner(chunk, num_chunks) == owner]
        return owned[drawn % len(owned)] if owned else None


def chunks_of(index: int, num_founders: int, num_chunks: int) -> range:
    """The chunks of the founder at ``index``, as long as it is neither lost nor idle."""
    return range(-(-index * num_chunks // num_founders), -(-(index + 1) * num_chunks // num_founders))


def chunk_elements_for(num_elements: int, num_members: int, limits: Limits, element_bytes: float) -> int:
    """Chunks small enough that every member owns some and the pipeline fills, and no smaller than pays
    for handling one; in blocks of 4096 elements (so that what codecs share among elements does
    not straddle chunks). An element takes ``element_bytes`` at most, in a part or in a mean."""
    members = max(1, num_members)
    pipelined = -(-num_elements // (limits.chunks_per_owner * members))
    wanted = max(pipelined, min(_LEAST_ELEMENTS, -(-num_elements // members)))
    most = max_chunk_elements(limits, element_bytes)
    return max(1, min(most, -(-wanted // BLOCK_ELEMENTS) * BLOCK_ELEMENTS, max(1, num_elements)))


def max_chunk_elements(limits: Limits, element_bytes: float) -> int:
    """Elements of the largest chunk: as many blocks as a chunk's bytes hold."""
    blocks = int(limits.chunk_bytes / (element_bytes * BLOCK_ELEMENTS))
    return min(limits.chunk_elements, max(1, blocks) * BLOCK_ELEMENTS)
