"""Averaging: rounds and gossip can both do all that a member asks, and it asks nothing else."""

from __future__ import annotations

import inspect

import pytest

from peers.member.averaging import Averaging
from peers.member.rounds import Rounds
from peers.member.swaps import Swaps
from peers.protocol.messages import Abort, Open


def asked() -> list[str]:
    return [name for name, each in vars(Averaging).items() if inspect.isfunction(each) and name[0] != "_"]


@pytest.mark.parametrize("way", [Rounds, Swaps])
def test_both_ways_take_what_a_member_gives_them(way: type) -> None:
    assert len(asked()) > 5
    for name in asked():
        expected = inspect.signature(getattr(Averaging, name)).parameters
        assert list(inspect.signature(getattr(way, name)).parameters) == list(expected), name


def test_only_the_coordinator_of_rounds_has_a_say_and_only_there_all_are_linked() -> None:
    nothing = [None] * 7
    rounds, swaps = Rounds(*nothing[:5]), Swaps(*nothing)  # type: ignore[arg-type]
    assert set(rounds.handlers) == {Open, Abort}
    assert not swaps.handlers
    assert rounds.needs_all_links
    assert not swaps.needs_all_links
