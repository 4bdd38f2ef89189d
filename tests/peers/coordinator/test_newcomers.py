"""L3: whoever comes in the midst of the others' training is in their rounds when it can be, and no round
waits for it before the next commit."""

from __future__ import annotations

from peers.protocol.messages import Done, Open
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, trained


def committed(swarm: Swarm, *indexes: int) -> None:
    """A round of these members, who then hold its result."""
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    for index in indexes:
        swarm.hold(index, swarm.chain.head)


def after_a_commit_and_a_newcomer(**holds: bool) -> Swarm:
    swarm = trained(2, grace_s=10.0)
    committed(swarm, 1, 2)
    swarm.enter(3, **holds)
    swarm.hold(3, swarm.chain.head)
    swarm.said.clear()
    return swarm


def test_a_newcomer_without_state_holds_up_no_round_and_is_waited_for_after_the_next_commit() -> None:
    swarm = after_a_commit_and_a_newcomer(holds_state=False)
    committed(swarm, 1, 2)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))
    swarm.hold(3, swarm.chain.head)
    swarm.said.clear()
    swarm.ready(1)
    swarm.ready(2)
    assert not swarm.told(1, Open)
    swarm.ready(3)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2), key(3))


def test_a_newcomer_that_offers_in_time_is_in_the_round() -> None:
    swarm = after_a_commit_and_a_newcomer(holds_state=False)
    swarm.ready(1)
    swarm.ready(3)
    swarm.ready(2)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2), key(3))


def test_who_comes_back_with_its_state_is_waited_for_at_once() -> None:
    swarm = after_a_commit_and_a_newcomer(holds_state=True)
    swarm.ready(1)
    swarm.ready(2)
    assert not swarm.told(1, Open)
