"""`simulation.worker`: steps take their time, events wait for the end of a step, no second counts twice."""

from __future__ import annotations

from collections import Counter

import pytest

from diloco.simulation.pace import Peer, StepTime
from peers.protocol.commands import Offer, ReportProgress
from peers.protocol.events import PeerLeft, PeersJoined, RoundCommitted
from tests.diloco.simulation.small_swarm import EVERY, FAST, Memory, pair, swarm, trains


def heard_by(name: str, memory: Memory) -> int:
    return sum(who == name for _, who, _ in memory.events)


def test_it_joins_computes_waits_and_ends() -> None:
    engine, memory = swarm(*pair(step_time=StepTime(2.0)))
    engine.run(200.0)
    did = memory.did("a")
    assert did[:4] == ["join", "compute", "wait", "compute"]
    assert did[-1] is None
    assert engine.workers["a"].session.finished


def test_each_step_takes_its_time() -> None:
    engine, memory = swarm(*pair(step_time=StepTime(2.0)))
    engine.run(200.0)
    for name, step_s in (("a", 1.0), ("b", 2.0)):
        worker = engine.workers[name]
        steps = sum(steps for who, steps in memory.steps if who == name)
        assert steps == worker.session.steps == worker.session.tokens
        assert memory.seconds(name, "compute") == pytest.approx(steps * step_s)


def test_what_it_waited_is_what_it_was_seen_to_wait() -> None:
    engine, memory = swarm(*pair(step_time=StepTime(2.0)))
    engine.run(200.0)
    waited = engine.workers["a"].session.waited_s
    assert waited == pytest.approx(memory.seconds("a", "wait"))
    assert waited > 2 * EVERY  # of three rounds with one who is half as fast


def test_quiet_steps_are_counted_in_one_go_after_a_first_one_alone() -> None:
    engine, memory = swarm(Peer("a", FAST), min_peers=1)
    engine.run(EVERY + 2.0)
    assert memory.steps[:2] == [("a", 1), ("a", EVERY - 1)]


def test_it_offers_after_h_steps_and_takes_results_between_steps() -> None:
    engine, memory = swarm(*pair())
    engine.run(200.0)
    offers = [command for who, command in memory.commands if who == "a" and isinstance(command, Offer)]
    assert [offer.tokens for offer in offers] == [EVERY] * 3
    assert sum(isinstance(event, RoundCommitted) for _, who, event in memory.events if who == "a") == 3


def test_it_reports_every_two_seconds_at_most() -> None:
    engine, memory = swarm(Peer("a", FAST, StepTime(0.1)), min_peers=1, rounds=100, make_trainer=trains)
    engine.run(10.0)
    assert engine.workers["a"].session.steps > 80
    assert 4 <= sum(isinstance(command, ReportProgress) for _, command in memory.commands) <= 5


def test_an_event_in_the_middle_of_many_steps_is_taken_when_the_step_at_hand_ends() -> None:
    engine, memory = swarm(*pair(joins_at_s=5.3), min_peers=1, rounds=100)
    engine.run(9.0)
    assert memory.did("a")[-1] == "compute"
    began = next(now for now, activity in memory.activities["a"] if activity == "compute")
    (taken,) = (
        now
        for now, who, event in memory.events
        if who == "a" and isinstance(event, PeersJoined) and now > 5.0
    )
    assert taken == pytest.approx(began + 6.0, abs=0.01)


def test_all_commits_that_came_during_a_step_are_taken_when_it_ends() -> None:
    engine, memory = swarm(*pair(step_time=StepTime(60.0)), min_peers=1, rounds=100, grace_s=2.0)
    engine.run(130.0)
    taken = Counter(
        now for now, who, event in memory.events if who == "b" and isinstance(event, RoundCommitted)
    )
    assert len(taken) == 2, "after each of its steps"
    assert min(taken.values()) >= 4


@pytest.mark.parametrize(("after_s", "done"), [(-0.1, 0), (0.1, 1)])
def test_a_freeze_in_the_middle_of_a_step_makes_it_so_much_longer(after_s: float, done: int) -> None:
    engine, memory = swarm(*pair(step_time=StepTime(4.0)), rounds=100)
    engine.run(10.0)
    began, steps = memory.activities["b"][-1][0], engine.workers["b"].session.steps
    assert memory.did("b")[-1] == "compute"
    engine.freeze("b")
    engine.run(11.5)
    assert not engine.workers["b"].runs
    assert memory.did("b")[-1] == "frozen"
    engine.thaw("b")
    engine.run(began + 4.0 * (steps + 1) + 1.5 + after_s)
    engine.leave("b")  # so that steps that are done are counted
    assert engine.workers["b"].session.steps == steps + done
    assert memory.seconds("b", "frozen") == pytest.approx(1.5)


def test_a_crash_counts_the_steps_that_were_done() -> None:
    engine, memory = swarm(*pair(), rounds=100)
    engine.run(5.0)
    began = next(now for now, activity in memory.activities["a"] if activity == "compute")
    worker = engine.workers["a"]
    told = worker.session.steps
    engine.crash("a")
    assert worker.session.steps == int(5.0 - began) > told
    engine.run(20.0)
    assert worker.session.steps == int(5.0 - began)


def test_whoever_leaves_says_so_and_does_nothing_more() -> None:
    engine, memory = swarm(*pair(), rounds=100)
    engine.run(5.0)
    worker = engine.workers["a"]
    engine.leave("a")
    assert memory.did("a")[-1] is None
    assert not worker.runs
    engine.run(5.9)  # before its process ends
    assert worker.process.alive
    assert worker.process.key in [event.key for *_, event in memory.events if isinstance(event, PeerLeft)]
    done, heard = worker.session.steps, heard_by("a", memory)
    engine.run(30.0)
    assert (worker.session.steps, heard_by("a", memory)) == (done, heard)
    assert not worker.process.alive


def test_it_stops_after_the_steps_that_it_is_given() -> None:
    engine, memory = swarm(*pair(), num_steps=7, rounds=100)
    engine.run(100.0)
    assert [worker.session.steps for worker in engine.workers.values()] == [7, 7]
    assert memory.did("a")[-1] is None


def test_a_trainer_that_trains_takes_each_step_alone_and_its_loss_is_known() -> None:
    engine, memory = swarm(*pair(), num_steps=5, make_trainer=trains)
    engine.run(50.0)
    assert engine.workers["a"].session.loss == 96.0
    assert [steps for who, steps in memory.steps if who == "a"] == [1] * 5
