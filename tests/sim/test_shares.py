"""Workers that share their checkpoints out: everybody may die, and all have the state together again.

Seeds, one case that is made for it, and planted bugs that the checkers of `tests.sim.durable` must find: a
share that goes too early, one that is another than fell to its worker, a share that counts for the whole.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from diloco.checkpoints.store import Store, folder_of
from diloco.settings import Checkpoint
from peers.coordinator.assembling import Shared
from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, SETTINGS, key_of
from tests.sim.run import DRAW_COPIES_FROM, Outcome, counts_in, failures_in, outcomes_of, plan
from tests.sim.violation import Violation
from tests.sim.world import TIMEOUT_S, World

NUM_SEEDS = 24
FAILED_ONCE = ()
"""Every seed that ever failed, kept for ever."""


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome | str]:
    first = DRAW_COPIES_FROM
    return outcomes_of(sorted({*range(first, first + NUM_SEEDS), *FAILED_ONCE}), disks=True)


@pytest.mark.timeout(900)
def test_no_commit_is_lost_to_which_disks_lead_together(outcomes: dict[int, Outcome | str]) -> None:
    failures = failures_in(outcomes)
    assert not failures, failures


def test_workers_came_back_with_shares_often_enough(outcomes: dict[int, Outcome | str]) -> None:
    fired, seen = counts_in(outcomes)
    assert fired["all_die"] >= 12
    assert seen["shares"] >= 20


def test_seeds_draw_how_many_copies_there_are() -> None:
    first = DRAW_COPIES_FROM
    drawn = [plan(seed, disks=True)[0].checkpoint.copies for seed in range(first, first + 25)]
    assert set(drawn) == {1, 2, 3}
    assert plan(first - 1, disks=True)[0].checkpoint.copies == 0


class Swarm:
    """Four workers with disks, under all checkers, which keep so many copies of each of three fragments."""

    def __init__(self, copies: int) -> None:
        terms = Checkpoint(copies=copies, keep=1)
        self.world = World(3, 4, with_disks=True, checkpoint=terms, sizes=(64, 64, 64))
        self.checkers = Checkers(self.world)
        self.run(16.0)

    def run(self, seconds: float) -> None:
        until = self.world.net.now + seconds
        while self.world.net.now < until:
            self.world.net.run(min(until, self.world.net.now + 0.25))
            self.checkers.sweep()

    def die_and_come(self, *workers: int) -> int:
        """All are killed, and some come back; the newest commit there was."""
        for index in (HOST, 0, 1, 2, 3):
            self.world.net.crash(key_of(index))
        last = self.newest
        for index in (*workers, HOST):
            self.world.restart(index)
        return last

    @property
    def newest(self) -> int:
        return self.checkers.records[-1].index

    @property
    def restored(self) -> int:
        return sum(record.restores for record in self.checkers.records)

    def has(self, worker: int) -> list[frozenset[int]]:
        store = Store(self.world.disks[worker], folder_of(SETTINGS[:16]))
        return [saved.manifest.here for saved in store.newest()]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_nobody_has_the_state_and_all_together_go_on_from_it(copies: int) -> None:
    swarm = Swarm(copies)
    assert all(len(here) < 3 for worker in range(4) for here in swarm.has(worker)[:1]) or copies == 3
    last = swarm.die_and_come(0, 1, 2, 3)
    swarm.run(6 * TIMEOUT_S)
    assert swarm.newest > last + 3
    assert swarm.restored == 0
    assert {key_of(index) for index in range(4)} == set(swarm.checkers.records[-1].members)


def test_with_two_copies_one_disk_may_be_away() -> None:
    swarm = Swarm(copies=2)
    last = swarm.die_and_come(0, 1, 3)
    swarm.run(6 * TIMEOUT_S)
    assert swarm.newest > last
    assert swarm.restored == 0


def test_where_a_fragment_is_away_its_disk_is_waited_for() -> None:
    swarm = Swarm(copies=1)
    coordinator = swarm.world.host.coordinator
    assert coordinator is not None
    course = coordinator.state.courses[0]
    covered = course.saves.covered(course.chain)
    assert covered is not None
    holder = next(key for key, here in course.saves.shares(covered.head, 3).items() if here)
    away = swarm.world.peer_names[holder]
    last = swarm.die_and_come(*(index for index in range(4) if index != away))
    swarm.run(20 * TIMEOUT_S)
    assert (swarm.newest, swarm.restored) == (last, 0)
    swarm.world.restart(away)
    swarm.run(6 * TIMEOUT_S)
    assert swarm.newest > last
    assert swarm.restored == 0


# -- planted bugs -----------------------------------------------------------------------------------


def broken(copies: int = 1) -> str:
    """The rule that is violated while all die and come back twice."""
    try:
        swarm = Swarm(copies)
        for _ in range(2):
            swarm.die_and_come(0, 1, 2, 3)
            swarm.run(8 * TIMEOUT_S)
    except Violation as violation:
        return violation.rule
    return ""


def test_without_a_planted_bug_nothing_is_broken() -> None:
    assert broken() == ""


class PrunesAtOnce(Store):
    """It parts with older shares once its own newer one is there."""

    def prune_shares(self, keep: int, covered: int) -> Any:
        return self.prune(keep)


def test_a_share_that_goes_before_the_next_state_is_covered_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.sim.disks.Store", PrunesAtOnce)
    assert broken() == "DU3"


def test_a_share_that_counts_for_the_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(head: bytes, fragment: int, members: Collection[bytes], copies: int) -> Any:
        return ()

    monkeypatch.setattr("peers.coordinator.sharing.holders", nobody)
    assert broken() == "DU3"


def test_other_fragments_than_fell_to_a_worker_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(head: bytes, member: bytes, members: Collection[bytes], copies: int, count: int) -> Any:
        return frozenset({0})

    monkeypatch.setattr("tests.sim.disks.share_of", first)
    assert broken() == "DU32"


def test_who_puts_nothing_together_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(course: Course, entered: list[Entry]) -> Shared | None:
        return None

    monkeypatch.setattr("peers.coordinator.assembling.newest_whole", nothing)
    swarm = Swarm(copies=1)
    last = swarm.die_and_come(0, 1, 2, 3)
    swarm.run(20 * TIMEOUT_S)
    assert swarm.newest == last, "it stands still"
