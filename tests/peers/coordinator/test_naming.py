"""Which states a coordinator has members hash, and what waits until they have."""

from __future__ import annotations

from typing import Any

from peers.coordinator import naming
from peers.protocol.messages import Applied, CatchUp, CaughtUp, Done, Open, Saved
from peers.protocol.naming import NameEvery, NameState, Saving, StateNamed
from peers.protocol.record import NO_DIGEST
from peers.protocol.traces import SavedTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key
from tests.peers.member.fakes import check_of

NAME, OTHER = b"n" * 32, b"o" * 32


def holding(num_members: int, *, recomputes: bool = False, **rules: Any) -> Swarm:
    """Members 1 to n at the first state, which nobody has named."""
    swarm = Swarm(**rules)
    swarm.core.state.recompute_bytes = 1 << 30 if recomputes else 0
    for index in range(1, num_members + 1):
        swarm.enter(index)
        swarm.hear(index, Applied(0, ROOT, check_of(NAME)))
        swarm.hear(index, CaughtUp(ROOT))
    return swarm


def name(swarm: Swarm, *indexes: int, name: bytes = NAME, version: bytes = ROOT) -> None:
    for index in indexes:
        swarm.hear(index, StateNamed(0, version, name))


def orders(swarm: Swarm, index: int) -> list[bool]:
    return [order.on for order in swarm.told(index, NameEvery)]


def test_many_are_asked_for_nothing_as_long_as_nobody_needs_it() -> None:
    swarm = holding(5, recomputes=True)
    assert orders(swarm, 5) == []
    assert orders(swarm, 1)[-2:] == [True, False], "while others waited for the state"
    assert swarm.told(1, NameState) == []


def test_a_joiner_is_sent_to_those_who_named_the_state_alike_once_they_are_most() -> None:
    swarm = holding(5)
    swarm.enter(9)
    assert [orders(swarm, index)[-1] for index in range(1, 6)] == [True] * 5
    name(swarm, 1, 2)
    assert swarm.told(9, CatchUp) == []
    name(swarm, 4)
    (order,) = swarm.told(9, CatchUp)
    assert (order.state, order.donors) == (NAME, (key(1), key(2), key(4)))
    swarm.later(0.0)
    assert orders(swarm, 5)[-1] is False, "nobody waits any more"


def test_a_joiner_is_sent_to_nobody_who_names_another_one_under_the_same_check() -> None:
    swarm = holding(5)
    swarm.enter(9)
    name(swarm, 1, name=OTHER)
    name(swarm, 2, 3)
    assert swarm.told(9, CatchUp) == []
    name(swarm, 4)
    (order,) = swarm.told(9, CatchUp)
    assert order.donors == (key(2), key(3), key(4))


def test_where_two_names_are_told_under_one_check_all_who_hold_it_are_asked_and_most_decide() -> None:
    swarm = holding(5)
    name(swarm, 1)
    name(swarm, 2, name=OTHER)
    assert [len(swarm.told(index, NameState)) for index in (3, 4, 5)] == [1, 1, 1]
    name(swarm, 3, 4)
    assert not swarm.core.roster.entries[key(2)].holds_state, "it fetches the state again"
    assert all(swarm.core.roster.entries[key(index)].holds_state for index in (1, 3, 4, 5))


def test_a_round_of_few_waits_until_each_is_bound_by_its_word() -> None:
    swarm = holding(2, recomputes=True)
    swarm.ready(1)
    swarm.ready(2)
    name(swarm, 1)
    assert swarm.told(1, Open) == []
    name(swarm, 2)
    assert len(swarm.told(1, Open)) == 1


def test_a_round_of_many_and_one_of_a_host_that_computes_nothing_wait_for_no_names() -> None:
    for swarm in (holding(naming.FEW, recomputes=True), holding(2)):
        for index in (1, 2, 3, 4):
            if swarm.core.roster.admits(key(index)):
                swarm.ready(index)
        assert len(swarm.told(1, Open)) == 1


def test_a_fourth_that_tells_nothing_of_its_state_has_no_round_of_three_wait_for_names() -> None:
    swarm = holding(3, recomputes=True)
    name(swarm, 1, 2, 3)
    swarm.enter(4, head=ROOT, holds_state=True)
    for index in (1, 2, 3):
        swarm.hear(index, Applied(0, ROOT, check_of(NAME)))  # names under it are to be told anew
    assert orders(swarm, 1)[-1] is False
    for index in (1, 2, 3):
        swarm.ready(index)
    assert len(swarm.told(1, Open)) == 1


def test_one_that_never_names_its_state_is_taken_to_hold_none() -> None:
    swarm = holding(2, recomputes=True, min_peers=1)
    swarm.ready(1)
    swarm.ready(2)
    name(swarm, 1)
    swarm.later(1.0)
    assert not swarm.told(1, Open)
    swarm.later(100.0)
    assert [message.founders for message in swarm.told(1, Open)] == [(key(1),)]
    assert not swarm.core.roster.entries[key(2)].holds_state


