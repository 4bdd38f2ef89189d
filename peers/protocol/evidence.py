"""What members show the coordinator about a proved round, so that it can judge by itself.

Bulk messages: a chunk, or many roots, travel beside the header. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peers.protocol import fields
from transport.collectives.fields import ChunkIndex
from transport.collectives.proofs import Path, Signature
from transport.frames import Between, Count, kind

MAX_LONG = 16
"""Chunks that a member shows in one round, one after another."""


@kind(112)
@dataclass(frozen=True, slots=True)
class Shown:
    """A chunk that must not be used, as its author vouched for it; its bytes travel beside."""

    serial: fields.Serial
    attempt: fields.Attempt
    author: fields.Key
    mean: bool
    """It is a mean, from the owner of the chunk."""
    num_elements: Count
    """Of the whole vector."""
    chunk: ChunkIndex
    path: Path
    signature: Signature
    reason: fields.Reason
    num_long: Annotated[int, Between(0, MAX_LONG)] = 0
    """How many chunks it shows, one after another, that together are longer than they may be; 0 for one that
    cannot be used as it is."""


@kind(113)
@dataclass(frozen=True, slots=True)
class ToldTwoThings:
    """Two roots that one author signed under one statement."""

    serial: fields.Serial
    attempt: fields.Attempt
    author: fields.Key
    mean: bool
    num_elements: Count
    group: Count
    root: fields.Digest
    signature: Signature
    other_root: fields.Digest
    other_signature: Signature


@kind(115)
@dataclass(frozen=True, slots=True)
class Roots:
    """Under which roots this member got the means of an attempt; beside it, for each member in order
    and each group of its means, the root and its signature. Said beside the `Done` that they lead to."""

    serial: fields.Serial
    attempt: fields.Attempt
    num_elements: Count


@kind(155)
@dataclass(frozen=True, slots=True)
class ProveMean:
    """Show me of what you made one mean in a proved round: each part, the mean, and the digests of all means,
    by which it is in the result."""

    serial: fields.Serial
    drawn: Count
    """Of the chunks that you own, the one at this place, counted round and round."""


@kind(156)
@dataclass(frozen=True, slots=True)
class ShownPart:
    """A part that is in a mean, as its author vouched for it."""

    serial: fields.Serial
    author: fields.Key
    num_elements: Count
    """Of the whole vector."""
    path: Path
    signature: Signature


@kind(157)
@dataclass(frozen=True, slots=True)
class ShownMean:
    """What the parts were made to."""

    serial: fields.Serial


@kind(158)
@dataclass(frozen=True, slots=True)
class ShownDigests:
    """The digests of all chunks of the result."""

    serial: fields.Serial


Evidence = Shown | Roots | ShownPart | ShownMean | ShownDigests
"""What comes with a payload."""

ROOT_BYTES = 32 + 64
"""Of one root and its signature."""
