"""Workers with disks: everybody may die at any moment, and no commit is lost to which a disk leads.

Hundreds of seeds, and planted bugs that the checkers of `tests.sim.durable` must find (DU1, DU2, DU3; S2, S4
and L4 over it all). How many ran longer stands in the commands of `scripts/sim`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diloco.checkpoints.store import Saved, Store
from peers.node import Node
from peers.protocol.commands import ConfirmSaved
from tests.sim.disks import Pinned, SimKeeper
from tests.sim.faults import KINDS_OF_DISKS
from tests.sim.run import DRAW_SETTINGS_FROM, Outcome, counts_in, failures_in, outcomes_of, run_seed
from tests.sim.violation import Violation
from transport.effects import Effect, KeepResult
from transport.simnet.disk import SimDisk

NUM_SEEDS = 24
NUM_DRAWN = 12
"""Seeds that draw besides what is kept."""
FAILED_ONCE = (2, 7, 14, 142, 465, 2008, 2013, 5033, 6010)
"""Every seed that ever failed, kept for ever."""


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome | str]:
    drawn = range(DRAW_SETTINGS_FROM, DRAW_SETTINGS_FROM + NUM_DRAWN)
    return outcomes_of(sorted({*range(NUM_SEEDS), *FAILED_ONCE, *drawn}), disks=True)


@pytest.mark.timeout(900)
def test_every_seed_goes_on_from_the_newest_commit_that_disks_lead_to(
    outcomes: dict[int, Outcome | str],
) -> None:
    failures = failures_in(outcomes)
    assert not failures, failures


def test_everybody_died_often_enough_and_workers_came_back_with_what_they_had(
    outcomes: dict[int, Outcome | str],
) -> None:
    fired, seen = counts_in(outcomes)
    assert all(fired[kind] >= 30 for kind in KINDS_OF_DISKS), fired
    assert seen["resumed"] >= 300
    assert seen["restored"] >= 5, "where power failed something is lost"


def test_the_same_seed_gives_the_same_trace_twice() -> None:
    assert run_seed(5, disks=True).trace_hash == run_seed(5, disks=True).trace_hash


# -- planted bugs -----------------------------------------------------------------------------------


def rules_broken(seeds: range, make_node: Callable[..., Node] = Node) -> set[str]:
    """The rules that are violated over some seeds, until one is."""
    broken = set()
    for seed in seeds:
        try:
            run_seed(seed, make_node=make_node, disks=True)
        except Violation as violation:
            broken.add(violation.rule)
    return broken


def test_without_a_planted_bug_the_same_seeds_break_nothing() -> None:
    assert rules_broken(range(3, 9)) == set()


def test_a_folder_that_is_not_synced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimDisk, "sync_dir", lambda self, path: None)
    assert "DU1" in rules_broken(range(1, 9))


class NoSync(SimDisk):
    """Bytes that are nowhere sure."""

    def write(self, path: str, pieces: Any, *, sync: bool = True) -> None:
        super().write(path, pieces, sync=False)


def test_files_that_are_not_synced_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.world.SimDisk", NoSync)
    assert "DU1" in rules_broken(range(1, 9))


class PrunesFirst(Store):
    """It makes room before the new one is there."""

    def write(self, *args: Any, **kwargs: Any) -> Saved:
        for name in self.names():
            self.disk.remove(f"{self.folder}/{name}")
        return super().write(*args, **kwargs)


def test_a_checkpoint_that_goes_before_the_next_one_is_there_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.disks.Store", PrunesFirst)
    assert "DU1" in rules_broken(range(1, 13))


class WritesWhatIsThere(SimKeeper):
    """It names one record and writes the state of a later one."""

    def write(self, now: float, pinned: Pinned) -> ConfirmSaved:
        states = tuple(state.tobytes() for state in self._replica.states)
        return super().write(now, replace(pinned, states=states))


def test_the_head_of_one_record_with_the_state_of_the_next_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.world.SimKeeper", WritesWhatIsThere)
    assert "S1" in rules_broken(range(1, 9))


class KeepsLater(Node):
    """It says that it holds a result, and puts it on the disk at the next tick."""

    _later: tuple[Effect, ...] = ()
    _ticked = False

    def tick(self, now: float) -> None:
        super().tick(now)
        self._ticked = True

    def drain(self) -> list[Effect]:
        effects = super().drain()
        self._later += tuple(each for each in effects if isinstance(each, KeepResult))
        rest = [each for each in effects if not isinstance(each, KeepResult)]
        if self._ticked:
            rest, self._later, self._ticked = [*rest, *self._later], (), False
        return rest


def test_a_result_that_is_kept_after_it_was_said_to_be_held_is_caught() -> None:
    assert "DU3" in rules_broken(range(1, 13), KeepsLater)
