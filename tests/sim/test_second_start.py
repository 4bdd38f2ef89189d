"""Everybody dies at one moment, in swarms made for one case each: who is waited for, what is told again."""

from __future__ import annotations

import pytest

from diloco.checkpoints.store import folder_of
from peers.coordinator.chain import Chain
from peers.coordinator.course import Course
from peers.coordinator.roster import Entry
from peers.coordinator.state import RunState
from tests.sim.checkers import Checkers
from tests.sim.disks import SimKeeper
from tests.sim.doors import HOST, SETTINGS, key_of
from tests.sim.violation import Violation
from tests.sim.world import TIMEOUT_S, World


class Swarm:
    """Three workers with disks, under all checkers."""

    def __init__(self) -> None:
        self.world = World(3, 3, with_disks=True)
        self.checkers = Checkers(self.world)
        self.run(6.0)

    def run(self, seconds: float) -> None:
        self.world.net.run(self.world.net.now + seconds)
        self.checkers.sweep()

    def die(self) -> int:
        """All processes are killed; the index of the newest commit."""
        for index in (HOST, 0, 1, 2):
            self.world.net.crash(key_of(index))
        return self.newest

    def lose_results(self, *workers: int) -> None:
        for index in workers:
            self.world.disks[index].remove(f"{folder_of(SETTINGS[:16])}/results")

    def come(self, *workers: int) -> None:
        for index in workers:
            self.world.restart(index)

    @property
    def newest(self) -> int:
        return self.checkers.records[-1].index

    def restored(self) -> list[int]:
        """Indexes of the restoring records."""
        return [record.index for record in self.checkers.records if record.restores]


def stop_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker writes another checkpoint."""
    monkeypatch.setattr(SimKeeper, "hear", lambda self, now, event, answers: None)


def a_swarm_of_which_one_has_more(monkeypatch: pytest.MonkeyPatch) -> tuple[Swarm, int]:
    """It died, and two are back whose disks lead less far than that of the third."""
    swarm = Swarm()
    stop_writing(monkeypatch)
    swarm.run(3.0)
    last = swarm.die()
    swarm.lose_results(0, 1)
    swarm.come(HOST, 0, 1)
    return swarm, last


def test_all_go_on_at_the_newest_commit_with_one_missing() -> None:
    swarm = Swarm()
    last = swarm.die()
    swarm.come(2, HOST, 0)
    swarm.run(4 * TIMEOUT_S)
    assert swarm.newest > last
    assert swarm.restored() == []
    swarm.come(1)
    swarm.run(4 * TIMEOUT_S)
    assert {key_of(index) for index in range(3)} == set(swarm.checkers.records[-1].members)


def test_two_wait_for_the_third_whose_disk_alone_has_the_last_commits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swarm, last = a_swarm_of_which_one_has_more(monkeypatch)
    swarm.run(10 * TIMEOUT_S)
    assert (swarm.newest, swarm.restored()) == (last, [])
    swarm.come(2)
    swarm.run(5 * TIMEOUT_S)
    assert swarm.newest > last
    assert swarm.restored() == []


def test_they_wait_for_thirty_failure_timeouts_and_then_go_on_from_what_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swarm, last = a_swarm_of_which_one_has_more(monkeypatch)
    swarm.world.disks.pop(2)  # it burned
    swarm.run(28 * TIMEOUT_S)
    assert swarm.newest == last
    swarm.run(6 * TIMEOUT_S)
    assert swarm.restored() == [last + 1]
    assert swarm.newest > last + 1


def test_who_waits_for_nobody_who_has_more_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(state: RunState, course: Course, index: int) -> list[Entry]:
        return []

    monkeypatch.setattr("peers.coordinator.restoring.away_with_more", nobody)
    swarm, _ = a_swarm_of_which_one_has_more(monkeypatch)
    with pytest.raises(Violation, match="DU3"):
        swarm.run(10 * TIMEOUT_S)


def a_swarm_that_went_back(monkeypatch: pytest.MonkeyPatch) -> tuple[Swarm, int]:
    """It died, and its owner has it go on from two commits before its newest."""
    swarm = Swarm()
    stop_writing(monkeypatch)
    swarm.run(2.0)
    last = swarm.die()
    swarm.world.resume = last - 2
    swarm.come(HOST, 0, 1, 2)
    swarm.run(3 * TIMEOUT_S)
    return swarm, last


def test_a_run_goes_on_from_the_commit_that_its_owner_names(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm, last = a_swarm_that_went_back(monkeypatch)
    restoring = swarm.checkers.records[last]
    assert (restoring.restores, restoring.result) == (True, swarm.checkers.records[last - 3].hash())
    assert swarm.newest > last + 2


def dies_again(swarm: Swarm) -> int:
    """Its newest checkpoints are of before it went back; the results of what was undone are there too."""
    swarm.world.resume = None
    last = swarm.die()
    swarm.come(HOST, 0, 1, 2)
    return last


def test_what_was_undone_stands_in_nobodys_way_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm, before = a_swarm_that_went_back(monkeypatch)
    last = dies_again(swarm)
    swarm.run(3 * TIMEOUT_S)
    assert swarm.newest > last
    assert swarm.restored() == [before + 1]


class TellsEverything(Chain):
    """It tells who comes back the records of a branch that was left, too."""

    def stands(self, index: int) -> bool:
        return True


def test_records_that_were_undone_and_are_told_again_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.state.Chain", TellsEverything)
    swarm, _ = a_swarm_that_went_back(monkeypatch)
    dies_again(swarm)
    with pytest.raises(Violation, match="DU3"):
        swarm.run(10 * TIMEOUT_S)
