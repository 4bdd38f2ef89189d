"""A worker whose keeper is told the events that it would have in a run of one."""

from __future__ import annotations

from contextlib import suppress

import torch
from torn_saves import RUN, make_replica

from diloco.checkpoints.keeper import Hooks, Keeper
from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.manifest import OwnEntry
from diloco.checkpoints.own import OwnState
from diloco.checkpoints.store import Content, Saved
from diloco.errors import StateError
from diloco.outer.replica import TensorReplica
from diloco.settings import Checkpoint
from peers.protocol.commands import Command, ConfirmApplied, ConfirmCaptured, ConfirmSaved
from peers.protocol.events import (
    BecameActive,
    RoundCommitted,
)
from peers.protocol.record import Record
from transport.digests import digest_of, tree_digest
from transport.disk import Disk
from transport.effects import KeepResult

FIRST = b"f" * 32


class Steps:
    """What is the worker's own: a count of its steps."""

    def __init__(self) -> None:
        self.taken = 0
        self.fails = False
        self.is_sound = True

    @property
    def entry(self) -> OwnEntry | None:
        return OwnEntry(step=self.taken, tokens=10 * self.taken) if self.is_sound else None

    def take(self) -> Content:
        if self.fails:
            raise StateError("a lambda cannot be kept")
        return OwnState({"steps": self}).take()

    def take_up(self, disk: Disk, saved: Saved) -> None:
        OwnState({"steps": self}).take_up(disk, saved)

    def state_dict(self) -> int:
        return self.taken

    def load_state_dict(self, state: int) -> None:
        self.taken = state


class Worker:
    """A replica, its keeper, and commits that move it."""

    def __init__(
        self,
        disk: LocalDisk,
        replica: TensorReplica | None = None,
        least_s: float = 10.0,
        wanted: Checkpoint | None = None,
        resume: int | None = None,
        me: bytes = b"",
    ) -> None:
        self.replica = replica or make_replica()
        self.own = Steps()
        self.told: list[object] = []
        self.commands: list[Command] = []
        hooks = Hooks(self.commands.append, self.told.append)
        self.keeper = Keeper(
            disk,
            RUN,
            lambda: '{"run": 1}',
            self.replica,
            hooks,
            self.own,
            wanted=wanted,
            least_s=least_s,
            me=me,
        )
        self.now = 0.0
        self.held = self.keeper.begin(resume)
        self.head = self.held.head if self.held else FIRST
        self.index = self.held.index if self.held else 0
        captured = [] if self.held else [ConfirmCaptured(0, self.replica.digest(0), self.replica.check(0))]
        self.hear(BecameActive(self.head, self.index), captured)

    def commit(self, seconds: float = 60.0, behind: int = 0) -> Record:
        """One more round that moved the replica, so many seconds later; what is written meanwhile is done."""
        self.settle()
        self.now += seconds
        self.index += 1
        record = Record(self.head, self.index, 0, 1, 100 + self.index, 4, (b"m" * 32,), (1.0,), FIRST)
        self.head = record.hash()
        self.own.taken += 4
        self.replica.outer.step(0, torch.full((self.replica.num_elements(0),), 0.1 * self.index))
        event = RoundCommitted(record, self.replica.receiver(0), None, 0, 0.0, 0.0, behind)
        self.hear(event, [ConfirmApplied(record, self.replica.check(0))])
        return record

    def hold(self, serial: int) -> None:
        """The network's thread has the result of a round, and says so once the disk has it, or was asked."""
        digests = [digest_of(bytes([serial]))]
        with suppress(OSError):
            self.keeper.shelf.keep(KeepResult(serial, tree_digest(digests), digests, [bytes([serial])]))

    def claims(self) -> list[tuple[int, bool]]:
        """What it told of its disk: the commit that is saved, and whether all later results are."""
        saved = [each for each in self.commands if isinstance(each, ConfirmSaved)]
        return [(each.held.index, each.keeps) for each in saved]

    def settle(self) -> None:
        """What is being written is written, and told."""
        if self.keeper.writer.is_busy:
            outcome = self.keeper.writer.finish()
            assert outcome is not None
            self.keeper.end_write(self.now, outcome)

    def close(self) -> None:
        self.keeper.close(self.now)

    def hear(self, event: object, answers: list[Command]) -> None:
        self.keeper.hear(self.now, event, answers)
        self.keeper.between_steps(self.now)

    def of(self, kind: type) -> list[int]:
        return [each.index for each in self.told if isinstance(each, kind)]
