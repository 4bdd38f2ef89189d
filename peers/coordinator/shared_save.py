"""A checkpoint that members share out, from its naming until all of it is on disks. Data only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from transport.effects import NEVER


@dataclass(frozen=True, slots=True)
class SharedSave:
    """One that was named and is not covered yet."""

    index: int
    head: bytes
    named_at: float
    holders: tuple[tuple[bytes, ...], ...]
    """By fragment: who is to write it."""


@dataclass(slots=True)
class SharedSaves:
    """Those of one course."""

    pending: SharedSave | None = None
    named_at: float = NEVER
    """When the last one was named."""
    num_in_vain: int = 0
    """How many were given up one after the other."""
    is_wanted: bool = False
    """The owner wants one now."""
    num_failed: Counter[bytes] = field(default_factory=Counter)
    """By head of a state that was put together again: how often a member could not, since somebody came who
    has a share of it."""
