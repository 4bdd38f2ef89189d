"""A model in stages under one host: many seeds, planted bugs of PP9 and PP10, and what the design tells.

Stages are apart: what dies in one stalls no other, each has a chain of its own, a restarted host knows them
all, and one whose last replica is gone waits, says so, and goes on when that comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from peers.coordinator import restoring
from peers.coordinator.assignment import Assignment
from peers.coordinator.course import Course
from peers.coordinator.outlet import Outlet
from peers.coordinator.roster import Entry, Roster
from peers.coordinator.rounds_mode import RoundsMode
from peers.coordinator.rules import Rules
from peers.coordinator.state import RunState
from peers.coordinator.status import StageStatus
from peers.member.membership import Membership
from peers.protocol.messages import Enter, MemberIs
from peers.protocol.placing import AskStage
from peers.protocol.profile import Profile
from peers.protocol.record import Record
from tests.sim.doors import HOST, key_of
from tests.sim.faults import Fault
from tests.sim.run import Outcome, counts_in, failures_in, outcomes_of, run_seed
from tests.sim.stages import StageCheckers
from tests.sim.violation import Violation
from tests.sim.world import TIMEOUT_S, World
from transport.limits import Limits

NUM_SEEDS = 30
NUM_WITH_DISKS = 12


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome | str]:
    return outcomes_of(list(range(NUM_SEEDS)), stages=True)


@pytest.mark.timeout(900)
def test_every_seed_keeps_stages_apart_and_each_of_them_converges(outcomes: dict[int, Outcome | str]) -> None:
    failures = failures_in(outcomes)
    assert not failures, failures


@pytest.mark.timeout(900)
def test_every_stage_goes_on_from_its_own_disks_when_everybody_died() -> None:
    outcomes = outcomes_of(list(range(NUM_WITH_DISKS)), disks=True, stages=True)
    failures = failures_in(outcomes)
    assert not failures, failures
    fired, seen = counts_in(outcomes)
    assert fired["all_die"] >= 10
    assert seen["resumed"] >= 100


def test_stages_are_given_and_faults_strike_while_they_are(outcomes: dict[int, Outcome | str]) -> None:
    fired, seen = counts_in(outcomes)
    assert seen["stage_given"] >= 4 * NUM_SEEDS
    assert fired["join"] >= 20
    assert fired["host_crash"] + fired["host_crash_between_effects"] >= 20
    assert seen["stage_waits"] >= 1, "a stage that is given too few workers"


def test_the_same_seed_gives_the_same_trace_twice() -> None:
    assert run_seed(4, stages=True).trace_hash == run_seed(4, stages=True).trace_hash


# -- stories of the design --------------------------------------------------------------------------


class Story:
    """Two workers for each of two stages, which need both, and nothing that happens by itself."""

    def __init__(self, seed: int = 1, num_workers: int = 4, **settings: Any) -> None:
        self.world = World(seed, num_workers, **{"stages": 2, "min_peers": 2, **settings})
        self.checkers = StageCheckers(self.world)

    def run(self, until_s: float) -> None:
        self.world.net.run(until_s)
        self.checkers.sweep()

    @property
    def counts(self) -> list[int]:
        """Commits by stage."""
        return [len(each.records) for each in self.checkers.courses]

    def workers_of(self, stage: int) -> list[int]:
        return [index for index, given in self.world.stage_of.items() if given == stage]

    def status(self, stage: int) -> StageStatus:
        coordinator = self.world.host.coordinator
        assert coordinator is not None
        return coordinator.status(self.world.net.now).stages[stage]

    def end(self) -> None:
        self.checkers.sweep()
        self.checkers.check_end()


def test_a_death_in_one_stage_does_not_stall_the_other() -> None:
    story = Story()
    story.run(8.0)
    assert min(story.counts) >= 2
    (dead, _) = story.workers_of(1)
    story.world.crash(dead)
    story.run(8.0 + 2 * TIMEOUT_S)
    before = story.counts
    story.run(40.0)
    after = story.counts
    assert after[1] <= before[1] + 1, "one worker alone commits nothing there"
    assert after[0] >= before[0] + 20
    assert "too few workers: 1 of 2" in story.status(1).waits
    assert not story.status(0).waits
    story.world.restart(dead)
    story.run(60.0)
    assert story.counts[1] > after[1]
    story.end()


def test_a_stage_whose_last_replica_is_gone_waits_and_goes_on_from_its_disk_when_it_is_back() -> None:
    story = Story(with_disks=True)
    story.run(15.0)
    both = story.workers_of(1)
    for each in both:
        story.world.crash(each)
    story.run(15.0 + 2 * TIMEOUT_S)
    before = story.counts
    story.run(30.0)
    story.world.start_worker(9)  # it is given the empty stage, and has nothing to give it
    story.run(45.0)
    assert story.world.stage_of[9] == 1
    assert story.counts[1] == before[1]
    assert story.counts[0] > before[0] + 10
    waits = story.status(1).waits
    assert waits, "it says so"
    assert "w" in waits
    for each in both:
        story.world.restart(each)
    story.run(70.0)
    assert [story.world.stage_of[each] for each in both] == [1, 1]
    assert story.counts[1] > before[1] + 10
    assert not story.world.seen["restored"], "nothing of it is lost"
    story.end()


def test_a_host_that_is_back_knows_every_stage_and_its_commits() -> None:
    story = Story(num_workers=6, stages=3)
    story.run(10.0)
    story.world.crash(HOST)
    story.run(12.0)
    before = story.counts
    story.world.restart(HOST)
    coordinator = story.world.host.coordinator
    assert coordinator is not None
    assert [course.chain.index for course in coordinator.state.courses.values()] == before
    story.run(30.0)
    assert all(now > then + 5 for now, then in zip(story.counts, before, strict=True))
    assert [len(story.workers_of(stage)) for stage in range(3)] == [2, 2, 2]
    story.end()


def test_ten_who_come_at_once_are_spread_over_the_stages() -> None:
    story = Story(num_workers=0)
    for index in range(10):
        story.world.start_worker(index)
    story.run(10.0)
    assert sorted(len(story.workers_of(stage)) for stage in range(2)) == [5, 5]
    assert min(story.counts) >= 2
    story.end()


def test_a_joiner_goes_where_somebody_is_missing() -> None:
    story = Story(num_workers=6)
    story.run(8.0)
    gone = story.workers_of(1)[0]
    story.world.crash(gone)
    story.run(8.0 + 3 * TIMEOUT_S)
    story.world.start_worker(7)
    story.run(20.0)
    assert story.world.stage_of[7] == 1
    story.end()


def test_commits_of_stages_need_not_be_simultaneous_and_the_run_ends_when_each_has_its_rounds() -> None:
    story = Story(rounds=30)
    story.run(6.0)
    for each in story.workers_of(1):
        story.world.net.freeze(key_of(each))
    story.run(40.0)
    first, second = story.counts
    assert first >= 30 > second, "the first has its rounds, and goes on"
    coordinator = story.world.host.coordinator
    assert coordinator is not None
    assert not coordinator.finished
    for each in story.workers_of(1):
        story.world.net.thaw(key_of(each))
    story.run(100.0)
    assert story.counts[1] >= 30
    assert coordinator.over(story.world.net.now)
    assert all(worker.session.finished for worker in story.world.workers.values())


# -- planted bugs -----------------------------------------------------------------------------------


def rules_broken(seeds: range, disks: bool = False, faults: list[Fault] | None = None) -> set[str]:
    broken = set()
    for seed in seeds:
        try:
            run_seed(seed, faults, disks=disks, stages=True)
        except Violation as violation:
            broken.add(violation.rule)
    return broken


@pytest.mark.timeout(300)
def test_without_a_planted_bug_the_same_seeds_break_nothing() -> None:
    assert rules_broken(range(1, 4)) == rules_broken(range(5, 8), disks=True) == set()


class TakesAnyone(Membership):
    """A member that takes whoever it is told of for one of its own stage."""

    def __init__(self, *about: Any, stage: int = 0, **more: Any) -> None:
        super().__init__(*about, stage=0, **more)

    def welcome(self, members: Sequence[MemberIs]) -> None:
        super().welcome([replace(each, stage=0) for each in members])


@pytest.fixture
def _members_believe(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the second line of defence, and take everything for their own stage's."""
    monkeypatch.setattr(Profile, "check", lambda self, message: None)
    monkeypatch.setattr("peers.member.member.Membership", TakesAnyone)


