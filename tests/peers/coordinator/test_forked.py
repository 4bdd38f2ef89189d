"""A run that begins from an earlier state is seeded by the host's own worker, and by nobody else."""

from __future__ import annotations

from peers.coordinator.journal import Forked
from peers.coordinator.waiting import waits_for
from peers.protocol.messages import Seed
from tests.peers.coordinator.coordinator_kit import Swarm
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


def test_without_an_earlier_state_the_first_who_comes_is_asked() -> None:
    swarm = Swarm()
    swarm.enter(1)
    assert swarm.told(1, Seed)
