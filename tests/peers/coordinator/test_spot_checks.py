"""Which means are computed again, and what a checker's word does."""

from __future__ import annotations

from collections import Counter

from peers.coordinator.spot_checks import MAX_ASKED
from peers.protocol.messages import Committed, Done, Leave, Ready
from peers.protocol.spots import Spot, Spotted
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, trained


def committed(swarm: Swarm, num_members: int) -> Spot | None:
    """One more round; what was drawn of it."""
    swarm.said.clear()
    number = swarm.chain.index + 1
    for index in range(1, num_members + 1):
        swarm.hear(index, Ready(0, swarm.chain.head, 8, 8, number, 1.0))
    (current,) = swarm.core.state.courses[0].rounds.values()
    for index in range(1, num_members + 1):
        assert not swarm.told(index, Spot), "nothing is drawn before all are done"
        swarm.hear(index, Done(current.serial, 0, RESULT))
    told = [swarm.told(index, Spot) for index in range(1, num_members + 1)]
    assert all(each == told[0] for each in told), "all are told the same"
    assert swarm.told(1, Committed)
    return told[0][0] if told[0] else None


def drawn(secret: bytes, rounds: int = 120, num_members: int = 4) -> list[Spot]:
    swarm = trained(num_members)
    swarm.core.state.secret = secret
    return [spot for _ in range(rounds) if (spot := committed(swarm, num_members))]


def test_in_one_round_of_as_many_as_it_has_members_a_member_checks_a_chunk_that_it_does_not_own() -> None:
    found = drawn(b"one")
    assert 15 < len(found) < 50, "about 30 of 120 rounds of four"
    checkers = Counter(spot.checker for spot in found)
    assert set(checkers) <= {key(index) for index in (2, 3, 4)}, "the only chunk is the first member's"
    assert len(checkers) == 3


def test_nobody_without_the_hosts_secret_can_tell_what_is_drawn() -> None:
    one, other = (drawn(secret, 40) for secret in (b"one", b"other"))
    assert [spot.serial for spot in one] != [spot.serial for spot in other]


def test_members_are_told_before_the_record_is() -> None:
    swarm = trained(4)
    while committed(swarm, 4) is None:
        pass
    kinds = [type(message) for peer, message in swarm.said if peer == key(1)]
    assert kinds.index(Spot) < kinds.index(Committed)


def test_a_checker_that_disagrees_has_the_owners_next_rounds_proved_and_nobody_else_can() -> None:
    swarm = trained(4)
    while (spot := committed(swarm, 4)) is None:
        pass
    suspicion, index = swarm.core.state.courses[0].suspicion, swarm.chain.index
    checker = spot.checker[0]
    other = next(each for each in (2, 3, 4) if each != checker)
    swarm.hear(other, Spotted(spot.serial, False))
    swarm.hear(checker, Spotted(spot.serial + 1, False))
    assert not suspicion.proves([key(1)], index)
    swarm.hear(checker, Spotted(spot.serial, False))
    assert suspicion.proves([key(1)], index)
    assert not suspicion.marked([key(1), spot.checker], index), "nobody is marked for it"


def test_an_owner_is_distrusted_once_it_did_not_answer_twice_in_a_row() -> None:
    swarm = trained(4)
    suspicion = swarm.core.state.courses[0].suspicion
    for answers, distrusted in ((False, False), (True, False), (False, False), (False, True)):
        while (spot := committed(swarm, 4)) is None:
            pass
        swarm.hear(spot.checker[0], Spotted(spot.serial, agrees=answers, answered=answers))
        assert suspicion.proves([key(1)], swarm.chain.index) is distrusted


def test_owners_that_did_not_answer_are_remembered_up_to_a_bound() -> None:
    swarm = trained(4)
    course = swarm.core.state.courses[0]
    course.unanswered = {bytes([index]) * 32: 1 for index in range(100, 164)}
    while (spot := committed(swarm, 4)) is None:
        pass
    swarm.hear(spot.checker[0], Spotted(spot.serial, agrees=False, answered=False))
    assert len(course.unanswered) == 64
    assert course.unanswered[key(1)] == 1


def test_nothing_is_drawn_of_an_owner_that_is_not_done() -> None:
    secrets = [str(number).encode() for number in range(40)]
    assert any(drawn_first(secret) for secret in secrets)
    assert any(drawn_first(secret, without=2) for secret in secrets)
    assert not any(drawn_first(secret, without=1) for secret in secrets), "it owns the only chunk"


def drawn_first(secret: bytes, without: int = 0) -> list[Spot]:
    """What is drawn of a first round that is committed though one member did not say that it is done."""
    swarm = trained(4)
    swarm.core.state.secret = secret
    for index in range(1, 5):
        swarm.hear(index, Ready(0, swarm.chain.head, 8, 8, 1, 1.0))
    (current,) = swarm.core.state.courses[0].rounds.values()
    for index in range(1, 5):
        if index != without:
            swarm.hear(index, Done(current.serial, 0, RESULT))
    if without:
        swarm.hear(without, Leave("enough"))
    assert swarm.chain.index == 1
    return swarm.told(4, Spot)


def test_a_checker_that_agrees_changes_nothing_and_is_heard_once() -> None:
    swarm = trained(4)
    while (spot := committed(swarm, 4)) is None:
        pass
    swarm.hear(spot.checker[0], Spotted(spot.serial, True))
    swarm.hear(spot.checker[0], Spotted(spot.serial, False))
    course = swarm.core.state.courses[0]
    assert not course.suspicion.proves([key(1)], swarm.chain.index)


def test_checks_that_nobody_answers_are_forgotten() -> None:
    swarm = trained(2, min_peers=2)
    for _ in range(6 * MAX_ASKED):
        committed(swarm, 2)
    assert len(swarm.core.state.courses[0].spots) == MAX_ASKED
