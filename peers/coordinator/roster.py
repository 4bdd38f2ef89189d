"""Who is in: one entry per identity, and the epoch that counts every change.

Facts only; the coordinator decides. An entry stays when its member leaves, because the identity
may come back; ``entered`` says whether it is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peers.protocol.messages import Enter, Ready, Report
from peers.protocol.record import GENESIS


@dataclass(slots=True, eq=False)
class Entry:
    """One identity that was admitted."""

    key: bytes
    name: str
    order: int = 0
    """Position in the order of entering: ties go to whoever came first."""
    entered: bool = False
    active: bool = False
    """It holds the shared state, so it may contribute and be a donor."""
    needs_state: bool = False
    addresses: tuple[str, ...] = ()
    stage: int = 0
    head: bytes = GENESIS
    will_hold: bytes = b""
    """The record whose result it reported to hold."""
    holds_state: bool = False
    digests: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """By fragment: version and digest of its state, as it said."""
    ready: dict[int, Ready] = field(default_factory=dict)
    report: Report | None = None
    told_pace: float = 0.0
    """The speed of the fastest member, as this one was told."""
    told_finished: bool = False
    strikes: int = 0
    sits_out_until: int = 0
    """Index of the commit before which it is not asked again, after having been set aside."""

    def come_in(self, message: Enter, order: int) -> None:
        """A fresh membership: nothing of an earlier one counts (S14)."""
        self.name, self.addresses, self.stage = message.name, message.addresses, message.stage
        self.order, self.entered, self.active, self.needs_state = order, True, False, False
        self.head, self.holds_state, self.will_hold = message.head, message.holds_state, b""
        self.digests, self.ready, self.report, self.told_pace = {}, {}, None, 0.0
        self.told_finished = False

    def go_out(self) -> None:
        self.entered = self.active = self.needs_state = self.holds_state = False
        self.ready, self.will_hold = {}, b""


class Roster:
    """All entries by key, and the epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.entries: dict[bytes, Entry] = {}
        self._order = 0
        self._here: dict[bytes, Entry] = {}
        """Those who entered, in that order."""

    def certify(self, key: bytes, name: str) -> Entry:
        """Admit an identity; the same entry for the same key, however often it asks."""
        return self.entries.setdefault(key, Entry(key, name))

    def enter(self, entry: Entry, message: Enter) -> None:
        self._order += 1
        entry.come_in(message, self._order)
        self._here.pop(entry.key, None)
        self._here[entry.key] = entry
        self.epoch += 1

    def leave(self, entry: Entry) -> None:
        entry.go_out()
        self._here.pop(entry.key, None)
        self.epoch += 1

    def entered(self) -> list[Entry]:
        """Everyone who is here, in the order of entering."""
        return list(self._here.values())

    def active(self) -> list[Entry]:
        """Everyone who holds the shared state."""
        return [e for e in self._here.values() if e.active]
