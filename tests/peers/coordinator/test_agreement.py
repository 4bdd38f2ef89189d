"""Nobody's state is overwritten where it cannot be told who is right."""

from __future__ import annotations

import random

from peers.coordinator.agreement import agreement_on, differ, states_told
from peers.coordinator.disputes import disputed
from peers.coordinator.roster import Entry, MemberState
from peers.protocol.messages import CatchUp, CaughtUp, Leave, Open, Ready
from peers.protocol.orders import Obeyed
from peers.protocol.traces import DisputedTrace
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key, trained
from tests.peers.member.fakes import check_of

HONEST, LIE = b"h" * 32, b"l" * 32


def holder(name: str, digest: bytes | None, state: MemberState = MemberState.ACTIVE) -> Entry:
    entry = Entry(name.encode(), name, member_state=state, holds_state=True)
    if digest is not None:
        entry.tell_check(0, ROOT, check_of(digest))
        entry.tell_name(0, ROOT, digest)
    return entry


def test_a_state_is_agreed_if_more_than_half_hold_it_and_whoever_came_first_is_no_better() -> None:
    a, b, c = holder("a", LIE), holder("b", HONEST), holder("c", HONEST)
    found = agreement_on([a, b, c], 0, ROOT, lambda entry: True)
    assert (found.name, found.donors, found.dissenters, found.camps) == (HONEST, (b"b", b"c"), (a,), ())
    tie = agreement_on([a, b], 0, ROOT, lambda entry: True)
    assert (tie.name, tie.donors, tie.dissenters) == (b"", (), ())
    assert tie.camps == ((a.full_name,), (b.full_name,))


def test_the_first_of_many_that_speaks_decides_nothing() -> None:
    liar, silent = holder("a", LIE), [holder(name, None) for name in "bcd"]
    found = agreement_on([liar, *silent], 0, ROOT, lambda entry: True)
    assert (found.name, found.camps) == (b"", ())
    assert agreement_on([liar, *silent], 0, ROOT, lambda entry: False).name == LIE


def test_members_differ_if_several_states_are_told() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(500):
        those = [
            holder(f"{i}", rng.choice([HONEST, HONEST, HONEST, LIE, None])) for i in range(rng.randint(0, 4))
        ]
        for entry in those:
            entry.holds_state = rng.random() < 0.8
            if rng.random() < 0.3:
                entry.names.clear()
            elif rng.random() < 0.2:
                entry.tell_name(0, ROOT, b"another name of the same check!!")
        found = len(states_told(those, 0, ROOT)) > 1
        assert differ(those, 0, ROOT) == found
        seen.add(found)
    assert seen == {True, False}


def test_who_is_not_active_yet_counts_and_is_no_donor() -> None:
    a, late = holder("a", HONEST), holder("late", HONEST, MemberState.FOLLOWING)
    found = agreement_on([a, late], 0, ROOT, lambda entry: True)
    assert (found.name, found.donors) == (HONEST, (b"a",))
    assert agreement_on([a], 0, b"another" * 4, lambda entry: False).name == b""
    assert agreement_on([a], 1, ROOT, lambda entry: False).name == b""


def offers(swarm: Swarm, *indexes: int) -> None:
    for index in indexes:
        swarm.hear(index, Ready(0, ROOT, 8, 8, 1, 1.0))


def test_in_a_tie_nobody_fetches_no_round_opens_and_the_host_says_so_once() -> None:
    swarm = trained(2)
    swarm.applied(1, ROOT, LIE)
    swarm.said.clear()
    offers(swarm, 1, 2)
    swarm.later(100.0)
    swarm.enter(3)
    assert [message for _, message in swarm.said if isinstance(message, CatchUp | Open)] == []
    (told,) = [each for each in swarm.traces if isinstance(each, DisputedTrace)]
    assert sorted(told.camps.split(" against ")) == sorted(
        swarm.core.roster.entries[key(i)].full_name for i in (1, 2)
    )


def test_a_tie_that_ended_and_is_back_at_the_same_commit_is_told_again() -> None:
    swarm = trained(2)
    state = swarm.core.state
    for said, expected in ((LIE, True), (LIE, True), (b"d" * 32, False), (LIE, True)):
        swarm.applied(1, ROOT, said)
        assert disputed(state, state.courses[0], 0) is expected
    assert len([each for each in swarm.traces if isinstance(each, DisputedTrace)]) == 2


def test_a_tie_ends_when_most_agree_or_one_is_put_out() -> None:
    swarm = trained(2, min_peers=1)
    swarm.applied(1, ROOT, LIE)
    offers(swarm, 1, 2)
    assert not swarm.told(2, Open)
    assert isinstance(swarm.core.kick(swarm.now, swarm.core.roster.entries[key(1)].full_name), Obeyed)
    assert [message.founders for message in swarm.told(2, Open)] == [(key(2),)]


def test_a_liar_that_enters_first_after_a_restart_makes_nobody_fetch_its_state() -> None:
    before = trained(3)
    swarm = Swarm(journal=before.journal)
    for index, digest in ((1, LIE), (2, HONEST), (3, HONEST)):
        swarm.greet(index, head=ROOT, holds_state=True)
        swarm.applied(index, ROOT, digest)
        swarm.hear(index, CaughtUp(ROOT))
    assert not swarm.told(2, CatchUp)
    assert not swarm.told(3, CatchUp)
    assert [order.state for order in swarm.told(1, CatchUp)] == [HONEST]


def test_who_left_has_no_say() -> None:
    swarm = trained(3)
    swarm.applied(1, ROOT, LIE)
    for index in (2, 3):
        swarm.hear(index, Leave("done"))
    offers(swarm, 1)
    assert not [each for each in swarm.traces if isinstance(each, DisputedTrace)]
