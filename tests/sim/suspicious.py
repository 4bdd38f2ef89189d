"""A coordinator that suspects at random: proofs, members without chunks and faults meet in honest swarms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from peers.coordinator.suspicion import Suspicion
from peers.node import Node


class SuspectsAtRandom(Suspicion):
    """Has every other round proved, takes the chunks from somebody now and then; often distrusts all."""

    def distrusted(self, members: Iterable[bytes], index: int) -> list[bytes]:
        members = list(members)
        return members if _drawn(b"distrusted", index) % 2 else super().distrusted(members, index)

    def proves(self, members: Iterable[bytes], index: int) -> bool:
        return super().proves(members, index) or _drawn(b"proved", index) % 2 == 0

    def idle(self, members: Sequence[bytes], index: int) -> frozenset[bytes]:
        idle = super().idle(members, index)
        if idle or len(members) < 3 or _drawn(b"idle", index) % 3:
            return idle
        return frozenset([members[_drawn(b"who", index) % len(members)]])


def _drawn(what: bytes, index: int) -> int:
    return hashlib.sha256(what + index.to_bytes(8, "big")).digest()[0]


class SuspiciousNode(Node):
    """Its coordinator is like that."""

    def start(self, now: float) -> None:
        if self.coordinator:
            for course in self.coordinator.state.courses.values():
                course.suspicion = SuspectsAtRandom()
        super().start(now)
