"""What members' disks have: states of which the coordinator can tell that they are the run's.

A member names what it saved by one digest, over the head and all fragments' digests. The coordinator computes
the same from how most members named those versions, as it asks them to when somebody begins to save them
(`naming`), notes the two if they are equal, and journals that, so that it knows after every restart whose
disk to wait for. With gossip each has a replica of its own, and is believed: indexes are outer steps then, at
the run's first head. A member that keeps the results of rounds may come back with more than it saved: with
all up to the last record that counts it. It is a word about the disk of whoever says it, and changes no
state. Keeps DU2 and DU3 on the coordinator's side.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from peers.coordinator.chain import Chain
from peers.coordinator.journal import StateSaved
from peers.protocol.held import state_name

_MAX_AGREED = 4096
"""Versions of fragments of which it is remembered what was agreed on."""
_MAX_NAMED = 16 * 1024
"""Heads of which it is remembered which state their holders agreed on."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state on a member's disk."""

    index: int
    head: bytes
    state: bytes
    keeps: bool

    def is_news_after(self, known: SavedState | None) -> bool:
        """Whether it is worth an entry of the journal: the index only grows, so that these are bounded by
        commits, and that results are kept no more is told once."""
        if known is None or self.index > known.index:
            return True
        return self.index == known.index and known.keeps and not self.keeps


class Saves:
    """Of one course: who saved which state, and which states those are."""

    def __init__(self) -> None:
        self.by_member: dict[bytes, SavedState] = {}
        """The newest of each that was found to be the run's."""
        self.claims: dict[bytes, SavedState] = {}
        """What members said last and nobody can check yet."""
        self._agreed: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()
        """By fragment and version: the digest that most who held it told."""
        self._checks: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()
        """The same of checks."""
        self._names: OrderedDict[bytes, bytes] = OrderedDict()
        """By head."""

    def replay(self, chain: Chain, entry: StateSaved) -> None:
        """An earlier life, or this one, found that a disk has this state."""
        self.believe(entry)
        self._names[entry.head] = entry.state
        chain.note(entry.head, entry.index)
        if len(self._names) > _MAX_NAMED:
            self._names.popitem(last=False)

    def believe(self, entry: StateSaved) -> None:
        """A member's disk has a state. With gossip nobody can tell whether it is the run's."""
        self.by_member[entry.key] = SavedState(entry.index, entry.head, entry.state, entry.keeps)

    def agree(self, fragment: int, version: bytes, digest: bytes) -> bool:
        """Most who hold this version say that this is its state; whether that is new."""
        if self._agreed.get((fragment, version)) == digest:
            return False
        self._agreed[fragment, version] = digest
        if len(self._agreed) > _MAX_AGREED:
            self._agreed.popitem(last=False)
        return True

    def agree_on_check(self, fragment: int, version: bytes, check: bytes) -> None:
        """Most who hold this version say that its state has this check."""
        self._checks[fragment, version] = check
        if len(self._checks) > _MAX_AGREED:
            self._checks.popitem(last=False)

    def agreed_check(self, fragment: int, version: bytes) -> bytes:
        """The check that was agreed on of a version, as far as it is remembered; else empty."""
        return self._checks.get((fragment, version), b"")

    def agreed(self, fragment: int, version: bytes) -> bytes | None:
        """The digest that was agreed on of a version, as far as it is remembered."""
        return self._agreed.get((fragment, version))

    def name_of(self, chain: Chain, head: bytes, num_fragments: int) -> bytes | None:
        """The name of the run's state at a head, as far as it is known: as it was noted, or as agreed on."""
        if head in self._names:
            return self._names[head]
        versions = chain.versions_at(head, num_fragments)
        if versions is None:
            return None
        digests = [self._agreed.get(each) for each in enumerate(versions)]
        known = [digest for digest in digests if digest is not None]
        if len(known) < num_fragments:
            return None
        return state_name(chain.index_of(head), head, versions, known)

    def noted(self, head: bytes) -> bytes | None:
        """The name of the state at a head that somebody's disk has."""
        return self._names.get(head)

    def reach(self, chain: Chain, member: bytes) -> int:
        """The index up to which a member's disk may lead; -1 if it is not known to have anything that the
        state of now builds on."""
        saved = self.by_member.get(member)
        if saved is None or not _stands(chain, saved):
            return -1
        return max(saved.index, chain.newest_of(member)) if saved.keeps else saved.index

    def newest(self, chain: Chain) -> tuple[int, list[bytes]]:
        """The newest index that is saved, and by whom; -1 and nobody without any."""
        standing = {m: each.index for m, each in self.by_member.items() if _stands(chain, each)}
        index = max(standing.values(), default=-1)
        return index, [member for member, at in standing.items() if at == index]


def _stands(chain: Chain, saved: SavedState) -> bool:
    return saved.head == chain.head or chain.stands(saved.index)
