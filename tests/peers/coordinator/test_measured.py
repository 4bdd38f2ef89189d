"""`peers.coordinator.measured`: which claims stand, and that no single owner can make one fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peers.coordinator.measured import mean_limit, part_limit, witnesses

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