class OneForAll(Roster):
    """Whatever stage a member trains, it is taken into the first one's course."""

    def enter(self, now: float, entry: Entry, message: Enter, course: int) -> None:
        super().enter(now, entry, message, 0)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_members_believe")
def test_a_member_that_is_taken_into_another_stages_course_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.coordinator.Roster", OneForAll)
    assert "PP9" in rules_broken(range(1, 5), faults=[])


class TellsEverybody(RoundsMode):
    """All members are told of each newcomer, whatever its stage."""

    def __init__(self, rules: Rules, limits: Limits, outlet: Outlet, roster: Roster) -> None:
        super().__init__(rules, limits, outlet, roster)
        self.tell, self.roster = outlet.send, roster

    def tell_entered(self, now: float, entry: Entry) -> None:
        for other in self.roster.entered():
            if other is not entry:
                self.tell(now, other.key, self.roster.member_is(entry))
                self.tell(now, entry.key, self.roster.member_is(other))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_members_believe")
def test_members_of_different_stages_that_talk_to_each_other_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.coordinator.coordinator.RoundsMode", TellsEverybody)
    assert "PP9" in rules_broken(range(1, 3), faults=[])


class OneChain(RunState):
    """A commit of any stage is written to the first one's chain."""

    def commit(self, now: float, course: Course, record: Record) -> bytes:
        first = self.courses[0]
        here = replace(record, parent=first.chain.head, index=first.chain.index + 1, course=0)
        return super().commit(now, first, here)


