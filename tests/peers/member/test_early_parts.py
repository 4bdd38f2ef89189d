"""Parts that leave before their round opens: they count where `Open` names them, and never else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.member.contributions import Contributions
from peers.member.early_parts import EarlyParts
from peers.member.exchanges import Exchanges
from peers.member.rounds import Rounds
from peers.protocol.commands import Offer
from peers.protocol.messages import Decline, Done, Open
from tests.peers.member.fakes import (
    BASE,
    HOST,
    ME,
    OTHER,
    PATIENCE_S,
    SIZE,
    THIRD,
    TIMEOUT_S,
    FakeOutlet,
    vector,
)
from transport.collectives.chunks import EarlyPart, PartChunk
from transport.collectives.plan import Plan
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import Limits
from transport.link.streams import FRAME_COST

CHUNK = 2
"""Elements: two chunks for each of two owners."""
COST = 4 * CHUNK + FRAME_COST
LIMITS = Limits(payload_bytes=64, early_bytes=2 * COST)
CUT = Plan(0, (ME, OTHER), (1.0, 1.0)).cut(CHUNK)


class Member:
    """One member's part in rounds, and what it has to say."""

    def __init__(self, key: bytes, limits: Limits) -> None:
        self.key = key
        self.outlet = FakeOutlet()
        self.contributions = Contributions(key, HOST, self.outlet)
        self.exchanges = Exchanges(self.outlet, TIMEOUT_S, PATIENCE_S)
        self.rounds = Rounds(key, HOST, self.contributions, self.exchanges, self.outlet, limits=limits)
        self.early: EarlyParts = self.rounds.early

    def offer(self, value: float, fragment: int = 0) -> None:
        self.contributions.offer(BASE, Offer(fragment, 100, 100, vector(value), 1.0))
        self.rounds.offered(0.0, fragment)
        self.pump()

    def pump(self) -> None:
        self.rounds.pump(0.0)
        while self.exchanges.busy:
            self.rounds.pump(0.0)

    def sent(self, kind: type) -> list[int]:
        """Chunks of that kind that wait to be carried."""
        return [message.chunk for _, message, _ in self.outlet.bulk if type(message) is kind]

    def take(self, peer: bytes, message: Any, payload: Payload) -> None:
        if isinstance(message, EarlyPart):
            self.rounds.take_early(0.0, peer, message, payload, COST)
        else:
            self.rounds.take_chunk(0.0, peer, message, payload, COST)


class Two:
    """ME and OTHER after so many rounds of both, and what they say to each other."""

    def __init__(self, num_rounds: int = 2, limits: Limits = LIMITS) -> None:
        self.members = {key: Member(key, limits) for key in (ME, OTHER)}
        self.me, self.other = self.members[ME], self.members[OTHER]
        self.serial = 0
        for _ in range(num_rounds):
            self.offer()
            self.open()
            self.carry()
            self.end()

    def offer(self) -> None:
        for value, member in enumerate(self.members.values()):
            member.offer(1.0 + 2.0 * value)

    def open(self, *keys: bytes, **changes: Any) -> None:
        self.serial += not changes.get("attempt")
        numbers = tuple(member.contributions.num_offered for member in self.members.values())
        message = Open(self.serial, 0, 0, BASE, CHUNK, (ME, OTHER), (1.0, 1.0), (), numbers=numbers)
        for key in keys or (ME, OTHER):
            self.members[key].rounds.open(0.0, replace(message, **changes))

    def carry(self) -> None:
        """Every chunk that is sent, until none is."""
        moved = True
        while moved:
            moved = False
            for member in self.members.values():
                bulk, member.outlet.bulk = member.outlet.bulk, []
                for to, message, payload in bulk:
                    self.members[to].take(member.key, message, payload)
                    moved = True
            for member in self.members.values():
                member.pump()

    def end(self) -> None:
        """Both have done the round, and hold the mean."""
        for member in self.members.values():
            running = member.exchanges.close(0.0, self.serial)
            assert running is not None
            assert running.exchange.done
            assert (running.exchange.reducer.output == 2.0).all()  # type: ignore[attr-defined]
            del member.contributions.offered[0]


