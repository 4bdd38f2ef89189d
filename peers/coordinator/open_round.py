"""One open round as the coordinator sees it: who is still in, who has the result, whom to drop.

Pure bookkeeping and two decisions: whether the live members agree, and who is set aside when
members cannot reach each other. Messages and time belong to the coordinator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from peers.coordinator.measured import LengthsShown, witnesses
from peers.protocol.fields import MAX_SQUARE
from transport.collectives.plan import Plan


@dataclass(slots=True)
class OpenRound:
    """A round between its opening and its commit or abort."""

    serial: int
    fragment: int
    base: bytes
    chunk_elements: int
    founders: tuple[bytes, ...]
    weights: tuple[float, ...]
    """With which founders enter the mean, at most those that they offered."""
    opened_at: float
    attempt: int = 0
    lost: set[bytes] = field(default_factory=set)
    idle: frozenset[bytes] = frozenset()
    """Members who own no chunks in this attempt."""
    proved: bool = False
    """Members sign what they send."""
    life: bytes = bytes(16)
    """Of this process; members name it in what they sign."""
    plans: dict[int, Plan] = field(default_factory=dict)
    """Attempts so far."""
    roots: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """By member: the length of the vector, and the roots under which it got the means of this attempt
    (`peers.protocol.evidence.Roots`)."""
    roots_until: float | None = None
    """Until then the roots of members that differ are waited for."""
    shown_by: set[bytes] = field(default_factory=set)
    """Who has shown something; each member may once."""
    lengths: dict[bytes, LengthsShown] = field(default_factory=dict)
    """By member: what it has shown so far of chunks that together are too long."""
    done: dict[bytes, bytes] = field(default_factory=dict)
    """Result digest by member, in this attempt."""
    stuck: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    """Who is reported by whom, in this attempt."""
    judge_at: float | None = None
    attempt_at: float = 0.0
    done_at: float = 0.0
    """When the last of those who are done said so."""
    norms: tuple[float, ...] = ()
    """Of the founders' contributions, as they claim."""
    numbers: tuple[int, ...] = ()
    """Of the founders' contributions."""
    part_limits: tuple[float, ...] = ()
    """By founder: the largest squared norm that owners may measure of its parts, all together."""
    mean_limit: float = MAX_SQUARE
    squares: dict[bytes, tuple[float, ...]] = field(default_factory=dict)
    """By owner: what it measured of each founder, in this attempt."""

    @property
    def members(self) -> tuple[bytes, ...]:
        return tuple(m for m in self.founders if m not in self.lost)

    def weight_of(self, member: bytes) -> float:
        return self.weights[self.founders.index(member)]

    def norm_of(self, member: bytes) -> float:
        """What it claims of its contribution."""
        return self.norms[self.founders.index(member)]

    def limit_of(self, author: bytes, mean: bool) -> float:
        """The largest squared norm that its parts may have together, or its means."""
        if mean or not self.part_limits:
            return self.mean_limit
        return self.part_limits[self.founders.index(author)]

    def lost_indexes(self) -> tuple[int, ...]:
        return tuple(i for i, m in enumerate(self.founders) if m in self.lost)

    def idle_indexes(self) -> tuple[int, ...]:
        return tuple(i for i, m in enumerate(self.founders) if m in self.idle)

    def next_attempt(self, now: float) -> None:
        """Begin again with whoever is left."""
        self.attempt += 1
        self.attempt_at = now
        self.done, self.stuck, self.judge_at = {}, {}, None
        self.squares = {}
        self.roots, self.roots_until = {}, None

    def agreement(self) -> bytes | None:
        """The digest that every live member holds; None while some are missing or differ."""
        members = self.members
        if not members or any(m not in self.done for m in members):
            return None
        digests = {self.done[m] for m in members}
        return digests.pop() if len(digests) == 1 else None

    def disputes(self) -> list[tuple[bytes, bytes]]:
        """Owners, and the members whose claim of a norm they dispute by what they measured. Nobody's measure
        of its own contribution counts, nor what somebody says who owns no chunks."""
        found = []
        for index, member in enumerate(self.founders if self.part_limits else ()):
            reports = {
                owner: squares[index]
                for owner, squares in self.squares.items()
                if owner not in (member, *self.lost, *self.idle) and len(squares) == len(self.founders)
            }
            if member not in self.lost:
                found += [(owner, member) for owner in witnesses(reports, self.part_limits[index])]
        return found

    def differ(self) -> bool:
        """Everyone has reported, and not the same."""
        members = self.members
        return all(m in self.done for m in members) and len({self.done[m] for m in members}) > 1

    def dissenters(self) -> list[bytes]:
        """Those whose digest is not that of more than half; nobody when there is no such digest."""
        digest, count = Counter(self.done[m] for m in self.members).most_common(1)[0]
        if 2 * count <= len(self.members):
            return []
        return [m for m in self.members if self.done[m] != digest]

    def all_have_reported(self) -> bool:
        """Several members report others, and nobody is left whose report could still come."""
        reported = {peer for peers in self.stuck.values() for peer in peers}
        return len(self.stuck) > 1 and all(m in self.stuck or m in reported for m in self.members)

    def reported_pairs(self) -> list[tuple[bytes, bytes]]:
        """Members of whom one reports the other, whichever it is; each pair once, in order."""
        members = set(self.members)
        found = {
            (min(reporter, peer), max(reporter, peer))
            for reporter, peers in self.stuck.items()
            for peer in peers
            if reporter in members and peer in members and reporter != peer
        }
        return sorted(found)

    def reports_of_idle(self) -> list[bytes]:
        """Members who own no chunks and report one that owns none either: neither needs the other."""
        return [
            member
            for member in self.members
            if member in self.idle and self.idle.intersection(self.stuck.get(member, ())) - {member}
        ]
