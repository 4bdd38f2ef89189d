"""The coordinator's chain of commit records, and which version of each fragment they lead to.

Knows records and digests, not members' fortunes. Keeps S2: one child per parent, one branch. For S4 it can
tell whether a member's last contribution is in a record, also once the record itself is no longer kept. A
restoring record goes back to an earlier head: the records between do not *stand*, and whoever comes from a
head that stands is told the standing ones alone.
"""

from __future__ import annotations

from collections import deque

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import Counted
from peers.protocol.record import GENESIS, Record

_MAX_NOTED = 16 * 1024
"""Heads of which the index is remembered for ever, since somebody's disk has the state."""


class Chain:
    """Records since the beginning by head, the last ones in full."""

    def __init__(self, keep: int, buffers_fragment: int = -1) -> None:
        """Commits of ``buffers_fragment`` are no rounds."""
        self._keep = keep
        self._buffers_fragment = buffers_fragment
        self.head = GENESIS
        self.index = 0
        self.num_restores = 0
        self._num_of_buffers = 0
        self.ends_with_buffers = False
        """The newest record is of buffers: they were averaged after all that stands."""
        self._recent: deque[tuple[bytes, Record]] = deque()
        self._indexes: dict[bytes, int] = {GENESIS: 0}
        """By head: those of the records that are kept, and of the one before them."""
        self._noted: dict[bytes, int] = {}
        self._restores: list[tuple[int, int]] = []
        """Index of each restoring record, and of the head that it goes back to."""
        self._bases: dict[int, bytes] = {}
        self._common_base = GENESIS
        self._old_bases: dict[int, bytes] = {}
        """Versions as of the record before those that are kept."""
        self._old_common_base: bytes | None = GENESIS
        """None if they are not known."""
        self._counted: dict[bytes, dict[int, Counted]] = {}
        """By member and fragment."""

    def counted(self, member: bytes) -> list[Counted]:
        """Of each fragment the newest record that counts a contribution of ``member``, if there is one."""
        return list(self._counted.get(member, {}).values())

    def base(self, fragment: int) -> bytes:
        """The version of a fragment: the last record that moved it."""
        return self._bases.get(fragment, self._common_base)

    def begin(self, head: bytes) -> None:
        """Name the first state. Another one may take its place as long as nothing builds on it."""
        assert self.index == 0, "the chain has grown already"
        self.head = self._common_base = self._old_common_base = head
        self._indexes, self._noted = {head: 0}, {}

    def adopt(self, record: Record) -> None:
        """Take a later record for the newest, though those between are not known. A restoring one is to
        follow, for of most fragments it is not known which record moved them last."""
        assert record.index >= self.index
        self.head, self.index = record.hash(), record.index
        self._recent = deque([(self.head, record)])
        self._indexes = {record.parent: self.index - 1, self.head: self.index}
        self._old_bases, self._old_common_base = {}, None
        self._note_kind(record)
        self._note_counted(record)

    def append(self, record: Record) -> bytes:
        """Write one record; its hash is the new head."""
        assert record.parent == self.head, "a record that does not follow the head"
        assert record.index == self.index + 1
        if record.restores:
            self._restores.append((record.index, self.index_of(record.result)))
        self.head, self.index = record.hash(), record.index
        if record.restores:
            self._bases, self._common_base = {}, self.head
            self.num_restores += 1
        else:
            self._bases[record.fragment] = self.head
        self._note_kind(record)
        self._note_counted(record)
        self._recent.append((self.head, record))
        self._indexes[self.head] = self.index
        if len(self._recent) > self._keep:
            self._forget_oldest()
        return self.head

    def _forget_oldest(self) -> None:
        head, record = self._recent.popleft()
        del self._indexes[record.parent]
        if record.restores:
            self._old_bases, self._old_common_base = {}, head
        else:
            self._old_bases[record.fragment] = head

    def _note_kind(self, record: Record) -> None:
        self.ends_with_buffers = record.fragment == self._buffers_fragment
        self._num_of_buffers += self.ends_with_buffers

    def _note_counted(self, record: Record) -> None:
        counted = Counted(record.fragment, record.serial, self.head)
        for member in record.members:
            self._counted.setdefault(member, {})[record.fragment] = counted

    @property
    def num_rounds(self) -> int:
        """Commits that moved the model."""
        return self.index - self.num_restores - self._num_of_buffers

    # -- heads --------------------------------------------------------------------------------

    def note(self, head: bytes, index: int) -> None:
        """Somebody's disk has the state of this head: know it also when its record is kept no longer."""
        self._noted[head] = index
        if len(self._noted) > _MAX_NOTED:
            del self._noted[next(iter(self._noted))]

    def index_of(self, head: bytes) -> int:
        """How far along ``head`` is; -1 if it is too old or not ours."""
        return self._indexes.get(head, self._noted.get(head, -1))

    def record_of(self, head: bytes) -> Record | None:
        """The record of that hash, if it is still kept."""
        return next((record for at, record in self._recent if at == head), None)

    def head_at(self, index: int) -> bytes | None:
        """The head of that index, if it is known."""
        found = (head for known in (self._indexes, self._noted) for head, at in known.items() if at == index)
        return next(found, None)

    def stands(self, index: int) -> bool:
        """Whether the state of now builds on the record of that index: no restoring one has undone it."""
        upper = self.index
        for restoring, result in reversed(self._restores):
            if index > upper:
                return False
            if restoring <= upper:
                if index >= restoring:
                    return True
                upper = result
        return index <= upper

    def after(self, head: bytes) -> list[Record] | None:
        """The records to be followed from ``head``: those that stand, if it does itself. None if it is too
        old or not ours."""
        index = self._indexes.get(head)
        if index is None:
            return None
        stands = self.stands(index)
        # What follows another branch ends at the restoring record, where its holder is told so.
        return [r for _, r in self._recent if r.index > index and (not stands or self.stands(r.index))]

    def versions_at(self, head: bytes, num_fragments: int) -> tuple[bytes, ...] | None:
        """The versions of all fragments behind a head, if its record is kept."""
        if head not in self._indexes:
            return None
        bases = dict(self._old_bases)
        common = self._old_common_base
        for each, record in self._recent:
            if record.index > self._indexes[head]:
                break
            if record.fragment == ALL_FRAGMENTS:
                bases, common = {}, each
            else:
                bases[record.fragment] = each
        if common is None:
            return None
        return tuple(bases.get(fragment, common) for fragment in range(num_fragments))

    def newest_of(self, member: bytes) -> int:
        """The index of the newest standing record, of those that are kept, that counts ``member``; or -1."""
        for _, record in reversed(self._recent):
            if member in record.members and self.stands(record.index):
                return record.index
        return -1