@pytest.mark.timeout(300)
def test_a_course_that_takes_another_stages_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.coordinator.RunState", OneChain)
    assert "PP9" in rules_broken(range(1, 3), faults=[])


class ForgetsWhoWasWhere(Assignment):
    """Whoever comes back is told the poorest stage, like somebody new."""

    def ask(self, now: float, entry: Entry, message: AskStage) -> None:
        entry.keeps_stage, entry.given_stage, entry.num_reserved = False, None, 0
        super().ask(now, entry, message)


@pytest.mark.timeout(300)
def test_one_that_comes_back_and_is_told_another_stage_than_it_has_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.coordinator.coordinator.Assignment", ForgetsWhoWasWhere)
    assert {"PP9", "PP10"} & rules_broken(range(1, 4), disks=True)
    story = Story(num_workers=3, with_disks=True, min_peers=1)
    story.run(15.0)
    (alone,) = story.workers_of(1)
    story.world.crash(alone)
    story.run(30.0)
    for newcomer in (8, 9):  # both are given the empty stage, which is then as rich as the other one
        story.world.start_worker(newcomer)
    story.run(40.0)
    story.world.restart(alone)
    with pytest.raises(Violation, match=f"PP10: worker {alone} is told another stage, and stage 1 has no"):
        story.run(60.0)


def oldest(course: Course, entered: list[Entry]) -> Entry | None:
    """The member that holds the oldest state from which the stage could go on."""
    known = [each for each in entered if each.holds_state and course.chain.index_of(each.head) >= 0]
    return min(known, key=lambda each: course.chain.index_of(each.head), default=None)


@pytest.mark.timeout(300)
def test_a_stage_that_goes_back_behind_what_somebody_holds_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "furthest", oldest)
    assert "PP10" in rules_broken(range(5, 8), disks=True)
