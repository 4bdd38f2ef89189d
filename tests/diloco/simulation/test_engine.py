"""`simulation.engine`: when lives of peers and of the host begin and end, and that each has one at a time."""

from __future__ import annotations

import math

from diloco.simulation.identities import HOST, key_of
from diloco.simulation.pace import Peer
from tests.diloco.simulation.small_swarm import FAST, pair, swarm


def test_peers_come_when_each_joins_and_some_never() -> None:
    engine, _ = swarm(*pair(joins_at_s=5.0), Peer("never", FAST, joins_at_s=math.inf))
    engine.run(4.0)
    assert set(engine.workers) == {"a"}
    engine.run(6.0)
    assert set(engine.workers) == {"a", "b"}


def test_a_run_ends_once_all_workers_are_finished() -> None:
    engine, _ = swarm(*pair())
    engine.run(1.0)
    assert engine.run(100.0, lambda: all(worker.session.finished for worker in engine.workers.values()))
    assert [worker.session.round for worker in engine.workers.values()] == [3, 3]


def test_a_peer_that_crashed_begins_a_second_life_and_counts_anew() -> None:
    engine, memory = swarm(*pair(), rounds=100)
    engine.run(25.5)
    first = engine.workers["b"]
    engine.crash("b")
    assert not first.runs
    assert memory.did("b")[-1] == "down"
    engine.start("b")
    engine.run(60.0)
    second = engine.workers["b"]
    assert (first.life, second.life) == (1, 2)
    assert 0 < second.session.steps < 40
    assert second.session.active


def test_who_runs_is_not_started_a_second_time() -> None:
    engine, _ = swarm(*pair())
    engine.run(5.0)
    running = engine.workers["a"]
    engine.start("a")
    engine.run(10.0)
    assert engine.workers["a"] is running


def test_who_crashed_while_it_knocked_does_not_enter() -> None:
    engine, _ = swarm(*pair(joins_at_s=math.inf))
    engine.run(1.0)
    engine.start("b")
    engine.crash("b")
    engine.run(20.0)
    assert "b" not in engine.workers


def test_a_host_that_comes_back_goes_on_from_its_journal() -> None:
    engine, _ = swarm(*pair(), rounds=100)
    engine.run(25.0)
    before, host = engine.workers["a"].session.round, engine.host
    assert before > 0
    engine.crash(HOST)
    assert not engine.net.can_run(key_of(HOST))
    engine.run(30.0)
    engine.start_host()
    engine.run(80.0)
    assert engine.host is not host
    assert engine.workers["a"].session.round > before + 1


def test_whoever_leaves_or_freezes_at_a_time_when_it_does_not_run_is_left_alone() -> None:
    engine, memory = swarm(*pair(joins_at_s=math.inf), min_peers=1, rounds=100)
    for do in (engine.crash, engine.freeze, engine.thaw, engine.leave):
        do("b")
    engine.run(5.0)
    assert "b" not in memory.activities
    engine.thaw("a")
    engine.run(25.0)
    assert engine.workers["a"].session.steps >= 20


def test_a_frozen_host_stands_still_until_it_thaws() -> None:
    engine, _ = swarm(*pair(), rounds=100)
    engine.run(15.0)
    before = engine.workers["a"].session.round
    engine.freeze(HOST)
    engine.run(30.0)
    assert engine.workers["a"].session.round == before
    engine.thaw(HOST)
    engine.run(60.0)
    assert engine.workers["a"].session.round > before


def test_keys_have_names() -> None:
    engine, _ = swarm(*pair())
    assert [engine.name_of(key_of(name)) for name in ("a", "b", HOST)] == ["a", "b", HOST]
    assert engine.name_of(bytes(32)) == "?"
