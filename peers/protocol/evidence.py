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


ROOT_BYTES = 32 + 64
"""Of one root and its signature."""
