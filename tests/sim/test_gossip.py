"""Gossip in simulation: swaps end, whoever dies costs its own group only, and replicas come together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from peers.protocol.profile import Matching
from tests.sim.gossip_world import GRACE_S, HOST, SIZE, TIMEOUT_S, Gossiper, GossipWorld, key_of

BOUND_S = 2 * (GRACE_S + 2 * TIMEOUT_S)


def spread(world: GossipWorld) -> float:
    return float(np.std([worker.replica.state[-1] for worker in world.living()]))


def spread_out(world: GossipWorld) -> float:
    """Give every replica another value, and return their spread. (All began with the state of one.)"""
    for worker in world.living():
        worker.replica.state[-1] = worker.index
    return spread(world)


def check_means(world: GossipWorld, group_size: int) -> None:
    """Every mean is that of a whole group: equal shares of contributors who were at the same step."""
    for worker in world.workers.values():
        for mean in worker.replica.means:
            shares = mean[: SIZE - 2]
            members = np.flatnonzero(shares)
            assert worker.index in members
            assert 2 <= len(members) <= group_size
            assert np.allclose(shares[members], 1 / len(members))
            assert abs(mean[-2] - np.round(mean[-2])) < 1e-4, "all contributed for one step"


@pytest.mark.parametrize("num_workers", [2, 3, 8])
def test_pairs_swap_and_replicas_come_together(num_workers: int) -> None:
    world = GossipWorld(1, num_workers)
    world.net.run(10.0)
    before = spread_out(world)
    world.net.run(60.0)
    assert all(worker.replica.steps > 50 for worker in world.living())
    assert spread(world) < 0.05 * before + 1e-6
    assert not world.double_ends
    check_means(world, 2)
    swapped = [list(w.swaps.values()).count("Swapped") for w in world.living()]
    assert min(swapped) > 20


def test_a_full_grid_averages_exactly() -> None:
    world = GossipWorld(3, 9, "grid", 3)
    world.net.run(10.0)
    assert spread_out(world) > 1.0
    world.net.run(60.0)
    assert spread(world) < 1e-5
    check_means(world, 3)


@pytest.mark.parametrize("seed", range(24))
def test_under_crashes_freezes_cuts_and_joins_every_swap_ends_and_nobody_waits_without_bound(
    seed: int,
) -> None:
    world = GossipWorld(seed, 3 + seed % 6, *(("grid", 3) if seed % 3 == 0 else ("pair", 2)))
    rng, net = world.net.stream("faults"), world.net
    net.run(5.0)
    for _ in range(12):
        net.run(net.now + rng.uniform(0.2, 3.0))
        index = rng.choice(list(world.workers))
        alive, what = net.peers[key_of(index)].alive, rng.choice(["crash", "freeze", "cut", "join", "reset"])
        if what == "join" or not alive:
            world.start(index) if not alive else world.start(max(world.workers) + 1)
        elif what == "crash":
            net.crash(key_of(index))
        elif what == "freeze":
            net.freeze(key_of(index))
            net.at(rng.uniform(0.5, 6.0), partial(net.thaw, key_of(index)))
        else:
            other = key_of(rng.choice([i for i in world.workers if i != index]))
            if what == "cut":
                net.cut(key_of(index), other)
                net.at(rng.uniform(1.0, 5.0), partial(net.mend, key_of(index), other))
            else:
                net.reset(key_of(index), other)
    net.heal()
    net.run(net.now + 8.0)
    before = {worker.index: worker.replica.steps for worker in world.living()}
    net.run(net.now + 40.0)
    assert not world.double_ends
    for worker in world.living():
        assert worker.loop.active, f"g{worker.index} holds no state"
        assert worker.replica.steps > before[worker.index] + 10
        assert worker.longest_wait_s < BOUND_S
        assert _open(worker) <= 1
    check_means(world, 3 if seed % 3 == 0 else 2)


def _open(worker: Gossiper) -> int:
    return list(worker.swaps.values()).count("begun")


def test_a_dead_partner_costs_its_pair_one_exchange_and_nobody_else_any() -> None:
    world = GossipWorld(5, 6)
    world.net.run(10.0)
    victim = world.living()[0].index
    world.net.crash(key_of(victim))
    world.net.run(30.0)
    failed = [list(w.swaps.values()).count("SwapFailed") for w in world.living()]
    # With five left one is alone at each step, which ends as a failure too: nobody lost more than its share
    # of those.
    assert all(worker.longest_wait_s < 2 * TIMEOUT_S + 1 for worker in world.living())
    assert max(failed) < 40
    assert all(worker.replica.steps > 20 for worker in world.living())


def test_the_host_may_be_away_while_members_swap() -> None:
    world = GossipWorld(6, 4)
    world.net.run(10.0)
    before = [worker.replica.steps for worker in world.living()]
    world.net.freeze(HOST)
    world.net.run(11.5)
    assert all(w.replica.steps > b for w, b in zip(world.living(), before, strict=True))


def test_a_joiner_copies_a_state_and_counts_on_from_it() -> None:
    world = GossipWorld(7, 4)
    world.net.run(20.0)
    world.start(9)
    world.net.run(24.0)
    joiner = world.workers[9]
    assert joiner.loop.active
    assert joiner.replica.steps > 15, "it goes on from its donor's count"


def test_the_same_seed_gives_the_same_trace() -> None:
    hashes = []
    for _ in range(2):
        world = GossipWorld(11, 5)
        world.net.run(15.0)
        world.net.crash(key_of(2))
        world.net.run(25.0)
        hashes.append(world.net.trace_hash())
    assert hashes[0] == hashes[1]


def test_too_few_active_members_exchange_nothing_and_train_on() -> None:
    world = GossipWorld(8, 2)
    world.matching = Matching("pair", 8, 2, min_peers=3)
    world.net.run(20.0)
    for worker in world.living():
        assert worker.replica.steps == 0
        assert "SwapFailed" in worker.swaps.values()
