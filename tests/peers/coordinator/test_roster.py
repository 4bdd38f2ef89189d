"""Who is in, and how a member's state moves: along the table and no other way."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from peers.coordinator.roster import TRANSITIONS, Entry, MemberState, Roster
from peers.protocol.messages import PROTOCOL, Enter, NewestRecord, Ready
from peers.protocol.record import GENESIS


def entering(stage: int = 0, holds_state: bool = True) -> Enter:
    some = b"s" * 32
    return Enter(
        PROTOCOL, "w", ("tcp://a:1",), stage, GENESIS, holds_state, some, some, some, "fp32", (1,), "m"
    )


MOVES: dict[str, tuple[Callable[[Entry], None], MemberState, str]] = {
    "enter": (lambda e: e.enter(1.0, entering(), 1, 0), MemberState.FOLLOWING, "absent"),
    "wait_for_state": (Entry.wait_for_state, MemberState.WAITING_FOR_STATE, "following"),
    "give_up_state": (Entry.give_up_state, MemberState.WAITING_FOR_STATE, "waiting seeding following active"),
    "begin_seeding": (Entry.begin_seeding, MemberState.SEEDING, "waiting"),
    "follow_donors": (Entry.follow_donors, MemberState.FOLLOWING, "waiting"),
    "become_active": (Entry.become_active, MemberState.ACTIVE, "waiting seeding following"),
    "leave": (Entry.leave, MemberState.ABSENT, "waiting seeding following active"),
}
"""By transition: what carries it out, where it leads, and the first words of the states that it may leave."""


@pytest.mark.parametrize("before", MemberState)
@pytest.mark.parametrize("name", MOVES)
def test_a_member_moves_along_the_table_and_no_other_way(name: str, before: MemberState) -> None:
    move, after, may_leave = MOVES[name]
    entry = Entry(b"k" * 32, "w", member_state=before)
    if before.value.split()[0] in may_leave.split():
        move(entry)
        assert entry.member_state is after
    else:
        with pytest.raises(AssertionError, match=f"is {before.value} cannot become {after.value}"):
            move(entry)
        assert entry.member_state is before


def test_the_table_names_every_transition_and_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(MOVES)
    assert {after for _, after in TRANSITIONS.values()} == set(MemberState)
    assert frozenset().union(*(before for before, _ in TRANSITIONS.values())) == set(MemberState)


def test_a_fresh_membership_counts_nothing_of_an_earlier_one() -> None:
    roster = Roster()
    entry = roster.certify(b"k" * 32, "w")
    roster.enter(1.0, entry, entering(), 0)
    entry.checks[0], entry.ready[0], entry.told_finished = (
        (b"v", b"d"),
        Ready(0, b"b" * 32, 1, 1, 1, 1.0),
        True,
    )
    roster.leave(entry)
    assert (entry.entered, entry.holds_state, entry.ready) == (False, False, {})
    roster.enter(2.0, entry, entering(holds_state=False), 0)
    assert (entry.entered_at, entry.checks, entry.holds_state, entry.told_finished) == (
        2.0,
        {},
        False,
        False,
    )


def test_who_gives_up_its_state_holds_and_offers_nothing() -> None:
    roster = Roster()
    entry = roster.certify(b"k" * 32, "w")
    roster.enter(1.0, entry, entering(), 0)
    entry.become_active()
    entry.checks[0], entry.will_hold, entry.ready[0] = (b"v", b"d"), b"h", Ready(0, b"b" * 32, 1, 1, 1, 1.0)
    entry.give_up_state()
    assert (entry.active, entry.waits_for_state, entry.holds_state) == (False, True, False)
    assert (entry.checks, entry.will_hold, entry.ready) == ({}, b"", {})


def test_members_are_listed_in_the_order_of_entering_and_by_course() -> None:
    roster = Roster()
    entries = [roster.certify(bytes([i]) * 32, f"w{i}") for i in range(4)]
    for entry, course in zip(entries, (0, 1, 0, 1), strict=True):
        roster.enter(0.0, entry, entering(stage=course), course)
    roster.leave(entries[0])
    roster.enter(1.0, entries[0], entering(), 0)
    assert roster.entered() == [*entries[1:], entries[0]]
    assert roster.entered_in(0) == [entries[2], entries[0]]
    entries[0].become_active()
    assert (roster.active_in(0), roster.active_in(1)) == ([entries[0]], [])
    assert roster.epoch == 6, "each change counts"
    assert roster.member_is(entries[3]).stage == 1


def test_lists_of_members_follow_whatever_moves_them() -> None:
    rng, roster = random.Random(0), Roster()
    entries = [roster.certify(bytes([i]) * 32, f"{i}") for i in range(6)]
    claim = NewestRecord(b"h" * 32, 1, b"")
    for _ in range(600):
        entry, name = rng.choice(entries), rng.choice([*MOVES, "show", "forget_claim"])
        if name == "show":
            entry.show(claim)
        elif name == "forget_claim":
            entry.forget_claim()
        elif entry.member_state not in TRANSITIONS[name][0]:
            continue
        elif name == "enter":
            roster.enter(1.0, entry, entering(), rng.choice([0, 1]))
        elif name == "leave":
            roster.leave(entry)
        else:
            MOVES[name][0](entry)
        for course in (0, 1):
            here = [each for each in roster.entered() if each.course == course]
            assert roster.entered_in(course) == here
            assert roster.active_in(course) == [e for e in here if e.active]
            assert roster.waiting_in(course) == [e for e in here if e.waits_for_state]
            assert roster.following_in(course) == [e for e in here if e.member_state is MemberState.FOLLOWING]
            assert roster.claiming_in(course) == [e for e in here if e.claim is not None]
        roster.entered_in(0).clear()  # a list is the asker's own
