"""Pairs of members that are marked, because one said something of the other and nobody can tell who is right.

A mark holds for some commits, twice as many each time, and is forgiven after `FORGIVEN_AFTER` more without.
Time is counted in commits, by the index of the last one. Bounded; decides nothing. Keeps R1.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_POWER = 10
"""A pair is marked for at most two to the power of this commits."""
FORGIVEN_AFTER = 64
"""Commits without a mark after which a pair is forgotten."""

Pair = tuple[bytes, bytes]


@dataclass(slots=True)
class Mark:
    """One pair that is, or was, marked."""

    times: int
    until: int
    """Index of the commit from which on it is marked no more."""


class Marks:
    """At most ``max_pairs`` are kept; the one that ends first makes room. The first mark of a pair lasts for
    ``first`` commits."""

    def __init__(self, first: int, max_pairs: int = 4096) -> None:
        self._first = first
        self._max_pairs = max_pairs
        self._marks: dict[Pair, Mark] = {}

    def __bool__(self) -> bool:
        return bool(self._marks)

    def add(self, pair: Pair, index: int) -> None:
        """Mark a pair at the commit of that index, longer each time."""
        self._forgive(index)
        if pair not in self._marks and len(self._marks) >= self._max_pairs:
            del self._marks[min(self._marks, key=lambda each: self._marks[each].until)]
        mark = self._marks.setdefault(pair, Mark(0, 0))
        lasts = min(1 << MAX_POWER, self._first << mark.times)
        mark.times, mark.until = min(MAX_POWER, mark.times + 1), index + lasts

    def forget(self, member: bytes) -> None:
        """A member is out for good: nothing that was said by it or of it matters any more."""
        self._marks = {pair: mark for pair, mark in self._marks.items() if member not in pair}

    def holds(self, pair: Pair, index: int) -> bool:
        """Whether that pair is marked now."""
        mark = self._marks.get(pair)
        return mark is not None and index < mark.until

    def live(self, index: int) -> list[Pair]:
        """Pairs that are marked now."""
        return [pair for pair, mark in self._marks.items() if index < mark.until]

    def times(self, pair: Pair) -> int:
        """How often that pair was marked, and is not forgiven."""
        mark = self._marks.get(pair)
        return mark.times if mark else 0

    def until(self, pair: Pair) -> int:
        """Index of the commit from which on it is marked no more; 0 for one that never was."""
        mark = self._marks.get(pair)
        return mark.until if mark else 0

    def partners(self, member: bytes, index: int) -> set[bytes]:
        """With whom a member was marked, and is not forgiven."""
        self._forgive(index)
        return {each for pair in self._marks if member in pair for each in pair} - {member}

    def _forgive(self, index: int) -> None:
        self._marks = {
            pair: mark for pair, mark in self._marks.items() if index < mark.until + FORGIVEN_AFTER
        }
