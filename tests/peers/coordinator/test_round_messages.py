"""Each word of a member about a round, said to a coordinator at the right and at the wrong moment."""

from __future__ import annotations

import pytest

from peers.coordinator import round_messages
from peers.protocol.messages import Decline, Done, Open, Ready, Stuck, Withdraw
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, key, opened, trained


def test_what_is_said_of_another_attempt_or_another_round_changes_nothing() -> None:
    swarm = trained(3)
    round_ = opened(swarm, 1, 2, 3)
    swarm.hear(3, Decline(round_.serial, "full"))  # the others go on with a second attempt
    state, course = swarm.core.state, swarm.core.state.courses[0]
    current = course.rounds[0]
    entry = swarm.core.roster.entries[key(1)]
    for serial, attempt in [(round_.serial, 0), (round_.serial, 7), (round_.serial + 1, 1)]:
        round_messages.done(state, 0.0, course, entry, Done(serial, attempt, RESULT))
        round_messages.stuck(state, 0.0, course, entry, Stuck(serial, attempt, (key(2),), ""))
        round_messages.decline(state, 0.0, course, entry, Decline(round_.serial + 1, "full"))
        assert (current.attempt, current.done, current.stuck) == (1, {}, {})
    round_messages.done(state, 0.0, course, entry, Done(round_.serial, 1, RESULT))
    assert set(current.done) == {key(1)}


def test_a_contribution_without_weight_is_no_offer() -> None:
    swarm = trained(2)
    state, course = swarm.core.state, swarm.core.state.courses[0]
    entry = swarm.core.roster.entries[key(1)]
    round_messages.ready(state, 0.0, course, entry, Ready(0, ROOT, 8, 0, 1, 1.0))
    assert not entry.ready
    round_messages.ready(state, 0.0, course, entry, Ready(0, ROOT, 8, 8, 1, 1.0))
    assert set(entry.ready) == {0}


@pytest.mark.parametrize(("number", "held"), [(1, set()), (2, {0})])
def test_only_the_offer_of_that_number_is_taken_back(number: int, held: set[int]) -> None:
    swarm = trained(2)
    swarm.ready(1)
    state, course = swarm.core.state, swarm.core.state.courses[0]
    entry = swarm.core.roster.entries[key(1)]
    round_messages.withdraw(state, 0.0, course, entry, Withdraw(0, number))
    assert set(entry.ready) == held
    assert not swarm.told(1, Open)
