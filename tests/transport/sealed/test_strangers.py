"""Connections that show nothing: so many in all, so many of one address, for two seconds."""

from __future__ import annotations

from transport.limits import LIMITS
from transport.sealed.strangers import Strangers


def test_eight_of_one_address_and_no_more() -> None:
    strangers = Strangers(LIMITS)
    assert [strangers.came(0.0, number, "1.2.3.4") for number in range(10)] == [True] * 8 + [False] * 2
    assert strangers.came(0.0, 10, "1.2.3.5")
    strangers.done(3)
    assert strangers.came(0.0, 11, "1.2.3.4")
    assert not strangers.came(0.0, 12, "1.2.3.4")


def test_64_in_all_and_no_more_however_many_addresses() -> None:
    strangers = Strangers(LIMITS)
    assert all(strangers.came(0.0, number, f"1.2.3.{number}") for number in range(64))
    assert not strangers.came(0.0, 64, "1.2.3.64")
    assert len(strangers) == 64
    strangers.done(0)
    assert strangers.came(0.0, 65, "1.2.3.65")


def test_who_shows_nothing_for_two_seconds_is_to_be_closed_and_makes_room() -> None:
    strangers = Strangers(LIMITS)
    assert strangers.due() is None
    for number in range(8):
        assert strangers.came(number / 10, number, "1.2.3.4")
    assert strangers.due() == 2.0
    assert strangers.late(1.9) == []
    assert strangers.late(2.15) == [0, 1]
    assert strangers.late(2.15) == []
    assert len(strangers) == 6
    assert strangers.came(2.15, 8, "1.2.3.4")


def test_whoever_opened_is_never_late_and_nothing_is_remembered_of_it() -> None:
    strangers = Strangers(LIMITS)
    for number in range(1_000):
        assert strangers.came(0.0, number, f"1.2.{number // 250}.{number % 250}")
        strangers.done(number)
        strangers.done(number)
    assert len(strangers) == 0
    assert strangers.late(100.0) == []
    assert repr(strangers).count("1.2.") == 0
