"""Which state a worker holds, as its training thread knows it: pure, from events and the answers to them.

Kept beside the member's own book (`peers.member.versions`) since that is on another thread, and may be one
record further: what is pinned for a checkpoint is named by what the training thread has applied.
"""

from __future__ import annotations

from peers.protocol.commands import (
    Command,
    ConfirmApplied,
    ConfirmCaptured,
    ConfirmLoaded,
    ConfirmMoved,
)
from peers.protocol.events import BecameActive, Restored
from peers.protocol.held import Held
from peers.protocol.record import Record
from transport.frames import pack


class Position:
    """Follows one worker of ``num_fragments`` fragments, which began with ``held``."""

    def __init__(self, num_fragments: int, held: Held | None = None) -> None:
        self._every = range(num_fragments)
        self._head, self._index, self._record = b"", 0, b""
        self._versions: dict[int, bytes] = {}
        self._checks: dict[int, bytes] = {}
        self._serials = dict.fromkeys(self._every, 0)
        self._whole = False
        """All fragments are of one head."""
        if held is not None:
            self._head, self._index, self._record = held.head, held.index, held.record
            self._versions = dict(enumerate(held.versions))
            self._checks = dict(enumerate(held.checks))
            self._whole = True

    @property
    def held(self) -> Held | None:
        """What is held now, whose digests are yet to be found; None while that is nothing whole."""
        if not self._whole:
            return None
        return Held(
            self._head,
            self._index,
            tuple(self._versions[f] for f in self._every),
            (),
            self._record,
            tuple(self._checks[f] for f in self._every),
        )

    @property
    def serials(self) -> tuple[int, ...]:
        """By fragment, the serial of the record that moved it last; 0 where it is not known."""
        return tuple(self._serials[f] for f in self._every)

    def begin_after(self, serials: tuple[int, ...]) -> None:
        """What was held at the beginning came by records with these serials."""
        self._serials = dict(enumerate(serials))

    def answer(self, command: Command) -> None:
        """A command that the worker gave in answer to an event, before the next event."""
        match command:
            case ConfirmApplied():
                self._move(command.record)
                self._checks[command.record.fragment] = command.check
            case ConfirmMoved():
                self._checks[command.fragment] = command.check
            case ConfirmLoaded():
                self._whole = False  # until all are loaded, which `BecameActive` says
                self._versions[command.fragment] = command.version
                self._checks[command.fragment] = command.check
                self._serials[command.fragment] = 0
            case ConfirmCaptured():
                self._whole = False
                self._versions.pop(command.fragment, None)
                self._checks[command.fragment] = command.check

    def event(self, event: object) -> None:
        """An event of the member, once the worker has answered it."""
        match event:
            case BecameActive():
                self._arrive(event)
            case Restored():
                self._move(event.record)

    def _arrive(self, event: BecameActive) -> None:
        if event.head != self._head:
            self._head, self._index, self._record = event.head, event.index, b""
        for fragment in self._every:
            # A first state that was captured here has its head for a name, and only that.
            self._versions.setdefault(fragment, event.head)
        self._whole = all(fragment in self._checks for fragment in self._every)

    def _move(self, record: Record) -> None:
        self._head, self._index, self._record = record.hash(), record.index, pack(record)
        moved = self._every if record.restores else (record.fragment,)
        for fragment in moved:
            self._versions[fragment], self._serials[fragment] = self._head, record.serial
