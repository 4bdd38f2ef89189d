"""Two live processes with one identity: the newer trains on, the older is told and disturbs nobody (S13)."""

from __future__ import annotations

import pytest

from tests.sim.checkers import Checkers
from tests.sim.doors import HOST, key_of
from tests.sim.world import TIMEOUT_S, World
from transport.effects import CONTROL_LANE
from transport.frames import pack_items, to_items
from transport.link.messages import Stale

CLONED = 1


def swarm(num_workers: int = 3) -> tuple[World, Checkers]:
    """Workers that have trained together for a while."""
    world = World(77, num_workers)
    checkers = Checkers(world)
    run(world, checkers, 8.0)
    return world, checkers


def run(world: World, checkers: Checkers, seconds: float) -> None:
    until = world.net.now + seconds
    while world.net.now < until:
        world.net.run(min(until, world.net.now + 1.0))
        checkers.sweep()


def lives_in(checkers: Checkers, since: int) -> list[int]:
    """Which lives of the cloned worker the later records count."""
    lives = [checkers.counted[record.hash()].get(CLONED) for record in checkers.records[since:]]
    return [life for life in lives if life is not None]


def test_of_two_running_clones_the_older_is_told_and_the_newer_trains_on_undisturbed() -> None:
    world, checkers = swarm()
    older = world.workers[CLONED]
    assert set(lives_in(checkers, 0)) == {1}
    world.start_worker(CLONED)
    run(world, checkers, 10.0)
    assert older.process.alive
    assert older.loop.superseded
    assert not world.workers[CLONED].loop.superseded
    breaks = world.net.num_breaks
    run(world, checkers, 10.0)
    assert world.net.num_breaks == breaks, "they take each other's connections"
    assert lives_in(checkers, 0)[-3:] == [2, 2, 2]
    checkers.check_clones()
    checkers.check_ledger()


def test_an_older_process_that_wakes_up_is_told_and_contributes_nothing() -> None:
    world, checkers = swarm()
    older = world.workers[CLONED]
    world.net.freeze(older.process)
    world.start_worker(CLONED)
    run(world, checkers, 10.0)
    since = len(checkers.records)
    world.net.thaw(older.process)
    run(world, checkers, 10.0)
    assert older.loop.superseded
    assert set(lives_in(checkers, since)) == {2}


def test_an_older_process_does_not_come_back_while_the_newer_one_is_away() -> None:
    world, checkers = swarm()
    older = world.workers[CLONED]
    world.net.freeze(older.process)
    world.start_worker(CLONED)
    run(world, checkers, 10.0)
    world.net.cut(world.workers[CLONED].process, key_of(HOST))
    run(world, checkers, 2 * TIMEOUT_S)
    since = len(checkers.records)
    world.net.thaw(older.process)
    run(world, checkers, 10.0)
    assert older.loop.superseded
    assert lives_in(checkers, since) == []
    world.net.heal()
    run(world, checkers, 10.0)
    assert lives_in(checkers, since)[-1] == 2


def test_a_process_that_was_told_to_stop_hears_and_says_nothing_more() -> None:
    world, checkers = swarm()
    older = world.workers[CLONED]
    world.start_worker(CLONED)
    run(world, checkers, 5.0)
    assert older.node.links.by_peer == {}
    assert older.node.admits(key_of(0)) is None
    world.net.command(older.process, lambda core, now: core.tick(now))
    assert older.node.drain() == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_whoever_began_anew_elsewhere_while_the_host_was_away_is_looked_for_there(index: int) -> None:
    world, checkers = swarm()
    world.net.freeze(world.workers[index].process)
    world.crash(HOST)
    older = world.workers[index].process
    run(world, checkers, 1.0)
    world.restart(HOST)
    world.net.cut(older, key_of(HOST))  # so that the host never hears of the earlier address
    world.start_worker(index)
    run(world, checkers, 12.0)
    newer = world.workers[index].process
    assert newer.address != older.address
    for other in {0, 1, 2} - {index}:
        assert world.workers[other].node.links.by_peer[newer.key].addresses == (newer.address,)
    since = len(checkers.records)
    run(world, checkers, 8.0)
    assert len(checkers.records) >= since + 3
    assert all(key_of(index) in record.members for record in checkers.records[since:])


def test_no_member_can_talk_a_host_into_stopping() -> None:
    world, checkers = swarm()
    since = len(checkers.records)
    header = pack_items([to_items(Stale(1 << 40))])
    liar = key_of(CLONED)
    world.net.command(key_of(HOST), lambda core, now: core.receive(now, liar, CONTROL_LANE, header, None))
    run(world, checkers, 8.0)
    assert len(checkers.records) >= since + 3
