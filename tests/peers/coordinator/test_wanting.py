"""Where stages wait for each other, offers are asked for."""

from __future__ import annotations

from peers.coordinator.wanting import WAITS_TIMEOUTS
from peers.protocol.messages import Open, Ready, Wanted, Withdraw
from tests.peers.coordinator.coordinator_kit import Swarm, key

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


def test_one_to_whom_nothing_comes_is_asked_at_once() -> None:
    swarm = Swarm(stages=2, failure_timeout_s=TIMEOUT_S)
    for index, stage in ((1, 0), (2, 1), (3, 1)):  # no feeder is on the line of the third
        swarm.join_stage(index, stage)
        swarm.hold(index)
    swarm.ready(2, stage=1)
    swarm.later(0.1)
    assert swarm.told(3, Wanted) == [Wanted(0)]


def test_a_round_waits_for_nobody_who_says_that_it_has_nothing() -> None:
    swarm = offering(stages=2)
    swarm.ready(2)
    assert not swarm.told(1, Open)
    swarm.hear(3, Ready(0, swarm.chain.base(0), 0, 0, 7, 0.0))
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))
    assert not swarm.told(3, Open)


def test_who_takes_back_that_it_has_nothing_is_waited_for() -> None:
    swarm = offering(stages=2)
    swarm.hear(3, Ready(0, swarm.chain.base(0), 0, 0, 7, 0.0))
    swarm.hear(3, Withdraw(0, 7))
    swarm.ready(2)
    assert not swarm.told(1, Open)
    swarm.ready(3)
    assert len(swarm.told(1, Open)[-1].founders) == 3
