"""The newest process of each identity is kept in the journal, at a bounded price."""

from __future__ import annotations

from peers.coordinator.journal import IncarnationSeen
from peers.coordinator.lives import newest_in
from tests.peers.coordinator.coordinator_kit import Swarm, key
from transport.frames import unpack
from transport.limits import LIMITS


def seen(swarm: Swarm) -> list[IncarnationSeen]:
    return [each for each in map(unpack, swarm.journal) if isinstance(each, IncarnationSeen)]


def test_each_newer_process_is_written_once() -> None:
    swarm = Swarm()
    swarm.enter(1)
    for incarnation in (5, 5, 4):
        swarm.core.met(swarm.now, key(1), incarnation)
    assert seen(swarm) == [IncarnationSeen(key(1), 5)]
    assert newest_in([IncarnationSeen(key(1), 5), IncarnationSeen(key(1), 4)]) == {key(1): 5}


def test_an_identity_that_starts_again_and_again_costs_an_entry_a_minute() -> None:
    swarm = Swarm()
    swarm.enter(1)
    for incarnation in range(1, 1000):
        swarm.core.met(swarm.now, key(1), incarnation)
    assert len(seen(swarm)) == 1
    swarm.later(LIMITS.incarnation_rest_s)
    assert [each.incarnation for each in seen(swarm)] == [1, 999]


def test_a_stranger_is_not_kept() -> None:
    swarm = Swarm()
    swarm.core.met(swarm.now, key(9), 7)
    assert seen(swarm) == []


def test_what_an_earlier_life_wrote_is_not_written_again() -> None:
    first = Swarm()
    first.enter(1)
    first.core.met(0.0, key(1), 5)
    again = Swarm(journal=first.journal)
    again.core.met(0.0, key(1), 5)
    assert len(seen(again)) == 1