def test_after_two_rounds_of_one_list_parts_leave_before_the_round_opens_and_are_sent_once() -> None:
    two = Two()
    two.offer()
    assert two.me.sent(EarlyPart) == [2, 3]
    assert {to for to, _, _ in two.me.outlet.bulk} == {OTHER}
    two.carry()
    assert not two.me.exchanges.running
    two.open()
    assert not two.other.early.held
    assert not two.me.sent(PartChunk)
    two.carry()
    two.end()
    returned = sum(cost for _, cost in two.me.outlet.returned)
    assert returned == 3 * 4 * COST, "of three rounds, two parts and two means"


@pytest.mark.parametrize("num_rounds", [0, 1])
def test_before_the_list_was_the_same_twice_nothing_leaves_early(num_rounds: int) -> None:
    two = Two(num_rounds)
    two.offer()
    assert not two.me.outlet.bulk


@pytest.mark.parametrize("late", ["parts", "open"])
def test_whether_parts_come_before_their_round_opens_or_after_all_count_and_once(late: str) -> None:
    two = Two()
    two.offer()
    if late == "parts":
        bulk, two.me.outlet.bulk = two.me.outlet.bulk, []
        two.open()
        two.carry()
        two.me.outlet.bulk += bulk
    else:
        two.open(ME)
        two.carry()
        assert not two.other.exchanges.running
        two.serial -= 1
        two.open(OTHER)
    assert not two.me.sent(PartChunk)
    two.carry()
    two.end()


