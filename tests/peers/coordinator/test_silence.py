"""How long a member may be silent before no round waits for it, and before it is out."""

from __future__ import annotations

from peers.coordinator.silence import STANDING_TIMEOUTS
from peers.protocol.messages import MemberGone, Open
from tests.peers.coordinator.coordinator_kit import Swarm, key, trained

TIMEOUT_S = 3.0


def silenced(index: int) -> Swarm:
    """Three members, of whom one says nothing from now on."""
    swarm = trained(3, failure_timeout_s=TIMEOUT_S, grace_s=60.0)
    swarm.silent[key(index)] = swarm.now
    return swarm


def test_whose_link_stands_is_out_after_a_third_more_than_the_failure_timeout() -> None:
    swarm = silenced(3)
    swarm.later(STANDING_TIMEOUTS * TIMEOUT_S)
    assert not swarm.told(1, MemberGone)
    swarm.later(0.1)
    (gone,) = swarm.told(1, MemberGone)
    assert (gone.key, gone.reason) == (key(3), "silent for 4.1 s")


def test_whose_link_ended_is_out_after_the_failure_timeout() -> None:
    swarm = silenced(3)
    swarm.core.lose_sight(swarm.now, key(3))
    swarm.later(TIMEOUT_S)
    assert not swarm.told(1, MemberGone)
    swarm.later(0.1)
    assert [gone.key for gone in swarm.told(1, MemberGone)] == [key(3)]


def test_after_the_failure_timeout_no_round_waits_for_it_and_once_it_speaks_they_do() -> None:
    swarm = silenced(3)
    swarm.ready(1)
    swarm.ready(2)
    swarm.later(TIMEOUT_S)
    assert not swarm.told(1, Open)
    del swarm.silent[key(3)]
    swarm.later(0.1)
    assert not swarm.told(1, Open), "the grace is not over"
    swarm.silent[key(3)] = swarm.now
    swarm.later(TIMEOUT_S + 0.1)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))
    assert not swarm.told(1, MemberGone)


def test_what_it_offered_before_is_in_no_round_that_opens_meanwhile() -> None:
    swarm = silenced(3)
    swarm.ready(3)
    swarm.later(TIMEOUT_S + 0.1)
    swarm.ready(1)
    swarm.ready(2)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))
    assert not swarm.told(1, MemberGone)
