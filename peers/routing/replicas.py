"""Who trains which stage, as the coordinator tells a member, and whose membership is over.

A membership is named by the epoch in which it began. News come in the order of epochs, so a number that is
not above the newest epoch heard, and not in here, is over for good: nothing is remembered of who is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.stream import ReplicaGone, ReplicaIs


@dataclass(frozen=True, slots=True)
class Replica:
    """A membership that stands."""

    key: bytes
    since: int
    stage: int
    line: int = 0
    addresses: tuple[str, ...] = ()
    speed: float = 0.0
    drains: bool = False
    feeds: bool = True


class Replicas:
    """All memberships that stand, this member's own among them."""

    def __init__(self, stages: int) -> None:
        self.stages = stages
        self.heard = 0
        """The newest epoch of which news came."""
        self._listed: set[int] | None = None
        """Who was told of since all began to be told; None while no list is under way."""
        self._by_since: dict[int, Replica] = {}
        self._by_key: dict[bytes, Replica] = {}

    def hear(self, news: ReplicaIs) -> list[Replica]:
        """One is in, or is otherwise than before. Returns its memberships that are over by that."""
        self.heard = max(self.heard, news.epoch)
        same = (self._by_key.get(news.key), self._by_since.get(news.since))
        ended = [
            each for each in same if each is not None and (each.key, each.since) != (news.key, news.since)
        ]
        for each in ended:  # of a higher number too: a host with an older journal gives numbers again
            self._forget(each)
        replica = Replica(
            news.key,
            news.since,
            news.stage,
            news.line,
            news.addresses,
            news.speed,
            news.drains,
            news.feeds,
        )
        self._by_since[news.since] = self._by_key[news.key] = replica
        if self._listed is not None:
            self._listed.add(news.since)
        return ended

    def begin_list(self) -> None:
        """All are about to be told of."""
        self._listed = set()

    def end_list(self, epoch: int) -> list[Replica]:
        """All were told of. Returns those that are not among them, which are over."""
        listed, self._listed = self._listed, None
        gone = [] if listed is None else [each for each in self.everybody() if each.since not in listed]
        for each in gone:
            self._forget(each)
        self.heard = max(self.heard, epoch)
        return gone

    def hear_gone(self, news: ReplicaGone) -> list[Replica]:
        """Memberships of one that began before an epoch are over; returns those that stood here."""
        self.heard = max(self.heard, news.epoch)
        return self._end(news.key, news.epoch)

    def _end(self, key: bytes, before: int) -> list[Replica]:
        found = self._by_key.get(key)
        if found is None or found.since >= before:
            return []
        self._forget(found)
        return [found]

    def _forget(self, replica: Replica) -> None:
        del self._by_key[replica.key], self._by_since[replica.since]

    def standing(self, since: int) -> Replica | None:
        """The membership of that number, if it stands and is known."""
        return self._by_since.get(since)

    def of(self, key: bytes) -> Replica | None:
        """The membership of a peer that stands."""
        return self._by_key.get(key)

    def is_over(self, since: int) -> bool:
        """Whether a membership is over; one of which nothing was heard yet is not."""
        return since <= self.heard and since not in self._by_since

    def at(self, stage: int) -> list[Replica]:
        """The replicas of a stage, in the order in which they came."""
        return sorted((r for r in self._by_since.values() if r.stage == stage), key=lambda r: r.since)

    def everybody(self) -> list[Replica]:
        """All that stand, in the order in which they came."""
        return sorted(self._by_since.values(), key=lambda r: r.since)
