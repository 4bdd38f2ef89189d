"""The coordinator's chain of commit records, and which version of each fragment they lead to.

Knows records and digests, not members' fortunes. Keeps S2: one child per parent, one branch. For S4 it can
tell whether a member's last contribution is in a record, also once the record itself is no longer kept.
"""

from __future__ import annotations

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import Counted
from peers.protocol.record import GENESIS, Record


class Chain:
    """Records since the beginning by head, the last ones in full."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.head = GENESIS
        self.index = 0
        self.num_restores = 0
        self._recent: list[tuple[bytes, Record]] = []
        self._bases: dict[int, bytes] = {}
        self._common_base = GENESIS
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
        self.head = self._common_base = head

    def adopt(self, record: Record) -> None:
        """Take a later record for the newest, though those between are not known. A restoring one is to
        follow, for of most fragments it is not known which record moved them last."""
        assert record.index >= self.index
        self.head, self.index = record.hash(), record.index
        self._recent = [(self.head, record)]
        self._note_counted(record)

    def append(self, record: Record) -> bytes:
        """Write one record; its hash is the new head."""
        assert record.parent == self.head, "a record that does not follow the head"
        assert record.index == self.index + 1
        self.head, self.index = record.hash(), record.index
        if record.fragment == ALL_FRAGMENTS:
            self._bases, self._common_base = {}, self.head
            self.num_restores += 1
        else:
            self._bases[record.fragment] = self.head
        self._note_counted(record)
        self._recent.append((self.head, record))
        del self._recent[: -self._keep]
        return self.head

    def _note_counted(self, record: Record) -> None:
        counted = Counted(record.fragment, record.serial, self.head)
        for member in record.members:
            self._counted.setdefault(member, {})[record.fragment] = counted

    @property
    def num_rounds(self) -> int:
        """Commits that moved the model."""
        return self.index - self.num_restores

    def after(self, head: bytes) -> list[Record] | None:
        """The records that follow ``head``; None if it is too old or not ours."""
        if head == self.head:
            return []
        for i, (_, record) in enumerate(self._recent):
            if record.parent == head:
                return [r for _, r in self._recent[i:]]
        return None

    def index_of(self, head: bytes) -> int:
        """How far along ``head`` is; -1 if it is too old or not ours."""
        following = self.after(head)
        return -1 if following is None else self.index - len(following)
