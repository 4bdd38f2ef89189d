"""The rule by which a joiner gets its stage, as numbers."""

from __future__ import annotations

import pytest

from peers.coordinator.placing import Movable, StageLoad, best_move, choose


def chosen(*stages: StageLoad, memory: int = 0, most: int = 64) -> int | None:
    found = choose(stages, memory, most)
    return found.number if found is not None else None


def test_the_stage_with_the_least_total_speed_is_chosen_however_many_replicas_make_it() -> None:
    assert chosen(StageLoad(0, (5.0, 5.0)), StageLoad(1, (3.0, 3.0, 3.0)), StageLoad(2, (5.0, 6.0))) == 1


def test_one_that_is_not_measured_counts_at_mean_speed() -> None:
    # Means are 4: stage 0 has 6, stage 1 has 2 + 4.5 at least.
    assert chosen(StageLoad(0, (6.0,)), StageLoad(1, (2.0,), num_unmeasured=1)) == 0
    assert chosen(StageLoad(0, (6.0,), num_unmeasured=1), StageLoad(1, (2.0,), num_unmeasured=1)) == 1


def test_of_equal_stages_that_with_the_fewest_replicas_is_chosen_and_then_the_first() -> None:
    assert chosen(StageLoad(0, (2.0, 2.0)), StageLoad(1, (4.0,))) == 1
    assert chosen(StageLoad(2), StageLoad(1), StageLoad(3)) == 1


def test_ten_who_come_at_once_are_spread_over_all_stages() -> None:
    awaited = [0, 0, 0, 0]
    for _ in range(10):
        found = choose([StageLoad(n, (), held) for n, held in enumerate(awaited)], 0, 64)
        assert found is not None
        awaited[found.number] += 1
    assert awaited == [3, 3, 2, 2]


def test_a_stage_that_the_memory_does_not_hold_is_passed_over_and_one_of_unknown_size_is_not() -> None:
    stages = (StageLoad(0, (), 0, needed_bytes=100), StageLoad(1, (9.0,), 0, needed_bytes=50))
    assert [chosen(*stages, memory=memory) for memory in (100, 99, 50, 49)] == [0, 1, 1, None]
    assert chosen(*stages, StageLoad(2, (9.0, 9.0)), memory=49) == 2
    assert chosen(*stages, memory=0) == 0, "it did not say what it has"


def test_a_stage_without_a_place_is_passed_over() -> None:
    full, poor = StageLoad(0, (1.0,), 1), StageLoad(1, (9.0,))
    assert (chosen(full, poor, most=2), chosen(full, poor, most=3)) == (1, 0)
    assert chosen(full, most=2) is None


@pytest.mark.parametrize("claimed", [1e18, 1e-300])
def test_whoever_claims_any_speed_moves_its_stage_by_four_times_the_median_at_most(claimed: float) -> None:
    honest = StageLoad(1, (1.0, 1.0, 1.0, 1.0, 1.0))
    lying = StageLoad(0, (1.0, 1.0, 1.0, claimed))
    others = StageLoad(2, (1.0, 1.0, 1.0, 1.0))
    if claimed > 1.0:  # 3 + 4 against 5 and 4
        assert chosen(lying, honest, others) == 2
        assert chosen(lying, StageLoad(1, (1.0,) * 8)) == 0
    else:  # 3.25 against 5 and 4, and no less
        assert chosen(lying, honest, others) == 0
        assert chosen(lying, StageLoad(1, (1.0, 1.0, 1.0))) == 1


def test_where_none_is_measured_each_counts_alike() -> None:
    assert chosen(StageLoad(0, (), 3), StageLoad(1, (), 2)) == 1
    assert chosen(StageLoad(0, (0.0, 0.0)), StageLoad(1, (0.0,))) == 1


def moved(*stages: StageLoad, fewest: int = 1, memory: int = 0) -> tuple[int, int] | None:
    """From which stage somebody moves to which, if all replicas may."""
    movable = [Movable(bytes([s.number]), s.number, speed, memory) for s in stages for speed in s.speeds]
    found = best_move(stages, movable, fewest)
    return None if found is None else (found.key[0], found.to)


def alike(*counts: int) -> list[StageLoad]:
    return [StageLoad(number, (1.0,) * count) for number, count in enumerate(counts)]


def test_one_of_a_rich_stage_moves_to_a_starved_one() -> None:
    assert moved(*alike(4, 4, 2, 4)) == (0, 2)
    assert moved(*alike(4, 3, 3, 4)) is None, "the least would stay as it is"


def test_two_stages_that_are_equally_poor_are_helped_one_after_the_other() -> None:
    assert moved(*alike(5, 5, 2, 2)) == (0, 2)
    assert moved(*alike(4, 5, 3, 2)) == (1, 3)


def test_nobody_leaves_a_stage_to_too_few_or_to_nobody() -> None:
    fast = StageLoad(0, (9.0,))
    assert moved(fast, StageLoad(1, (1.0, 1.0)), fewest=0) is None
    assert moved(*alike(3, 1)) == (0, 1)
    assert moved(*alike(3, 1), fewest=3) is None


def test_a_move_that_gains_little_is_none() -> None:
    assert moved(StageLoad(0, (1.0,) * 8), StageLoad(1, (1.0,) * 6)) is None
    assert moved(StageLoad(0, (1.0,) * 8), StageLoad(1, (1.0,) * 5)) == (0, 1)


def test_who_is_about_to_come_counts_where_it_is_going() -> None:
    assert moved(StageLoad(0, (1.0,) * 3), StageLoad(1, (1.0,), num_coming=1)) is None
    assert moved(StageLoad(0, (1.0, 1.0), num_coming=3), StageLoad(1, (1.0,))) == (0, 1)
    assert moved(StageLoad(0, (1.0,), num_coming=3), StageLoad(1, (1.0,))) is None, "they are not here yet"


def test_nobody_moves_to_where_it_does_not_fit_or_nobody_has_the_state() -> None:
    assert moved(*alike(3, 0)) == (0, 1)
    assert moved(StageLoad(0, (1.0,) * 3), StageLoad(1, (1.0,), needed_bytes=8), memory=7) is None
    assert moved(StageLoad(0, (1.0,) * 3), StageLoad(1, (), has_state=False)) is None


def test_a_stage_that_takes_longer_for_each_token_counts_as_what_it_is() -> None:
    """The layers of stage 1 cost four times as much: four replicas of it are as fast as one."""
    assert moved(StageLoad(0, (4.0,) * 4), StageLoad(1, (1.0,) * 4)) == (0, 1)
