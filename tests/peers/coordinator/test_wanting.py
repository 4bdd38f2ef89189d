"""Where stages wait for each other, offers are asked for."""

from __future__ import annotations

from peers.coordinator.wanting import WAITS_TIMEOUTS
from peers.protocol.messages import Wanted
from tests.peers.coordinator.coordinator_kit import Swarm

TIMEOUT_S = 5.0


def offering(stages: int) -> Swarm:
    """Of three of a stage, the first offers."""
    swarm = Swarm(stages=stages, failure_timeout_s=TIMEOUT_S)
    for index in (1, 2, 3):
        if stages > 1:
            swarm.join_stage(index, 0)
        else:
            swarm.enter(index)
        swarm.hold(index)
    swarm.ready(1)
    return swarm


def test_who_has_not_offered_for_a_while_is_asked_once() -> None:
    swarm = offering(stages=2)
    swarm.later(0.5 * WAITS_TIMEOUTS * TIMEOUT_S)
    assert not swarm.told(2, Wanted)
    swarm.later(0.6 * WAITS_TIMEOUTS * TIMEOUT_S)
    swarm.later(0.1)
    assert [len(swarm.told(index, Wanted)) for index in (1, 2, 3)] == [0, 1, 1]


def test_a_run_with_one_stage_asks_nobody() -> None:
    swarm = offering(stages=1)
    swarm.later(2 * TIMEOUT_S)
    assert not swarm.told(2, Wanted)
