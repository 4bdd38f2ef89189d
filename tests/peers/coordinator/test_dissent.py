"""Who says that it holds what no other does: it sits out, longer each time, whatever it does in between."""

from __future__ import annotations

from peers.coordinator.suspicion import FORGIVEN_AFTER
from peers.protocol.messages import Done, Open
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, trained

MEMBERS = (1, 2, 3, 4)
OTHER = b"o" * 32


def next_round(swarm: Swarm, *, lies: bool = False) -> bool:
    """All offer, and who is in is done, the second with another result if it ``lies``. Whether it was in."""
    for index in MEMBERS:
        swarm.ready(index)
    swarm.later(swarm.core.state.rules.grace_s)
    first = swarm.told(1, Open)[-1]
    while swarm.core.state.courses[0].rounds:
        attempt = swarm.told(1, Open)[-1].attempt
        for index in MEMBERS:
            liar = lies and index == 2
            swarm.hear(index, Done(first.serial, attempt, OTHER if liar else RESULT))
        swarm.later(swarm.core.state.rules.failure_timeout_s)
    return key(2) in first.founders


def sits_out(swarm: Swarm) -> int:
    """Rounds without it before the next one with it, in which it does what the others do."""
    for num_rounds in range(20):
        if next_round(swarm):
            return num_rounds
    raise AssertionError("it never comes back")


def test_who_differs_from_most_now_and_then_sits_out_longer_each_time() -> None:
    swarm, absences = trained(4), []
    for _ in range(5):
        assert next_round(swarm, lies=True)
        absences.append(sits_out(swarm))
    assert absences == [0, 2, 6, 14, 14]


def test_what_was_long_ago_is_forgiven() -> None:
    swarm = trained(4)
    for _ in range(3):
        next_round(swarm, lies=True)
        sits_out(swarm)
    for _ in range(FORGIVEN_AFTER):
        assert next_round(swarm)
    assert next_round(swarm, lies=True)
    assert sits_out(swarm) == 0
