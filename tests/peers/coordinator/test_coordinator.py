"""The coordinator by itself: whom it lets enter, what it tells them, and what survives it."""

from __future__ import annotations

from typing import Any

import pytest

from peers.protocol.messages import (
    PROTOCOL,
    Committed,
    Done,
    Pace,
    Refused,
)
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, opened, speed, trained
from transport.frames import unpack


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"settings": b"x" * 32}, "settings"),
        ({"tensors": b"x" * 32}, "tensors"),
        ({"shapes": b"x" * 32}, "shapes"),
        ({"codec": "int8"}, "codec"),
        ({"elements": (50, 50)}, "fragments"),
        ({"protocol": PROTOCOL + 1}, "protocol"),
    ],
)
def test_whoever_differs_learns_what_differs(changes: dict[str, Any], code: str) -> None:
    swarm = trained(1)
    swarm.enter(2, **changes)
    assert swarm.told(2, Refused)[0].code == code
    assert len(swarm.core.roster.entered()) == 1


def test_a_second_member_that_accepts_no_connections_is_refused() -> None:
    swarm = Swarm()
    swarm.enter(1, addresses=())
    swarm.enter(2, addresses=())
    assert swarm.told(2, Refused)[0].code == "unreachable"


def test_a_restarted_coordinator_goes_on_where_it_was() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    again = Swarm(journal=swarm.journal)
    assert again.chain.head == swarm.chain.head
    assert again.core.state.term == swarm.core.state.term + 1
    again.enter(1, head=ROOT, holds_state=True)
    assert unpack(again.told(1, Committed)[0].record).result == RESULT
    assert again.core.state.next_serial() > serial


def test_slow_members_are_told_how_fast_the_fastest_is_when_that_changes() -> None:
    swarm = Swarm(paces=True)
    for index in range(2):
        swarm.enter(index)
    swarm.hear(0, speed(100.0))
    swarm.hear(1, speed(20.0))
    swarm.hear(1, speed(21.0))
    assert [told.fastest for told in swarm.told(1, Pace)] == [100.0]
    swarm.hear(0, speed(200.0))
    swarm.hear(1, speed(20.0))
    assert [told.fastest for told in swarm.told(1, Pace)] == [100.0, 200.0]
