"""When a worker writes: at records that all agree on, less often if it is slow, never two at a time."""

from __future__ import annotations

from itertools import pairwise

from diloco.checkpoints.boundaries import Boundaries
from diloco.settings.sections import MAX_COMMITS_BETWEEN


def written(boundaries: Boundaries, records: int, seconds: float, takes_s: float) -> list[int]:
    """The records at which one is written, if records come every ``seconds``, and writing takes so long."""
    found, ends_at = [], None
    for index in range(1, records + 1):
        now = index * seconds
        if ends_at is not None and now >= ends_at:
            boundaries.end(ends_at)
            ends_at = None
        if boundaries.is_due(now, index):
            assert ends_at is None, "two at a time"
            boundaries.begin(now, index)
            ends_at = now + takes_s
            found.append(index)
    return found


def test_who_keeps_up_writes_at_every_record() -> None:
    assert written(Boundaries(1), 5, seconds=60.0, takes_s=1.0) == [1, 2, 3, 4, 5]


def test_fragments_have_one_boundary_for_each_time_that_all_of_them_moved() -> None:
    assert written(Boundaries(4), 12, seconds=60.0, takes_s=1.0) == [4, 8, 12]


def test_who_is_not_done_at_a_boundary_writes_half_as_often_and_heads_of_all_coincide() -> None:
    slow = written(Boundaries(1), 64, seconds=60.0, takes_s=150.0)
    assert slow[:4] == [1, 4, 8, 12]
    assert set(slow) <= set(written(Boundaries(1), 64, seconds=60.0, takes_s=1.0))


def test_between_two_there_is_a_least_time() -> None:
    found = written(Boundaries(1, least_s=10.0), 100, seconds=1.0, takes_s=0.1)
    assert all(later - earlier >= 10 for earlier, later in pairwise(found))
    assert found[-1] == 96


def test_records_that_come_fast_for_a_moment_double_it_once() -> None:
    boundaries = Boundaries(1)
    assert boundaries.is_due(0.0, 1)
    boundaries.begin(0.0, 1)
    for index in range(2, 100):
        assert not boundaries.is_due(0.1, index)
    assert boundaries.every == 2


def test_who_has_long_been_done_writes_more_often_again() -> None:
    boundaries = Boundaries(1)
    written(boundaries, 64, seconds=1.0, takes_s=20.0)
    assert boundaries.every == 8
    now = 1000.0
    boundaries.end(now)
    for index in range(65, 400):
        now += 60.0
        if boundaries.is_due(now, index):
            boundaries.begin(now, index)
            boundaries.end(now + 1.0)
    assert boundaries.every == 1


def test_however_long_writing_takes_a_boundary_comes_before_the_coordinator_forgets() -> None:
    for num_fragments in (1, 3, 7, 256):
        boundaries = Boundaries(num_fragments)
        written(boundaries, 8 * MAX_COMMITS_BETWEEN, seconds=0.001, takes_s=1.7)
        assert boundaries.every * num_fragments <= MAX_COMMITS_BETWEEN


def test_of_whoever_cannot_keep_up_the_boundaries_are_some_of_the_others_however_slow_it_is() -> None:
    slow = Boundaries(3)
    found = written(slow, 6000, seconds=1.0, takes_s=400.0)
    assert slow.every == 64, "85 would meet nobody else's"
    assert all(index % 3 == 0 for index in found)


def test_the_owner_says_how_many_commits_there_are_between_two_at_the_least() -> None:
    assert written(Boundaries(2, least_every=3), 24, seconds=60.0, takes_s=1.0) == [6, 12, 18, 24]
    slow = written(Boundaries(1, least_every=3), 60, seconds=60.0, takes_s=250.0)
    assert set(slow) <= set(range(0, 61, 3))
    assert slow[1] - slow[0] >= 6


def test_who_keeps_up_again_goes_back_to_what_the_owner_says_and_no_further() -> None:
    boundaries = Boundaries(1, least_every=3)
    written(boundaries, 60, seconds=60.0, takes_s=500.0)
    assert boundaries.every > 3
    boundaries.end(60 * 60.0 + 500.0)
    for index in range(120, 400):
        now = 60.0 * index
        if boundaries.is_due(now, index):
            boundaries.begin(now, index)
            boundaries.end(now + 1.0)
    assert boundaries.every == 3


def test_what_the_owner_says_may_change_meanwhile() -> None:
    boundaries = Boundaries(1)
    written(boundaries, 64, seconds=1.0, takes_s=20.0)
    slow = boundaries.every
    assert slow > 1
    boundaries.follow(1)
    assert boundaries.every == slow, "nothing was changed"
    boundaries.follow(5)
    boundaries.end(1000.0)
    assert [index for index in range(65, 76) if boundaries.is_due(1000.0 + index, index)] == [65, 70, 75]


def test_no_record_has_two() -> None:
    boundaries = Boundaries(1)
    assert boundaries.is_due(0.0, 8)
    boundaries.begin(0.0, 8)
    boundaries.end(1.0)
    assert not boundaries.is_due(100.0, 8)