@pytest.mark.parametrize(
    "changes",
    [
        {"idle": (1,)},
        {"chunk_elements": SIZE // 2},
        {"founders": (ME, OTHER, THIRD), "weights": (1.0,) * 3, "numbers": (3, 3, 1)},
    ],
)
def test_where_the_round_is_another_than_was_thought_all_parts_are_sent_as_ever(
    changes: dict[str, Any],
) -> None:
    two = Two()
    two.offer()
    two.me.outlet.bulk.clear()
    two.open(ME, **changes)
    two.me.pump()
    running = two.me.exchanges.running[3]
    assert running.plan is not None
    num_chunks = running.exchange.num_chunks
    owned = [c for c in range(num_chunks) if running.plan.owner(c, num_chunks) != ME]
    assert sorted(two.me.sent(PartChunk)) == owned
    two.me.contributions.offered.clear()
    two.me.offer(1.0)
    assert bool(two.me.sent(EarlyPart)) is ("chunk_elements" in changes), (
        "with another list the next ones wait"
    )


@pytest.mark.parametrize("offers_again", [False, True])
def test_with_a_contribution_that_is_taken_back_nobody_comes_to_a_result_though_its_parts_have_left(
    offers_again: bool,
) -> None:
    two = Two()
    two.offer()
    two.carry()
    assert two.me.contributions.withdraw(0.0, 0) is not None
    two.open(OTHER)
    two.serial -= 1
    if offers_again:
        two.me.offer(9.0)
    two.open(ME, numbers=(3, 3))
    assert two.me.outlet.told(HOST, Decline)
    two.carry()
    running = two.other.exchanges.running[3]
    assert not running.exchange.done
    assert running.exchange.waiting_for() == {ME}, "its own means are missing"
    # The coordinator goes on without it: what came early is for no other attempt.
    two.open(OTHER, attempt=1, serial=3, lost=(0,), numbers=(3, 3))
    two.other.pump()
    assert running.exchange.done
    assert (running.exchange.reducer.output == 3.0).all()  # type: ignore[attr-defined]


def test_in_a_second_attempt_nothing_counts_that_left_early_and_all_is_sent_again() -> None:
    """By then a result may need no mean of an author who has not heard of the round yet."""
    two = Two()
    two.offer()
    two.open(OTHER)
    two.serial -= 1
    two.me.outlet.bulk, bulk = [], two.me.outlet.bulk
    for to, message, payload in bulk:
        two.members[to].take(ME, message, payload)
    running = two.other.exchanges.running[3]
    assert not running.exchange.owing_parts()
    two.open(OTHER, attempt=1, serial=3, idle=(0,))
    assert running.exchange.owing_parts() == {ME}
    two.open(ME, serial=3)
    two.open(ME, attempt=1, serial=3, idle=(0,))
    two.carry()
    two.end()


def test_a_part_that_came_early_and_again_in_the_round_counts_in_a_second_attempt() -> None:
    two = Two()
    two.offer()
    two.carry()
    two.me.rounds.resume_link(OTHER)
    two.me.early.entered(0.0)
    two.open()
    assert two.me.sent(PartChunk) == [2, 3]
    two.carry()
    two.open(attempt=1)
    two.carry()
    two.end()


def test_what_was_trained_on_since_is_sent_anew_and_not_mixed_with_what_left_before() -> None:
    two = Two()
    two.other.offer(3.0)
    two.me.offer(9.0)
    two.carry()
    two.me.contributions.withdraw(0.0, 0)
    two.me.offer(1.0)
    two.open()
    two.carry()
    two.end()


def test_parts_that_were_lost_with_a_link_are_sent_in_the_round() -> None:
    two = Two()
    two.offer()
    two.me.outlet.bulk.clear()
    for member, peer in ((two.me, OTHER), (two.other, ME)):
        member.rounds.resume_link(peer)
    two.open()
    two.carry()
    two.end()


def test_parts_that_were_lost_with_a_link_after_their_round_opened_are_sent_again() -> None:
    two = Two()
    two.offer()
    two.me.outlet.bulk.clear()
    two.open()
    for member, peer in ((two.me, OTHER), (two.other, ME)):
        member.rounds.resume_link(peer)
    two.carry()
    two.end()


def test_in_a_proved_round_and_in_a_later_attempt_nothing_counts_that_left_before() -> None:
    two = Two()
    two.offer()
    two.me.outlet.bulk.clear()
    two.serial += 1
    two.open(ME, attempt=1)
    two.me.pump()
    running = two.me.exchanges.running[3]
    two.me.take(OTHER, EarlyPart(3, CUT, 0), bytes(4 * CHUNK))
    assert running.exchange.owing_parts() == {OTHER}
    assert two.me.sent(PartChunk) == [2, 3]
    two = Two()
    two.offer()
    message = Open(3, 0, 0, BASE, CHUNK, (ME, OTHER), (1.0, 1.0), (), proved=True, numbers=(3, 3))
    proved = Plan(0, (ME, OTHER), (1.0, 1.0), proved=True)
    assert not two.me.early.joined(message, proved, two.me.contributions.offered[0])
    two.me.take(OTHER, EarlyPart(3, CUT, 0), bytes(4 * CHUNK))
    two.me.early.opened(0.0, message, proved, running)
    assert not running.early
    assert not two.me.early.held


def test_more_than_the_bound_does_not_leave_and_what_is_beyond_it_goes_in_the_round() -> None:
    two = Two(limits=replace(LIMITS, early_bytes=COST))
    two.offer()
    assert two.me.sent(EarlyPart) == [2]
    two.open()
    two.me.pump()
    assert two.me.sent(PartChunk) == [3]
    two.carry()
    two.end()


def test_what_no_frame_takes_does_not_leave_early() -> None:
    """A vector's format may have changed since its last round, for which its chunks were cut."""
    two = Two(limits=replace(LIMITS, payload_bytes=4 * CHUNK - 1))
    two.offer()
    assert two.me.sent(EarlyPart) == two.other.sent(EarlyPart) == []


def test_some_credit_is_left_for_all_else() -> None:
    two = Two()
    two.me.outlet.room_bytes = 2 * LIMITS.payload_bytes + 4 * CHUNK - 1
    two.offer()
    assert not two.me.sent(EarlyPart)
    two.me.outlet.room_bytes += 1
    two.me.pump()
    assert two.me.sent(EarlyPart)


def test_one_who_sends_too_much_twice_or_for_no_round_changes_nothing_of_others() -> None:
    two, junk = Two(), np.full(CHUNK, 77.0, np.float32).tobytes()
    two.other.outlet.returned.clear()
    for number in range(5):
        for chunk in (0, 1, 2, 2, 3, 99):
            two.other.take(THIRD, EarlyPart(number, CUT, chunk), junk)
            two.other.take(THIRD, EarlyPart(max(0, number - 1), CUT, chunk), junk)
            two.other.take(THIRD, EarlyPart(number, bytes(16), chunk + 10), junk)
    held = two.other.early.held
    assert held.keys() == {THIRD}
    assert held[THIRD].cost == 2 * COST
    assert len(two.other.outlet.returned) == 5 * 18 - 2 - 4, (
        "the last two are held; four were one payment for two"
    )
    two.offer()
    two.open()
    two.carry()
    two.end()


def test_early_parts_of_a_round_that_do_not_fit_it_are_their_authors_fault() -> None:
    two = Two()
    two.offer()
    two.open()
    with pytest.raises(BadFrame, match="bytes instead of"):
        two.other.take(ME, EarlyPart(3, CUT, 2), bytes(4))
    with pytest.raises(BadFrame, match="someone else"):
        two.other.take(ME, EarlyPart(3, CUT, 0), bytes(4 * CHUNK))
    two.carry()
    two.end()


def test_early_parts_that_do_not_fit_and_were_held_are_not_the_coordinators_fault() -> None:
    two = Two()
    two.offer()
    two.me.outlet.bulk.clear()
    for chunk, size in ((0, 4 * CHUNK), (2, 4), (99, 4)):
        two.other.take(ME, EarlyPart(3, CUT, chunk), bytes(size))
    two.open()
    assert two.other.exchanges.running[3].exchange.owing_parts() == {ME}


def test_an_author_who_owns_no_chunk_sends_nothing_early_and_nothing_of_it_is_used() -> None:
    """Others would come to a result without a word of it, though it may have taken back what it offered."""
    two = Two(0)
    for _ in range(2):
        two.offer()
        two.open(idle=(0,))
        two.carry()
        two.end()
    two.offer()
    assert not two.me.sent(EarlyPart)
    assert not two.other.sent(EarlyPart), "nor does anything leave for it"
    cut = Plan(0, (ME, OTHER), (1.0, 1.0), idle=frozenset({ME})).cut(CHUNK)
    two.other.take(ME, EarlyPart(3, cut, 2), vector(9.0).encode(0))
    two.open(OTHER, idle=(0,))
    assert two.other.exchanges.running[3].exchange.owing_parts() == {ME}
    assert not two.other.early.held
    two.serial -= 1
    two.open(ME, idle=(0,))
    two.carry()
    two.end()


def test_of_several_contributions_the_first_leaves_early_and_the_others_in_their_rounds() -> None:
    two = Two()
    two.offer()
    opened = Open(2, 0, 1, BASE, CHUNK, (ME, OTHER), (1.0, 1.0), ())
    two.me.early.learn(opened, Plan(0, (ME, OTHER), (1.0, 1.0)))
    before = len(two.me.outlet.bulk)
    two.me.offer(5.0, fragment=1)
    assert len(two.me.outlet.bulk) == before


def test_the_next_parts_leave_no_earlier_than_those_before_are_used() -> None:
    two = Two()
    two.me.early.learn(
        Open(2, 0, 1, BASE, CHUNK, (ME, OTHER), (1.0, 1.0), ()), Plan(0, (ME, OTHER), (1.0, 1.0))
    )
    two.offer()
    two.carry()
    two.open(ME)
    two.me.offer(5.0, fragment=1)
    two.carry()  # the other one has not heard yet that the round opened, and holds what is for it
    two.serial -= 1
    two.open(OTHER, numbers=(3, 3))
    two.carry()
    two.end()
    two.me.offer(7.0, fragment=0)
    assert two.me.sent(EarlyPart) == [2, 3]


def test_once_the_coordinator_remembers_no_round_nothing_leaves_early_until_two_are_alike() -> None:
    two = Two()
    two.me.rounds.entered(0.0)
    two.offer()
    assert not two.me.outlet.bulk
    two.open()
    two.carry()
    two.end()
    assert not two.me.outlet.seen(Done)
