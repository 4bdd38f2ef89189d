"""Half-open connections: the oldest of the address that has most is broken, and nobody else's."""

from __future__ import annotations

from dataclasses import replace

from transport.limits import LIMITS
from transport.sockets.half_open import FEW, HalfOpen, HalfOpenBounds
from transport.sockets.kernel import Handle


class Door:
    """Half-open connections with small bounds, and what was broken."""

    def __init__(self, per_address: int, in_all: int) -> None:
        self.broken: list[int] = []
        self.half_open = HalfOpen(HalfOpenBounds(per_address, in_all), self._break)

    def _break(self, handle: Handle) -> None:
        self.broken.append(handle[0])

    def open(self, address: str, *descriptors: int) -> None:
        for each in descriptors:
            self.half_open.opened((each, (("127.0.0.1", 1), (address, each))), 0.0)


def test_of_too_many_of_one_address_its_oldest_is_broken_and_nobody_elses() -> None:
    door = Door(2, 100)
    door.open("quiet", 1)
    door.open("loud", 2, 3, 4, 5)
    assert door.broken == [2, 3]
    assert len(door.half_open) == 3
    assert door.half_open.num_broken == 2


def test_of_too_many_in_all_the_oldest_is_broken() -> None:
    door = Door(2, 4)
    for each in range(6):
        door.open(f"address {each}", each)
    assert door.broken == [0, 1]
    assert len(door.half_open) == 4


def test_a_flood_from_several_addresses_breaks_its_own_and_not_the_few_of_another() -> None:
    door = Door(40, 100)
    door.open("member", *range(FEW))
    for each in range(100, 1000):
        door.open(f"loud {each % 4}", each)
    assert len(door.half_open) == 100
    assert set(door.broken) == set(range(100, 1000 - 100 + FEW))


def test_of_addresses_with_a_few_each_the_oldest_of_all_is_broken() -> None:
    door = Door(40, 4 * FEW)
    for each in range(100):
        door.open(f"address {each // FEW}", each)
    assert door.broken == list(range(100 - 4 * FEW))


def test_an_address_that_has_few_left_is_not_the_fullest_any_more() -> None:
    door = Door(20, 20)
    door.open("left", *range(12))
    for each in range(9):
        door.half_open.closed(each)
    door.open("loud", *range(100, 120))
    assert door.broken == [100, 101, 102]


def test_one_over_which_something_came_does_not_count_any_more() -> None:
    door = Door(2, 3)
    door.open("a", 1, 2)
    for each in (1, 2, 2, 77):
        door.half_open.closed(each)
    assert len(door.half_open) == 0
    door.open("a", 3, 4)
    assert door.broken == []


def test_a_descriptor_that_is_given_out_anew_is_another_connection() -> None:
    door = Door(2, 3)
    door.open("a", 1, 2)
    door.open("b", 1)
    door.open("a", 3)
    assert door.broken == []
    assert len(door.half_open) == 3


def test_bounds_are_those_of_the_limits_and_a_part_of_few_descriptors() -> None:
    limits = replace(LIMITS, half_open_per_address=256, half_open=1024)
    assert HalfOpenBounds.of(limits, 1 << 16) == HalfOpenBounds(256, 1024)
    assert HalfOpenBounds.of(limits, 1024) == HalfOpenBounds(128, 256)
    assert HalfOpenBounds.of(limits, 2) == HalfOpenBounds(1, 1)
