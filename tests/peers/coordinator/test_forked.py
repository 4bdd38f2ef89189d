"""A run that begins from an earlier state is seeded by the host's own worker, and by nobody else."""

from __future__ import annotations

from peers.coordinator.journal import Forked
from peers.coordinator.waiting import waits_for
from peers.protocol.messages import CaughtUp, Leave, NeedState, Seed, Unusable
from peers.protocol.record import GENESIS
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key
from transport.frames import pack

HOST = 255


def test_only_the_hosts_own_worker_is_asked_for_the_first_state() -> None:
    swarm = Swarm(journal=[pack(Forked(b"o" * 32))])
    for index in (1, 2):
        swarm.enter(index)
    swarm.later(1000.0)
    assert not swarm.told(1, Seed) + swarm.told(2, Seed)
    assert "host --train" in waits_for(swarm.core.state, swarm.now)
    swarm.enter(HOST)
    assert swarm.told(HOST, Seed)
    assert "--train" not in waits_for(swarm.core.state, swarm.now)


def begun() -> Swarm:
    """The host's own worker has brought the first state, and others wait for it."""
    swarm = Swarm(journal=[pack(Forked(b"o" * 32))], failure_timeout_s=2.0)
    swarm.enter(HOST)
    swarm.hold(HOST)
    for index in (1, 2):
        swarm.enter(index)
    assert swarm.chain.head == ROOT
    return swarm


def test_where_the_first_state_is_lost_only_the_hosts_own_worker_is_asked_again() -> None:
    swarm = begun()
    swarm.hear(HOST, Leave("its process ended"))
    swarm.later(9.0)
    swarm.later(9.0)
    assert swarm.chain.head == GENESIS, "nobody holds it"
    for index in (1, 2):
        swarm.applied(index, b"1" * 32, b"e" * 32)
        swarm.hear(index, CaughtUp(b"1" * 32))
    swarm.later(1000.0)
    assert (swarm.chain.head, swarm.told(1, Seed), swarm.told(2, Seed)) == (GENESIS, [], [])
    swarm.enter(HOST)
    assert len(swarm.told(HOST, Seed)) == 2
    said = waits_for(swarm.core.state, swarm.now)
    assert said.endswith("awaited from w255; nobody else may bring it")
    swarm.hold(HOST)
    assert swarm.chain.head == ROOT


def test_a_first_state_that_is_of_no_use_to_most_is_asked_of_nobody_else() -> None:
    swarm = begun()
    for index in (1, 2):
        swarm.hear(index, Unusable(0, b"d" * 32, (key(HOST),), "other bytes"))
        swarm.hear(index, NeedState("other bytes"))
    swarm.later(1000.0)
    assert not swarm.told(1, Seed) + swarm.told(2, Seed)
    assert len(swarm.told(HOST, Seed)) > 1


def test_without_an_earlier_state_the_first_who_comes_is_asked() -> None:
    swarm = Swarm()
    swarm.enter(1)
    assert swarm.told(1, Seed)
