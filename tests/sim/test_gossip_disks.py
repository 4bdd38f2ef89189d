"""Everybody of a run that gossips dies at one moment, and comes back: each goes on from its own replica."""

from __future__ import annotations

import random

import pytest

from peers.coordinator.gossip import GossipMode
from peers.coordinator.journal import StepsTaken
from peers.protocol.traces import LeftBehindTrace
from tests.sim.gossip_disks import DurableGossip, ReplicaKeeper
from tests.sim.gossip_world import GRACE_S, HOST, TIMEOUT_S, key_of
from tests.sim.violation import Violation
from transport.effects import Trace
from transport.frames import unpack

BOUND_S = 2 * (GRACE_S + 2 * TIMEOUT_S)


def steps_told(world: DurableGossip) -> list[int]:
    """Outer steps that all had taken, as the host has it in its journal."""
    entries = [unpack(entry) for entry in world.net.journal(HOST)]
    return [entry.steps for entry in entries if isinstance(entry, StepsTaken)]


def come_back(world: DurableGossip, rng: random.Random, *indexes: int) -> None:
    """The host and these, in a drawn order and some time apart."""
    order = [-1, *indexes]
    rng.shuffle(order)
    for index in order:
        world.start_host() if index < 0 else world.start(index)
        world.net.run(world.net.now + rng.uniform(0.0, 2.0))


@pytest.mark.parametrize("seed", range(8))
def test_everybody_dies_again_and_again_and_nobody_begins_anew(seed: int) -> None:
    world = DurableGossip(seed, 2 + seed % 4, **({"kind": "grid", "group_size": 3} if seed % 3 == 0 else {}))
    rng, net = world.net.stream("deaths"), world.net
    net.run(8.0)
    for _ in range(3):
        net.run(net.now + rng.uniform(0.5, 12.0))
        if rng.random() < 0.5:  # one dies in the midst of a save, some time before
            world.disks[rng.choice(list(world.disks))].kill_in = rng.randrange(6000)
            net.run(net.now + 3.0)
        reached = {w.index: w.replica.steps for w in world.workers.values()}
        all_had = steps_told(world)[-1]
        world.all_die(power=rng.random() < 0.5)
        missing = rng.choice([None, *world.workers])
        come_back(world, rng, *(index for index in world.workers if index != missing))
        net.run(net.now + 3 * BOUND_S)  # in a grid each step waits for who is missing
        for worker in world.living():
            assert worker.held is not None
            assert worker.loop.active
            assert reached[worker.index] - 24 < worker.held.place <= reached[worker.index]
            assert reached[worker.index] < worker.replica.steps
            assert worker.longest_wait_s < BOUND_S
        assert world.host.coordinator is not None
        assert world.host.coordinator.state.num_rounds > all_had
        if missing is not None:
            world.start(missing)
            net.run(net.now + BOUND_S)
    assert not world.double_ends
    taken = [worker.replica.steps for worker in world.living()]
    assert len(taken) == len(world.workers)
    assert max(taken) - min(taken) < 8, "they are in step again"
    assert any("Swapped" in worker.swaps.values() for worker in world.living())


def test_each_takes_as_many_outer_steps_as_the_run_has_however_often_all_died() -> None:
    world = DurableGossip(5, 3, rounds=60)
    rng = world.net.stream("deaths")
    for _ in range(3):
        world.net.run(world.net.now + 6.0)
        world.all_die()
        come_back(world, rng, 0, 1, 2)
    world.net.run(world.net.now + 60.0)
    assert [worker.replica.steps for worker in world.workers.values()] == [60, 60, 60]
    assert steps_told(world)[-1] == 60
    assert sorted(steps_told(world)) == steps_told(world)
    world.all_die()
    world.start_host()
    assert world.host.coordinator is not None
    assert world.host.coordinator.finished, "it is in the journal"


def a_worker_that_was_away(seconds: float) -> tuple[DurableGossip, int]:
    """And is back; how far it was when it went."""
    world = DurableGossip(2, 4)
    world.net.run(10.0)
    world.net.crash(key_of(1))
    before = world.workers[1].replica.steps
    world.net.run(world.net.now + seconds)
    world.start(1)
    world.net.run(world.net.now + 4.0)
    return world, before


def test_who_was_away_for_long_copies_a_replica_and_is_in_step_at_once() -> None:
    world, before = a_worker_that_was_away(60.0)
    others = [world.workers[index].replica.steps for index in (0, 2, 3)]
    assert min(others) > before + 50
    assert world.workers[1].replica.steps > min(others) - 8
    assert world.workers[1].held is not None


def test_without_that_it_would_lag_and_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GossipMode, "left_behind", lambda mode, course, entry: [])
    world, _ = a_worker_that_was_away(60.0)
    others = [world.workers[index].replica.steps for index in (0, 2, 3)]
    assert world.workers[1].replica.steps < min(others) - 20


def test_a_keeper_that_confirms_what_it_has_not_written_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    world = DurableGossip(3, 2)
    world.net.run(6.0)
    world.all_die()
    monkeypatch.setattr(ReplicaKeeper, "load", lambda keeper: None)
    world.start_host()
    with pytest.raises(Violation, match="DU1"):
        world.start(0)


def until_left_behind(world: DurableGossip, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Worker 1 was away for long and is back: run until the host has found that. Names of whom it found."""
    told: list[str] = []
    world.net.run(10.0)
    world.net.crash(key_of(1))
    world.net.run(40.0)
    assert world.host.coordinator is not None
    outlet = world.host.coordinator.state.outlet
    trace = outlet.trace

    def watch(each: Trace) -> None:
        told.extend([each.peer_name] if isinstance(each, LeftBehindTrace) else [])
        trace(each)

    monkeypatch.setattr(outlet, "trace", watch)
    world.start(1)
    world.net.run(45.0, lambda: bool(told))
    return told


def test_the_host_tells_who_is_too_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    world = DurableGossip(2, 3)
    told = until_left_behind(world, monkeypatch)
    world.net.run(45.0)
    assert told == ["g1"]


@pytest.mark.parametrize("seed", range(4))
def test_who_was_to_copy_goes_on_from_its_own_replica_if_nobody_is_left(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DurableGossip(seed, 2)
    until_left_behind(world, monkeypatch)
    world.net.crash(key_of(0))
    world.net.run(world.net.now + BOUND_S)
    worker = world.workers[1]
    assert worker.loop.active
    assert worker.held is not None
    assert worker.replica.steps > worker.held.place
