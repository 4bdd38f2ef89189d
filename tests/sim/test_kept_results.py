"""A disk that is full for a moment, in swarms made for that; and disks that keep what the settings say.

Whoever could not keep a result says so, and says that results lead on again only from a checkpoint that has
the missing ones in it (DU3). Seeds draw full disks and settings too; here each rule is broken once besides,
and a checker must find it (DU32).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from diloco.checkpoints.boundaries import Boundaries
from diloco.checkpoints.shelf import Shelf
from diloco.checkpoints.store import Store
from diloco.settings import Checkpoint
from peers.coordinator.journal import StateSaved
from peers.protocol.commands import ConfirmSaved
from tests.sim.checkers import Checkers
from tests.sim.disks import Pinned, SimKeeper
from tests.sim.doors import HOST, key_of
from tests.sim.run import DRAW_SETTINGS_FROM, plan
from tests.sim.violation import Violation
from tests.sim.world import World
from transport.effects import Effect, KeepResult
from transport.frames import unpack


def run_with_a_full_disk(checkpoint: Checkpoint | None = None) -> list[StateSaved]:
    """Three workers; the disk of one has no room for some results. What the journal has of that one."""
    world = World(3, 3, with_disks=True, checkpoint=checkpoint or Checkpoint())
    checkers, results = Checkers(world), list[KeepResult]()

    def fill(now: float, key: bytes, effect: Effect) -> None:
        if not isinstance(effect, KeepResult) or key != key_of(1):
            return
        results.append(effect)
        disk = world.disks[1]
        if len(results) in (5, 10, 15, 20):
            room, disk.room_bytes = disk.room_bytes, 0
            world.net.at(0.05, lambda: setattr(disk, "room_bytes", room))

    world.observers.append(fill)
    while world.net.now < 30.0:
        world.net.run(world.net.now + 0.25)
        checkers.sweep()
    entries = [unpack(entry) for entry in world.net.journal(key_of(HOST))]
    return [each for each in entries if isinstance(each, StateSaved) and each.key == key_of(1)]


def test_after_a_full_disk_results_lead_on_again_from_a_checkpoint_that_has_the_missing_ones() -> None:
    said = [each.keeps for each in run_with_a_full_disk()]
    changes = sum(later != before for before, later in pairwise(said))
    assert (said[0], said[-1]) == (True, True)
    assert changes >= 4


def test_without_results_nobody_is_told_that_any_lead_on() -> None:
    said = run_with_a_full_disk(Checkpoint(results=False))
    assert len(said) > 3
    assert not any(each.keeps for each in said)


class CountsOnThemAgain(SimKeeper):
    """What could not be kept is forgotten once a checkpoint is there, whichever."""

    def write(self, now: float, pinned: Pinned) -> ConfirmSaved | None:
        told = super().write(now, pinned)
        return told and replace(told, keeps=True)


def test_who_says_that_results_lead_on_though_some_are_missing_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.world.SimKeeper", CountsOnThemAgain)
    with pytest.raises(Violation, match=r"DU3.*results lead on from commit"):
        run_with_a_full_disk()


class KeepsAnyway(Shelf):
    """It keeps results that nobody wants."""

    def keep(self, effect: KeepResult) -> None:
        wanted, self.keeps = self.keeps, True
        super().keep(effect)
        self.keeps = wanted


class KeepsOneMore(Store):
    """It leaves one checkpoint too many."""

    def prune(self, keep: int) -> Any:
        return super().prune(keep + 1)


class WritesAtEach(Boundaries):
    """It knows nothing of the owner's wishes."""

    def __init__(self, num_fragments: int, least_s: float = 10.0, least_every: int = 1) -> None:
        super().__init__(num_fragments, least_s)


@pytest.mark.parametrize(
    ("what", "bug"), [("Shelf", KeepsAnyway), ("Store", KeepsOneMore), ("Boundaries", WritesAtEach)]
)
def test_a_disk_that_keeps_something_else_than_the_settings_say_is_caught(
    what: str, bug: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"tests.sim.disks.{what}", bug)
    wanted = Checkpoint(every=4, keep=2, results=what != "Shelf")
    with pytest.raises(Violation, match="DU32"):
        run_with_a_full_disk(wanted)


def test_seeds_draw_what_the_owner_wants_kept() -> None:
    first = DRAW_SETTINGS_FROM
    drawn = [plan(seed, disks=True)[0].checkpoint for seed in range(first, first + 25)]
    assert {each.every for each in drawn} == {1, 2, 3, 8}
    assert {each.keep for each in drawn} == {1, 2, 5}
    assert {each.results for each in drawn} == {True, False}
    assert plan(first - 1, disks=True)[0].checkpoint == Checkpoint()
