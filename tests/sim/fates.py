"""S4, both ways: "applied" is said of what one record counts, any other fate of what none counts.

It sees what was offered, which fates were told and what records count, never a core's own books. A version
of a fragment is followed by one record at most, which counts at most one of the contributions that one life
offered on top of it: of these there may be several, since what was taken back or is late makes room for the
next. A contribution without a fate is under way, for ever if its process has ended.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from peers.protocol.events import Fate
from peers.protocol.record import Record
from tests.sim.violation import Violation


@dataclass
class Contribution:
    index: int
    life: int
    tokens: int
    weight: int
    base: bytes
    fragment: int
    fate: Fate | None = None
    taken_back: bool = False

    @property
    def under_way(self) -> bool:
        return self.fate is None and not self.taken_back


@dataclass
class Fates:
    """Contributions, records, and whether they agree. Of ``hostile`` members it says nothing."""

    hostile: set[int]
    contributions: dict[tuple[int, int, int], Contribution] = field(default_factory=dict)
    """By worker, life and number."""
    offers: dict[tuple[int, int, bytes], list[Contribution]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By worker, fragment and base."""
    newest: dict[tuple[int, int, int], Contribution] = field(default_factory=dict)
    """By worker, life and fragment."""
    counting: dict[tuple[int, int, int, bytes], tuple[Record, float]] = field(default_factory=dict)
    """By worker, life, fragment and base: the record that counts it, with its weight there."""
    taken_back: set[bytes] = field(default_factory=set)
    """Heads behind which a restoring record went back."""

    def offered(self, number: int, offered: Contribution) -> None:
        self.contributions[offered.index, offered.life, number] = offered
        self.offers[offered.index, offered.fragment, offered.base].append(offered)
        self.newest[offered.index, offered.life, offered.fragment] = offered

    def withdrawn(self, index: int, life: int, fragment: int) -> None:
        """A worker took back what it offered of a fragment last."""
        last = self.newest[index, life, fragment]
        assert last.under_way, "the member took back what was not under way"
        last.taken_back = True

    def ended(self, index: int, life: int, number: int, fate: Fate, reason: str) -> None:
        found = self.contributions.get((index, life, number))
        if found is None:
            raise Violation("S4", f"worker {index} was told the fate of what it never offered")
        if not found.under_way:
            raise Violation("S4", f"contribution {number} of worker {index} has two fates")
        found.fate = fate
        if fate == Fate.APPLIED:
            self._check_named(found, number, bytes.fromhex(reason))
        self._check(index, life, found.fragment, found.base)

    def counted(self, record: Record, base: bytes, lives: dict[int, int]) -> None:
        """A record was written, and counts one contribution of each of these lives."""
        for (index, life), weight in zip(lives.items(), record.weights, strict=True):
            self.counting[index, life, record.fragment, base] = record, weight
            self._check(index, life, record.fragment, base)

    def went_back(self, heads: list[bytes]) -> None:
        """A restoring record was written: what these records did is lost."""
        self.taken_back.update(heads)

    def _check_named(self, found: Contribution, number: int, head: bytes) -> None:
        key = (found.index, found.life, found.fragment, found.base)
        record, weight = self.counting.get(key, (None, 0.0))
        named = record is not None and record.hash() == head and 0.0 < weight <= found.weight
        if not named and found.index not in self.hostile:
            raise Violation(
                "S4",
                f"contribution {number} of worker {found.index} is told applied, and no record counts it",
            )

    def _check(self, index: int, life: int, fragment: int, base: bytes) -> None:
        if index in self.hostile or (index, life, fragment, base) not in self.counting:
            return
        record, weight = self.counting[index, life, fragment, base]
        group = [c for c in self.offers[index, fragment, base] if c.life == life and weight <= c.weight]
        applied = [c for c in group if c.fate == Fate.APPLIED]
        if len(applied) > 1:
            raise Violation("S4", f"two contributions of worker {index} are applied by record {record.index}")
        if applied or any(c.under_way for c in group):
            return
        superseded = any(c.fate == Fate.SUPERSEDED for c in group)
        if not (superseded and record.hash() in self.taken_back):
            told = sorted({str(c.fate or "taken back") for c in group})
            raise Violation("S4", f"record {record.index} counts worker {index}, which is told {told}")
