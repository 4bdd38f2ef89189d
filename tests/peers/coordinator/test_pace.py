"""Who claims to be fast, or seems to be, does not rule how many steps the others take."""

from __future__ import annotations

import pytest

from peers.coordinator.pace import MemberPace, fastest_of
from peers.protocol.messages import Done, Open, Pace, Ready
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, speed, trained


@pytest.mark.parametrize(
    ("speeds", "fastest"),
    [
        ([], 0.0),
        ([5.0], 5.0),
        ([10.0, 15.0], 15.0),
        ([10.0, 1e9], 20.0),
        ([10.0, 11.0, 1e9], 11.0),
        ([10.0, 90.0, 1e9], 90.0),
        ([1.0, 10.0, 90.0, 1e9], 20.0),
        ([0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0], 2.0),
    ],
)
def test_the_fastest_counts_as_the_second_and_as_twice_the_lower_median_at_most(
    speeds: list[float], fastest: float
) -> None:
    assert fastest_of(speeds) == fastest


def test_a_speed_is_the_tokens_of_accepted_offers_over_the_time_without_waiting() -> None:
    pace = MemberPace()
    for round_ in range(3):
        pace.offered(10.0 * round_ + 4.0, 0, round_, tokens=80)  # it trains for 4 s and waits for 6 s
        pace.accepted(10.0 * round_ + 10.0, 0, overlap=0.0)
    assert pace.speed(claimed=1e9) == 20.0


def test_before_its_second_accepted_offer_a_member_is_as_fast_as_it_says() -> None:
    pace = MemberPace()
    pace.offered(0.1, 0, 1, tokens=1 << 40)
    pace.accepted(0.2, 0, overlap=0.0)
    assert pace.speed(claimed=7.0) == 7.0


@pytest.mark.parametrize(
    ("overlap", "result_after", "next_offer", "expected"),
    [(0.25, 0.5, 8.0, 10.0), (0.25, 5.0, 11.0, 10.0), (1.0, 7.0, 8.0, 10.0)],
)
def test_steps_beside_a_result_on_its_way_count_as_trained(
    overlap: float, result_after: float, next_offer: float, expected: float
) -> None:
    """H takes 8 s; a quarter of it is trained before the result is waited for, 3 s in the second case."""
    pace = MemberPace()
    pace.offered(0.0, 0, 1, tokens=80)
    pace.accepted(result_after, 0, overlap)
    pace.offered(next_offer, 0, 2, tokens=80)
    pace.accepted(next_offer + 1.0, 0, overlap)
    assert pace.speed(0.0) == expected


def test_an_offer_that_is_made_again_is_as_old_as_it_was() -> None:
    pace = MemberPace()
    pace.offered(0.0, 0, 1, tokens=80)
    pace.accepted(0.0, 0, overlap=0.0)
    pace.offered(8.0, 0, 2, tokens=80)
    pace.offered(9.0, 0, 2, tokens=80)
    pace.accepted(10.0, 0, overlap=0.0)
    assert pace.speed(0.0) == 10.0


def commit(swarm: Swarm, *indexes: int) -> None:
    for index in indexes:
        swarm.hear(index, Ready(0, swarm.chain.base(0), 8, 8, 1 + swarm.chain.index, 1.0))
    message = swarm.told(indexes[0], Open)[-1]
    for index in indexes:
        swarm.hear(index, Done(message.serial, message.attempt, RESULT))
    for index in indexes:
        swarm.hold(index, swarm.chain.head)


def test_what_a_member_claims_counts_no_more_once_its_offers_were_accepted() -> None:
    swarm = trained(2, paces=True, min_peers=2)
    for _ in range(3):
        swarm.now += 8.0
        commit(swarm, 1, 2)
    for index, claim in ((2, 1.0), (1, 1e9)):
        swarm.hear(index, speed(claim))
    swarm.hear(2, speed(1.0))
    assert [told.fastest for told in swarm.told(2, Pace)] == [1.0], "8 tokens in 8 s"
    assert [told.fastest for told in swarm.told(1, Pace)] == [1.0]
    assert swarm.core.roster.entries[key(1)].pace.speed(1e9) == 1.0
