"""What a member is told of its coordinator: each thing once, and that it is back once it is heard again."""

from __future__ import annotations

from peers.member.coordinator_watch import CoordinatorWatch
from peers.protocol.events import CoordinatorBack, CoordinatorDiskFull, CoordinatorLost

TIMEOUT_S = 4.0


def watch() -> tuple[CoordinatorWatch, list[object]]:
    told: list[object] = []
    found = CoordinatorWatch(TIMEOUT_S, told.append)
    found.start(1.0)
    return found, told


def test_silence_counts_from_the_start_and_is_told_once() -> None:
    watched, told = watch()
    watched.look(5.0, 0.0)
    assert told == []
    for now in (5.5, 6.0, 7.0):
        watched.look(now, 0.0)
    watched.look(8.0, 7.5)
    assert told == [CoordinatorLost(4.5), CoordinatorBack()]


def test_a_full_disk_is_told_once_however_often_it_is_said_and_ends_with_any_other_word() -> None:
    watched, told = watch()
    for now in (2.0, 3.0, 4.0):
        watched.disk_full(now)
        watched.look(now, 1.5)
    assert told == [CoordinatorDiskFull()]
    watched.look(4.5, 4.25)
    assert told == [CoordinatorDiskFull(), CoordinatorBack()]


def test_a_full_disk_that_lasts_is_silence_too_and_both_are_over_at_once() -> None:
    watched, told = watch()
    for now in range(2, 9):
        watched.disk_full(float(now))
        watched.look(float(now), 1.5)
    watched.look(9.0, 8.5)
    watched.look(10.0, 8.5)
    assert told == [CoordinatorDiskFull(), CoordinatorLost(4.5), CoordinatorBack()]
