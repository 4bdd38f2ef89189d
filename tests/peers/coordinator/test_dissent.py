"""Who says that it holds what no other does: it sits out, longer each time, whatever it does in between."""

from __future__ import annotations

from peers.coordinator.marks import FORGIVEN_AFTER
from peers.coordinator.suspicion import DISTRUSTED_FOR
from peers.protocol.messages import Committed, Done, Open
from peers.protocol.record import record_in
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened, trained

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


def test_one_that_never_says_that_it_is_done_holds_a_round_up_once_and_then_sits_out() -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    first = opened(swarm, *MEMBERS)
    swarm.later(3.0)
    for index in (1, 3, 4):
        swarm.hear(index, Done(first.serial, 0, RESULT))
    swarm.later(7.9)
    swarm.hear(1, Done(first.serial, 0, RESULT))  # to say it again gains no time
    assert not swarm.told(1, Committed)
    swarm.later(0.2)
    assert key(2) in record_in(swarm.told(1, Committed)[-1].record).members, "what it sent is in the mean"
    assert swarm.core.roster.entries[key(2)].num_penalties == 1


def test_where_no_more_than_half_are_done_the_others_have_time() -> None:
    swarm = trained(5, failure_timeout_s=2.0)
    first = opened(swarm, *MEMBERS, 5)
    for index in (1, 2):
        swarm.hear(index, Done(first.serial, 0, RESULT))
    swarm.later(100.0)
    assert swarm.core.state.courses[0].rounds
    assert swarm.told(1, Open)[-1].attempt == 0


def test_after_results_that_differ_the_next_rounds_are_proved_and_then_no_more() -> None:
    swarm = trained(4)
    assert not opened(swarm, *MEMBERS).proved
    (current,) = swarm.core.state.courses[0].rounds.values()
    for index in MEMBERS:
        swarm.hear(index, Done(current.serial, 0, OTHER if index == 2 else RESULT))
    assert swarm.told(1, Open)[-1].proved, "the same round again"
    for index in MEMBERS:
        swarm.hear(index, Done(current.serial, 1, RESULT))
    proved = []
    for _ in range(DISTRUSTED_FOR + 1):
        next_round(swarm)
        proved.append(swarm.told(1, Open)[-1].proved)
    assert proved == [True] * (DISTRUSTED_FOR - 1) + [False, False]


def test_whoever_lies_in_the_next_round_too_is_found_at_once() -> None:
    swarm = trained(4)
    opened(swarm, *MEMBERS)
    for attempt in range(2):
        (current,) = swarm.core.state.courses[0].rounds.values()
        for index in MEMBERS:
            lies = index == 2 and attempt == 0
            swarm.hear(index, Done(current.serial, attempt, OTHER if lies else RESULT))
    assert not swarm.core.state.courses[0].rounds, "in the proved attempt it did as the others"
    num_opened = len(swarm.told(1, Open))
    assert next_round(swarm, lies=True)
    assert len(swarm.told(1, Open)) == num_opened + 1, "no attempt is repeated for it"
    assert swarm.core.roster.entries[key(2)].num_dissents == 1
