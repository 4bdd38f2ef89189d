"""The line that says for whom a run waits, and what to do."""

from __future__ import annotations

from peers.coordinator.waiting import awaited_members, waits_for
from peers.protocol.messages import Done, Leave
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, trained
from tests.peers.coordinator.test_adoption import after, before, come_back


def line(swarm: Swarm, now: float = 0.0) -> str:
    return waits_for(swarm.core.state, now)


def test_too_few_workers_are_counted_with_what_to_do() -> None:
    said = line(Swarm())
    assert said.startswith("too few workers: 0 of ")
    assert "diloco join" in said


def test_whoever_took_part_last_and_is_away_is_named_over_restarts_too() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    for each in (1, 2, 3):
        swarm.hear(each, Leave("done"))
    assert "w1, w2, w3 took part last: start it again" in line(swarm)
    again = Swarm(journal=swarm.journal)
    again.enter(2, head=swarm.chain.head, holds_state=True)
    assert "1 of 2 (min_peers); w1, w3 took part last" in line(again)


def test_a_round_that_waits_for_nobody_any_more_is_not_spoken_of() -> None:
    swarm = trained(3)
    course = swarm.core.state.courses[0]
    course.ready_since[0] = 1.0
    assert "the next round waits for w1, w2, w3" in line(swarm)
    assert awaited_members(swarm.core.state, 0.0) == {key(1), key(2), key(3)}
    for entry in swarm.core.roster.entered():
        entry.out_of_sight = True
    assert line(swarm) == ""
    assert awaited_members(swarm.core.state, 0.0) == frozenset()


def test_a_run_whose_workers_train_waits_for_nobody() -> None:
    assert line(trained(3)) == ""


def test_a_host_behind_its_workers_says_so() -> None:
    _, record = before()
    swarm = after()
    for index in (1, 2):
        come_back(swarm, index, record)
    assert "--adopt" in line(swarm)


def test_a_state_that_nobody_holds_is_told() -> None:
    swarm, _ = before()
    assert line(swarm) == ""
    for entry in swarm.core.state.roster.entered():
        entry.holds_state = False
    assert "no worker here holds the run's state" in line(swarm)
    assert "new run" in line(swarm)


def test_an_open_round_names_whom_it_waits_for() -> None:
    swarm = trained(3)
    opened(swarm, 1, 2, 3)
    assert "w1, w2, w3" in line(swarm, 1e6)
    assert line(swarm, swarm.core.state.courses[0].round_of(opened_serial(swarm)).attempt_at) == ""  # type: ignore[union-attr]


def opened_serial(swarm: Swarm) -> int:
    return next(iter(swarm.core.state.courses[0].rounds.values())).serial


def test_a_finished_run_waits_for_nobody() -> None:
    swarm = Swarm()
    swarm.core.stop(0.0)
    assert line(swarm) == ""


def test_a_host_that_starts_after_the_end_says_how_long_it_stays_and_why() -> None:
    swarm = Swarm()
    swarm.core.stop(0.0)
    again = Swarm(journal=swarm.journal)
    assert "workers that come back within 12 s" in line(again)
    assert line(again, 12.0) == ""


def test_the_hosts_own_worker_is_not_asked_for_since_it_comes_by_itself() -> None:
    swarm = trained(1)
    swarm.enter(255)
    swarm.hold(255)
    serial = opened(swarm, 1, 255).serial
    for index in (1, 255):
        swarm.hear(index, Done(serial, 0, RESULT))
    again = Swarm(journal=swarm.journal)
    assert "0 of 2 (min_peers); w1 took part last" in line(again)
