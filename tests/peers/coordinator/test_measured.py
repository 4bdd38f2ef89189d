"""`peers.coordinator.measured`: which claims stand, and that no single owner can make one fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peers.coordinator.measured import mean_limit, part_limit, witnesses
from peers.protocol.messages import Abort, Committed, Done, Leave, Open
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, opened, trained

OWNERS = [bytes([i]) for i in range(8)]
SQUARES = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8)


def reports(squares: list[float]) -> dict[bytes, float]:
    return dict(zip(OWNERS, squares, strict=False))


def test_a_claim_allows_its_own_square_and_what_the_codec_may_add() -> None:
    assert 4.0 < part_limit(2.0, 0, 1.0) < 4.01
    assert 8.0 < part_limit(2.0, 0, 2.0) < 8.02
    assert part_limit(0.0, 1 << 20, 1.0) > (1 << 20) * 2.0**-48 * 0.99
    assert mean_limit([1.0, 4.0], 2.0) == 1.1 * 2.0 * 4.0


def test_an_owner_whose_measure_alone_is_above_disputes_it() -> None:
    assert witnesses(reports([0.1, 4.5, 0.1]), 4.0) == [OWNERS[1]]
    assert witnesses(reports([5.0, 0.1, 4.5]), 4.0) == [OWNERS[0], OWNERS[2]]


def test_a_sum_disputes_with_as_many_owners_as_it_takes_and_never_by_a_single_one() -> None:
    assert witnesses(reports([1.0, 1.0, 1.0, 1.0]), 4.0) == []
    assert witnesses(reports([3.9, 0.2, 0.1]), 4.0) == [], "any of the three may have said too much"
    assert witnesses(reports([3.0, 3.0, 3.0]), 4.0) == OWNERS[:2]
    assert witnesses(reports([2.0, 3.0, 2.5]), 4.0) == [OWNERS[1], OWNERS[2]]


@given(SQUARES, st.integers(0, 7), st.floats(0.0, 1e9))
def test_one_owner_that_lies_is_the_only_witness_against_an_honest_claim(
    squares: list[float], liar: int, lie: float
) -> None:
    limit = part_limit(sum(squares) ** 0.5, 0, 1.0)
    assert witnesses(reports(squares), limit) == []
    told = [lie if i == liar else square for i, square in enumerate(squares)]
    assert set(witnesses(reports(told), limit)) <= {OWNERS[liar]}


@given(SQUARES, st.floats(2.1, 1e6))
def test_whoever_claims_less_than_half_of_its_square_is_found(squares: list[float], times: float) -> None:
    limit = sum(squares) / times
    assert bool(witnesses(reports(squares), limit)) == (limit < sum(squares))


# -- in rounds --------------------------------------------------------------------------------------


def done(swarm: Swarm, serial: int, squares: dict[int, tuple[float, ...]], attempt: int = 0) -> None:
    """Each member is done, and tells what it measured of each."""
    swarm.said.clear()
    for index, found in squares.items():
        swarm.hear(index, Done(serial, attempt, RESULT, found))


def test_a_round_says_how_long_each_contribution_and_the_means_may_be() -> None:
    swarm = trained(2, part_growth=2.0, mean_growth=3.0)
    swarm.ready(1, norm=1.0)
    swarm.ready(2, norm=2.0)
    said = swarm.told(1, Open)[0]
    assert said.part_limits == (part_limit(1.0, 100, 2.0), part_limit(2.0, 100, 2.0))
    assert said.mean_limit == 1.1 * 3.0 * said.part_limits[1]


def test_what_owners_measure_below_the_claims_is_committed() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    done(swarm, serial, dict.fromkeys((1, 2, 3, 4), (0.25, 0.25, 0.25, 0.25)))
    assert swarm.told(1, Committed)


def test_a_claim_that_owners_dispute_is_not_committed_and_one_that_most_dispute_is_left_out() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    honest = (0.25, 0.25, 0.25, 0.25)
    # Member 4 sent far more than it claims, to each of the others.
    done(swarm, serial, dict.fromkeys((1, 2, 3), (*honest[:3], 100000000000000.0)) | {4: honest})
    assert not swarm.told(1, Committed)
    assert swarm.told(4, Abort)
    assert swarm.told(1, Open)[-1].lost == (3,)


def test_an_owner_that_lies_about_a_norm_gets_nobody_left_out() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    honest = (0.25, 0.25, 0.25, 0.25)
    rest = dict.fromkeys((1, 2, 3), honest)
    done(swarm, serial, rest | {4: (1e14, 0.25, 0.25, 0.25)})
    assert not swarm.told(1, Committed)
    said = swarm.told(1, Open)[-1]
    assert (said.attempt, said.lost, said.idle) == (1, (), (0, 3)), "neither is believed, and neither owns"
    done(swarm, serial, rest | {4: (1e14, 1e14, 1e14, 0.25)}, attempt=1)
    assert swarm.told(1, Committed), "who owns nothing has measured nothing"


def test_an_owner_that_lies_about_most_is_left_out() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    done(swarm, serial, dict.fromkeys((1, 2, 3), (0.25,) * 4) | {4: (1e14, 1e14, 1e14, 0.0)})
    assert swarm.told(1, Open)[-1].lost == (3,)


def test_nobodys_measure_of_itself_counts_and_one_of_another_length_neither() -> None:
    swarm = trained(2, min_peers=2)
    serial = opened(swarm, 1, 2).serial
    done(swarm, serial, {1: (1e14, 0.5), 2: (1e14,)})
    assert swarm.told(1, Committed)


def test_a_disputed_result_is_not_committed_because_somebody_is_lost() -> None:
    swarm = trained(4)
    serial = opened(swarm, 1, 2, 3, 4).serial
    done(swarm, serial, dict.fromkeys((1, 2), (0.2, 0.2, 1e14, 0.2)) | {3: (0.2, 0.2, 0.2, 0.2)})
    swarm.hear(4, Leave("enough"))
    assert not swarm.told(1, Committed)
    assert swarm.told(1, Open)[-1].lost == (3,)
