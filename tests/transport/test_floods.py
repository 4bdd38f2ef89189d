"""Floods of connections: a loud address is let in as often as its bound says, and nobody else waits."""

from __future__ import annotations

from random import Random

from transport.floods import LEAST, MOST_ADDRESSES, MOST_SEEN, OTHERS, WINDOW_S, Floods

PER_S = 200


def windows(floods: Floods, number: int, rates: dict[str | None, float], began: float = 0.0) -> float:
    """So many windows in which connections come evenly at these rates, as far as they are let in; when the
    last one is over."""
    draws = Random(3)
    for window in range(number):
        now = began + window * WINDOW_S
        for address, rate in rates.items():
            share = floods.shares.get(address or OTHERS, floods.shares.get(OTHERS, 1.0))
            for _ in range(sum(draws.random() < share for _ in range(int(rate * WINDOW_S)))):
                floods.came(now, address)
        floods.decide(now + WINDOW_S)
    return began + number * WINDOW_S


def test_of_a_loud_address_as_many_are_let_in_as_the_bound_says() -> None:
    floods = Floods(PER_S)
    windows(floods, 20, {"10.0.0.1": 4000.0, "10.0.0.2": 5.0})
    assert set(floods.shares) == {"10.0.0.1"}
    assert 0.5 * PER_S < floods.shares["10.0.0.1"] * 4000 < 1.5 * PER_S


def test_an_address_that_is_quiet_again_is_let_in_again() -> None:
    floods = Floods(PER_S)
    ended = windows(floods, 4, {"10.0.0.1": 4000.0})
    assert floods.shares
    windows(floods, 8, {"10.0.0.1": 1.0}, ended)
    assert floods.shares == {}
    assert floods.due is None


def test_what_has_gone_counts_for_those_who_were_seen() -> None:
    floods = Floods(PER_S)
    for each in range(1000):
        floods.came(0.0, "10.0.0.1" if each % 10 == 0 else None)
    assert floods.decide(WINDOW_S)
    assert floods.shares == {"10.0.0.1": PER_S / 2000}


def test_who_was_seen_now_and_then_is_not_blamed_for_what_has_gone() -> None:
    floods = Floods(PER_S)
    for _ in range(2):
        floods.came(0.0, "10.0.0.2")
    for each in range(3000):
        floods.came(0.0, "10.0.0.1" if each < 16 else None)
    assert floods.decide(WINDOW_S)
    assert set(floods.shares) == {"10.0.0.1"}


def test_where_nobody_was_seen_all_are_held_back_and_a_part_comes_in_still() -> None:
    floods = Floods(PER_S)
    windows(floods, 20, {None: 1e5})
    assert floods.shares == {OTHERS: LEAST}


def test_many_addresses_that_are_each_quiet_are_held_back_together() -> None:
    floods = Floods(PER_S)
    windows(floods, 10, {f"10.0.{each}.1": 40.0 for each in range(200)})
    assert set(floods.shares) == {OTHERS}
    assert floods.shares[OTHERS] < 0.3


def test_a_swarm_that_comes_back_at_once_is_let_in() -> None:
    floods = Floods(PER_S)
    for each in range(64):
        floods.came(0.0, "10.0.0.1")
        floods.came(0.0, f"10.1.0.{each}")
    assert not floods.decide(WINDOW_S)
    assert floods.shares == {}


def test_before_a_window_is_over_nothing_is_decided() -> None:
    floods = Floods(PER_S)
    assert floods.due is None
    for _ in range(1000):
        floods.came(0.0, "10.0.0.1")
    assert floods.due == WINDOW_S
    assert not floods.decide(WINDOW_S - 0.01)


def test_only_so_many_addresses_have_a_share_of_their_own() -> None:
    floods = Floods(PER_S)
    windows(floods, 3, {f"10.0.{each}.1": 500.0 + 10 * each for each in range(MOST_ADDRESSES + 5)})
    assert len(floods.shares.keys() - {OTHERS}) == MOST_ADDRESSES


def test_addresses_without_end_are_not_all_remembered() -> None:
    floods = Floods(PER_S)
    for each in range(10_000):
        floods.came(0.0, str(each))
    assert floods.num_seen == MOST_SEEN