def test_where_nobody_names_the_state_all_keep_it_and_go_on() -> None:
    swarm = holding(2, recomputes=True)
    swarm.ready(1)
    swarm.ready(2)
    swarm.later(100.0)
    assert len(swarm.told(1, Open)) == 1
    assert all(entry.holds_state for entry in swarm.core.roster.entered())


def test_what_is_saved_counts_once_most_who_held_it_have_named_it_the_same() -> None:
    swarm = holding(5)
    state = swarm.core.state.courses[0]
    swarm.hear(1, Saving(ROOT))
    assert [len(swarm.told(index, NameState)) for index in range(1, 6)] == [1] * 5
    swarm.hear(2, Saving(ROOT))
    assert len(swarm.told(1, NameState)) == 1, "it is asked once"
    name(swarm, 1, 2)
    expected = Saved(0, ROOT, b"", True)
    assert state.saves.name_of(swarm.chain, ROOT, 1) is None
    name(swarm, 3)
    found = state.saves.name_of(swarm.chain, ROOT, 1)
    assert found is not None
    swarm.hear(1, Saved(expected.index, ROOT, found, True))
    assert [trace.peer for trace in swarm.traces if isinstance(trace, SavedTrace)] == [key(1)]


def test_who_lacks_a_version_does_not_count_and_who_names_a_false_one_neither() -> None:
    swarm = holding(4)
    state, course = swarm.core.state, swarm.core.state.courses[0]
    former = b"f" * 32
    naming.ask(state, course, 0.0, 0, former)
    assert naming.awaits_names(state, course, 0.0, 0, former)
    name(swarm, 1, version=former)
    name(swarm, 2, version=former, name=OTHER)
    assert naming.majority(state, course, 0, former) == b""
    name(swarm, 3, version=former, name=NO_DIGEST)
    name(swarm, 4, version=former, name=NO_DIGEST)
    assert naming.majority(state, course, 0, former) == b"", "a tie"
    assert naming.majority(state, course, 0, former, {OTHER}) == NAME
    assert not naming.awaits_names(state, course, 0.0, 0, former)


def test_what_a_member_named_counts_no_more_once_it_tells_a_check_of_that_version_anew() -> None:
    swarm = holding(1)
    name(swarm, 1)
    entry = swarm.core.roster.entries[key(1)]
    assert entry.name_of(0, ROOT) == NAME
    swarm.hear(1, Applied(0, ROOT, b"x" * 16))
    assert entry.name_of(0, ROOT) == b""


def test_with_gossip_only_the_next_donor_names_and_one_that_does_not_is_passed_over() -> None:
    swarm = holding(3, gossips=True)
    swarm.enter(9)
    asked = [index for index in (1, 2, 3) if orders(swarm, index)[-1:] == [True]]
    assert len(asked) == 1
    swarm.later(100.0)
    swarm.later(0.1)
    again = [index for index in (1, 2, 3) if orders(swarm, index)[-1:] == [True]]
    assert len(again) == 1
    assert again != asked
    name(swarm, *again)
    assert [order.donors for order in swarm.told(9, CatchUp)] == [(key(again[0]),)]


def test_rounds_wait_for_names_while_one_has_waited_for_long_and_not_without_end() -> None:
    swarm = holding(5)
    swarm.enter(9)
    swarm.later(0.0)
    timeout_s = swarm.core.state.rules.failure_timeout_s
    swarm.later(timeout_s + 0.1)
    for index in range(1, 6):
        swarm.ready(index)
    assert swarm.told(1, Open) == []
    name(swarm, 1, 2)
    assert swarm.told(1, Open) == []
    swarm.later(4 * timeout_s)
    assert len(swarm.told(1, Open)) == 1, "most do not say"
    for member in range(1, 6):
        swarm.hear(member, Done(swarm.told(1, Open)[-1].serial, 0, RESULT))
    for member in range(1, 6):
        swarm.hear(member, Applied(0, swarm.chain.head, check_of(OTHER)))
        swarm.ready(member)
    assert len(swarm.told(1, Open)) == 2


def test_who_waits_for_names_that_did_not_come_in_time_is_given_time_again_and_ever_more_rarely() -> None:
    swarm = holding(5)
    swarm.enter(9)
    swarm.later(0.0)
    timeout_s = swarm.core.state.rules.failure_timeout_s
    course, window_s = (
        swarm.core.state.courses[0],
        2 * naming.patience_s(swarm.core.state, swarm.core.state.courses[0]),
    )
    held = []
    for number in range(40):
        at = timeout_s + (number + 0.5) * window_s
        swarm.later(at - swarm.now)
        held += [number] if naming.binds(swarm.core.state, course, at, 0) else []
    assert held == [0, 2, 5, 10, 19, 36]


def test_rounds_go_on_as_soon_as_one_who_waited_has_donors() -> None:
    swarm = holding(5)
    swarm.enter(9)
    swarm.later(swarm.core.state.rules.failure_timeout_s + 0.1)
    for index in range(1, 6):
        swarm.ready(index)
    assert swarm.told(1, Open) == []
    name(swarm, 1, 2, 3)
    assert len(swarm.told(9, CatchUp)) == 1
    assert len(swarm.told(1, Open)) == 1
