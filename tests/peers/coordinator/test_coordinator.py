"""The coordinator by itself: whom it lets enter, what it tells them, and what survives it."""

from __future__ import annotations

from typing import Any

import pytest

from peers.protocol.messages import (
    PROTOCOL,
    Applied,
    Committed,
    Done,
    Entered,
    Finished,
    MemberGone,
    Open,
    Pace,
    Ready,
    Refused,
    Withdraw,
)
from peers.protocol.orders import Obeyed
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, speed, trained
from transport.errors import BadFrame
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
    assert [told.fastest for told in swarm.told(1, Pace)] == [40.0]
    swarm.hear(0, speed(200.0))
    swarm.hear(1, speed(30.0))
    assert [told.fastest for told in swarm.told(1, Pace)] == [40.0, 60.0], "twice the slower one at most"


def test_whoever_is_put_out_is_told_and_comes_in_no_more_over_restarts_too() -> None:
    swarm = trained(3)
    assert isinstance(swarm.core.kick(swarm.now, "w2"), Obeyed)
    swarm.hear(2, Finished(0))
    refused, again = swarm.told(2, Refused)
    assert again == refused, "whoever did not hear it is told once more"
    assert swarm.core.admits(key(2))
    swarm.later(60.0)
    assert refused.code == "kicked"
    assert [gone.key for gone in swarm.told(1, MemberGone)] == [key(2)]
    for each in (swarm, Swarm(swarm.journal)):
        assert not each.core.admits(key(2))
        assert each.core.certify(key(2), "under another name") == refused
        each.enter(2)
        assert not each.core.roster.entries[key(2)].entered, "a word that was under way changes nothing"
        assert each.core.certify(key(1), "w1") is None


def test_a_round_goes_on_without_whoever_is_put_out() -> None:
    swarm = trained(3, min_peers=2)
    found = opened(swarm, 1, 2, 3)
    swarm.core.kick(swarm.now, "w2")
    again = swarm.told(1, Open)[-1]
    assert (again.serial, again.attempt, again.lost) == (found.serial, 1, (1,))


@pytest.mark.parametrize(("who", "code"), [("nobody", "unknown"), ("w255", "host"), ("twin", "ambiguous")])
def test_who_is_meant_must_be_clear_and_not_the_host(who: str, code: str) -> None:
    swarm = trained(1)
    swarm.enter(255)
    for index in (2, 3):
        swarm.enter(index, name="twin")
    before = list(swarm.journal)
    answer = swarm.core.kick(swarm.now, who)
    assert isinstance(answer, Refused)
    assert (answer.code, swarm.journal) == (code, before)
    one = swarm.core.roster.entries[key(3)].full_name
    assert one in answer.detail or code != "ambiguous"
    assert isinstance(swarm.core.kick(swarm.now, one), Obeyed)
    assert [e.key for e in swarm.core.roster.entered()] == [key(1), key(255), key(2)]


def test_a_worker_that_is_away_can_be_put_out_with_all_its_identities_and_one_that_is_here_alone() -> None:
    swarm = Swarm()
    for index in (1, 2, 3):
        swarm.core.certify(key(index), "box")
    swarm.enter(3, name="box")
    assert isinstance(swarm.core.kick(0.0, "box"), Obeyed)
    assert [swarm.core.roster.admits(key(i)) for i in (1, 2, 3)] == [True, True, False]
    assert isinstance(swarm.core.kick(0.0, "box"), Obeyed)
    assert [swarm.core.roster.admits(key(i)) for i in (1, 2, 3)] == [False] * 3


def test_a_run_that_is_stopped_finishes_what_is_open_and_is_over_for_all_over_restarts_too() -> None:
    swarm = trained(2)
    found = opened(swarm, 1, 2)
    assert isinstance(swarm.core.stop(swarm.now), Obeyed)
    assert swarm.told(1, Finished) == []
    for index in (1, 2):
        swarm.hear(index, Done(found.serial, 0, RESULT))
    (committed,) = swarm.told(1, Committed)
    head = unpack(committed.record).hash()
    for index in (1, 2):
        assert swarm.told(index, Finished) == []
        swarm.hold(index, head)
    assert [swarm.told(index, Finished) for index in (1, 2)] == [[Finished(1)]] * 2
    assert swarm.core.over(swarm.now)
    swarm.ready(1)
    swarm.ready(2)
    assert len(swarm.told(1, Open)) == 1, "no other round opens"
    journal = list(swarm.journal)
    assert isinstance(swarm.core.stop(swarm.now), Obeyed)
    assert swarm.journal == journal, "once more changes nothing"
    assert Swarm(journal).core.finished


def test_who_enters_a_run_that_is_over_is_told_so_at_once() -> None:
    swarm = trained(1)
    swarm.core.stop(swarm.now)
    again = Swarm(swarm.journal)
    again.greet(1, head=ROOT, holds_state=True)
    assert [[each.over for each in told.told(1, Entered)] for told in (swarm, again)] == [[False], [True]]


def test_a_run_that_is_stopped_waits_for_a_round_that_stands_still_as_long_as_at_its_end() -> None:
    swarm = trained(2, grace_s=10.0, failure_timeout_s=2.0)
    opened(swarm, 1, 2)
    swarm.core.stop(swarm.now)
    swarm.later(13.0)
    assert swarm.told(1, Finished) == []
    swarm.later(2.0)
    assert swarm.told(1, Finished) == [Finished(0)]


def test_a_run_that_gossips_and_is_stopped_is_over_for_all_at_once() -> None:
    swarm = Swarm(gossips=True)
    for index in (1, 2):
        swarm.enter(index)
    swarm.core.stop(0.0)
    assert [swarm.told(index, Finished) for index in (1, 2)] == [[Finished(0)]] * 2
    assert swarm.core.over(0.0)


@pytest.mark.parametrize(
    "message",
    [Ready(1, ROOT, 8, 8, 1, 1.0), Withdraw(1, 1), Applied(1, ROOT, RESULT[:16])],
    ids=lambda each: type(each).__name__,
)
def test_a_fragment_that_the_model_does_not_have_is_refused_and_nothing_is_kept(message: Any) -> None:
    swarm = trained(2)
    said, held = len(swarm.said), dict(swarm.core.roster.entries[key(1)].checks)
    with pytest.raises(BadFrame, match="fragment 1 of 1"):
        swarm.hear(1, message)
    assert len(swarm.said) == said
    assert swarm.core.roster.entries[key(1)].ready == {}
    assert swarm.core.roster.entries[key(1)].checks == held
