"""Which version of the shared state this member holds: one head, and one version per fragment.

It only remembers. Who applies records, and when, is `peers.member.follower`'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peers.protocol.held import Held
from peers.protocol.messages import CatchUp, NewestRecord
from peers.protocol.record import GENESIS, Record, record_in
from transport.frames import pack


@dataclass(slots=True)
class Versions:
    """The head, and the versions of the fragments that lie behind it."""

    head: bytes = GENESIS
    index: int = 0
    """The index of the head's record."""
    holds_state: bool = False
    """Whether this member holds every fragment, each in the version that the head asks for."""
    steps: int | None = None
    """Gossip: outer steps of a replica that came from the disk, until it moves."""
    _record: Record | None = None
    """The head's record; None where the state behind it was fetched."""
    _common_base: bytes = GENESIS
    _bases: dict[int, bytes] = field(default_factory=dict)

    def base(self, fragment: int) -> bytes:
        """The version of a fragment that we hold."""
        return self._bases.get(fragment, self._common_base)

    def begin_at(self, head: bytes) -> None:
        """Our own state is the run's first, under this name."""
        self.head, self.index, self.steps = head, 0, None
        self._common_base = head
        self._bases = {}
        self.holds_state = True

    def begin_with(self, held: Held) -> None:
        """A checkpoint's state is loaded. Raises `BadFrame` for one whose record is none."""
        record = record_in(held.record) if held.record else None
        self.head, self.index, self.steps, self._record = held.head, held.index, held.steps, record
        self._bases = dict(enumerate(held.versions))
        self.holds_state = True

    def move(self, record: Record) -> None:
        """A record was applied, or adopted."""
        self.head, self.index, self._record = record.hash(), record.index, record
        if record.restores:
            self._common_base, self._bases = self.head, {}
        else:
            self._bases[record.fragment] = self.head

    def step_behind(self, record: Record) -> None:
        """What is held was undone by that record: however far it is, it is older than the run's state."""
        self.index = min(self.index, record.index)

    def set_base(self, fragment: int, version: bytes) -> None:
        """One fragment of another state was loaded."""
        self._bases[fragment] = version

    def arrive(self, order: CatchUp) -> None:
        """The whole state that was ordered is here."""
        self.head, self.index, self.holds_state = order.head, order.index, True
        self._record = self.steps = None

    def newest(self) -> NewestRecord | None:
        """What the coordinator is told before this member enters; None where that is nothing."""
        if not self.holds_state or not (self.index or self.steps is not None):
            return None
        packed = pack(self._record) if self._record is not None else b""
        return NewestRecord(self.head, self.index if self.steps is None else self.steps, packed)
