"""What members' disks have: states of which the coordinator can tell that they are the run's.

A member names what it saved by one digest, over the head and all fragments' digests. The coordinator computes
the same from how most members named those versions, as it asks them to when somebody begins to save them
(`naming`), notes the two if they are equal, and journals that, so that it knows after every restart whose
disk to wait for. With gossip each has a replica of its own, and is believed: indexes are outer steps then, at
the run's first head. A member that keeps the results of rounds may come back with more than it saved: with
all up to the last record that counts it. A disk may have but a share of a state: then the state counts once
others have the rest, and it is *covered*. It is a word about the disk of whoever says it, and changes no
state. Keeps DU2 and DU3 on the coordinator's side.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from peers.coordinator.chain import Chain
from peers.coordinator.journal import StateCovered, StateSaved
from peers.protocol.held import state_name
from peers.protocol.shares import ALL, unpack_fragments

_MAX_AGREED = 4096
"""Versions of fragments of which it is remembered what was agreed on."""
_MAX_SHARED, _MAX_COVERED = 8, 16
"""States of which it is remembered who has which share: those that are covered, and others."""
_MAX_NAMED = 16 * 1024
"""Heads of which it is remembered which state their holders agreed on."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state on a member's disk."""

    index: int
    head: bytes
    state: bytes
    keeps: bool
    fragments: bytes = ALL
    """Those on the disk, as `peers.protocol.shares.pack_fragments` gives them."""

    def is_news_after(self, known: SavedState | None) -> bool:
        """Whether it is worth an entry of the journal: the index only grows, so that these are bounded by
        commits, and that results are kept no more is told once."""
        if known is None or self.index > known.index:
            return True
        if self.index == known.index and ALL == self.fragments != known.fragments:
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
        self._covered: deque[StateCovered] = deque(maxlen=_MAX_COVERED)
        """States of which all fragments are on disks, where members share them out; the newest last."""
        self._shares: OrderedDict[bytes, dict[bytes, bytes]] = OrderedDict()
        """By head of a state: what each member has of it."""

    def replay(self, chain: Chain, entry: StateSaved) -> None:
        """An earlier life, or this one, found that a disk has this state."""
        self.believe(entry)
        self._names[entry.head] = entry.state
        chain.note(entry.head, entry.index)
        if len(self._names) > _MAX_NAMED:
            self._names.popitem(last=False)

    def believe(self, entry: StateSaved) -> None:
        """A member's disk has a state. With gossip nobody can tell whether it is the run's."""
        found = SavedState(entry.index, entry.head, entry.state, entry.keeps, entry.fragments)
        self.by_member[entry.key] = found
        self._shares.setdefault(entry.head, {})[entry.key] = entry.fragments
        covered = {each.head for each in self._covered}
        for head in [head for head in self._shares if head not in covered][:-_MAX_SHARED]:
            del self._shares[head]

    def shares(self, head: bytes, num_fragments: int) -> dict[bytes, frozenset[int]]:
        """By member, the fragments of the state at a head that its disk is known to have had."""
        return {
            key: unpack_fragments(bits, num_fragments) for key, bits in self._shares.get(head, {}).items()
        }

    def cover(self, entry: StateCovered) -> None:
        """All fragments of a state are on disks."""
        if len(self._covered) == _MAX_COVERED:
            self._shares.pop(self._covered[0].head, None)
        self._covered.append(entry)

    def covered(self, chain: Chain) -> StateCovered | None:
        """The newest state of which all fragments are on disks and on which the state of now builds; None if
        there is none, or no states are shared out."""
        return next((each for each in reversed(self._covered) if chain.stands(each.index)), None)

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
        index = saved.index if saved.fragments == ALL else self.covered_index(chain)
        return max(index, chain.newest_of(member)) if saved.keeps and index >= 0 else index

    def covered_index(self, chain: Chain) -> int:
        """Its index; -1 without one."""
        found = self.covered(chain)
        return found.index if found is not None else -1

    def newest(self, chain: Chain) -> tuple[int, list[bytes]]:
        """The newest index that is saved, and by whom; -1 and nobody without any."""
        whole = {m: each for m, each in self.by_member.items() if each.fragments == ALL}
        standing = {m: each.index for m, each in whole.items() if _stands(chain, each)}
        index, covered = max(standing.values(), default=-1), self.covered(chain)
        if covered is not None and covered.index > index:
            return covered.index, list(self._shares.get(covered.head, ()))
        return index, [member for member, at in standing.items() if at == index]


def _stands(chain: Chain, saved: SavedState) -> bool:
    return saved.head == chain.head or chain.stands(saved.index)
