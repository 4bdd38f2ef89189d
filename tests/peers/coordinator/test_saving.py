"""What members say of their disks is noted if it is the run's state, and remembered over restarts."""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator import saving
from peers.coordinator.journal import StateSaved
from peers.coordinator.saves import SavedState
from peers.protocol.held import state_name
from peers.protocol.messages import Applied, CatchUp, CaughtUp, Done, Leave, Refused, Saved, SaveNow
from peers.protocol.naming import NameState, Saving
from peers.protocol.orders import Obeyed
from peers.protocol.traces import SavedOtherTrace, SavedTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained
from tests.peers.member.fakes import check_of
from transport.frames import unpack

DIGEST = b"d" * 32


def commit(swarm: Swarm, *indexes: int, state: bytes = DIGEST) -> bytes:
    """A round of these members, which apply its result; the new head."""
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    for index in indexes:
        swarm.hold(index, swarm.chain.head, state)
    return swarm.chain.head


def say_saved(
    swarm: Swarm,
    member: int,
    head: bytes,
    state: bytes = DIGEST,
    *,
    index: int | None = None,
    keeps: bool = True,
) -> None:
    at = swarm.chain.index_of(head) if index is None else index
    swarm.hear(member, Saved(at, head, state_name(at, head, [head], [state]), keeps))


def noted(swarm: Swarm) -> list[StateSaved]:
    return [entry for packed in swarm.journal if isinstance(entry := unpack(packed), StateSaved)]


def known(swarm: Swarm, member: int) -> SavedState | None:
    return swarm.core.state.courses[0].saves.by_member.get(key(member))


def told(swarm: Swarm, kind: type) -> int:
    return sum(isinstance(trace, kind) for trace in swarm.traces)


def restarted(swarm: Swarm, **rules: Any) -> Swarm:
    return Swarm(swarm.journal, **rules)


def test_a_state_that_was_agreed_on_is_noted_in_the_journal_once() -> None:
    swarm = trained(2)
    head = commit(swarm, 1, 2)
    for _ in range(2):
        say_saved(swarm, 1, head)
    name = state_name(1, head, [head], [DIGEST])
    assert noted(swarm) == [StateSaved(key(1), 1, head, name, True)]
    assert (told(swarm, SavedTrace), told(swarm, SavedOtherTrace)) == (1, 0)


def test_the_first_state_of_a_run_is_noted_too() -> None:
    swarm = trained(1)
    say_saved(swarm, 1, ROOT)
    assert [(each.index, each.head) for each in noted(swarm)] == [(0, ROOT)]


@pytest.mark.parametrize("wrong", ["digest", "index", "index under the true name"])
def test_another_state_than_was_agreed_on_is_told_and_not_noted(wrong: str) -> None:
    swarm = trained(2)
    head = commit(swarm, 1, 2)
    if wrong == "digest":
        say_saved(swarm, 1, head, b"x" * 32)
    elif wrong == "index":
        say_saved(swarm, 1, head, index=7)
    else:
        swarm.hear(1, Saved(7, head, state_name(1, head, [head], [DIGEST]), True))
    assert noted(swarm) == []
    assert told(swarm, SavedOtherTrace) == 1
    say_saved(swarm, 2, head)
    assert [each.key for each in noted(swarm)] == [key(2)], "the other one's word counts as before"


def test_a_head_that_nobody_knows_is_passed_over() -> None:
    swarm = trained(2)
    say_saved(swarm, 1, b"u" * 32, index=5)
    assert (noted(swarm), swarm.core.state.courses[0].saves.claims) == ([], {})


def test_what_nobody_can_check_yet_is_noted_once_most_told_their_digests() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    head = swarm.chain.head
    swarm.hold(1, head)
    say_saved(swarm, 1, head)
    assert noted(swarm) == [], "two more are awaited"
    swarm.hold(2, head)
    assert [each.index for each in noted(swarm)] == [1]


def test_a_state_that_was_checked_while_it_was_the_newest_may_be_saved_later() -> None:
    swarm = trained(2)
    heads = [commit(swarm, 1, 2) for _ in range(3)]
    say_saved(swarm, 2, heads[0])
    assert [each.head for each in noted(swarm)] == [heads[0]]


def test_the_journal_grows_with_commits_alone_however_often_a_member_says_something() -> None:
    swarm = trained(2)
    heads = [commit(swarm, 1, 2) for _ in range(2)]
    for _ in range(9):
        for keeps in (True, False):
            say_saved(swarm, 1, heads[1], keeps=keeps)
            say_saved(swarm, 1, heads[0], keeps=keeps)
    assert [(each.index, each.keeps) for each in noted(swarm)] == [(2, True), (2, False)]


def test_a_restarted_coordinator_knows_whose_disk_has_what() -> None:
    swarm = trained(2)
    first, second = commit(swarm, 1, 2), commit(swarm, 1, 2)
    say_saved(swarm, 1, second)
    say_saved(swarm, 2, first, keeps=False)
    swarm = restarted(swarm)
    assert known(swarm, 1) == SavedState(2, second, state_name(2, second, [second], [DIGEST]), True)
    course = swarm.core.state.courses[0]
    assert [course.saves.reach(course.chain, key(index)) for index in (1, 2, 3)] == [2, 1, -1]
    assert course.saves.newest(course.chain) == (2, [key(1)])
    found = swarm.core.status(0.0)
    assert (found.saved_index, found.saved_by) == (2, ("w1",))


def test_a_disk_that_keeps_results_leads_to_the_last_record_of_its_member() -> None:
    swarm = trained(2)
    for index in (1, 2):
        say_saved(swarm, index, ROOT, keeps=index == 1)
    commit(swarm, 1, 2)
    commit(swarm, 1, 2)
    course = swarm.core.state.courses[0]
    assert [course.saves.reach(course.chain, key(index)) for index in (1, 2)] == [2, 0]


def test_a_member_that_loaded_another_state_than_was_noted_fetches_the_true_one() -> None:
    swarm = trained(2)
    head = commit(swarm, 1, 2)
    say_saved(swarm, 1, head)
    swarm = restarted(swarm)
    swarm.greet(2, head=head, holds_state=True)
    swarm.hold(2, head, b"x" * 32)
    entry = swarm.core.roster.entries[key(2)]
    assert (entry.active, entry.holds_state, told(swarm, SavedOtherTrace)) == (False, False, 1)
    swarm.greet(1, head=head, holds_state=True)
    swarm.hold(1, head)
    assert swarm.told(2, CatchUp)[-1].donors == (key(1),)


def test_what_was_saved_of_a_first_state_that_is_replaced_counts_no_more() -> None:
    swarm = trained(1, failure_timeout_s=2.0)
    say_saved(swarm, 1, ROOT)
    swarm.hear(1, Leave("done"))
    swarm.enter(2)
    for _ in range(40):
        swarm.later(2.0)
    swarm.hold(2, b"n" * 32)
    assert swarm.chain.head == b"n" * 32
    assert known(swarm, 1) is None
    assert swarm.chain.index_of(ROOT) == -1
    assert restarted(swarm).chain.index_of(ROOT) == -1


def test_of_a_head_that_nobody_noted_a_member_may_hold_what_it_says() -> None:
    swarm = trained(2)
    head = commit(swarm, 1, 2)
    course, entry = swarm.core.state.courses[0], swarm.core.roster.entries[key(1)]
    swarm.applied(1, head, b"x" * 32)
    assert not saving.holds_another(course, entry)
    say_saved(swarm, 2, head)
    assert saving.holds_another(course, entry)
    entry.checks.clear()
    assert not saving.holds_another(course, entry), "it told nothing yet"


def test_the_owner_has_all_who_hold_the_state_save_the_newest_commit() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    swarm.enter(3)
    answer = swarm.core.save_now(0.0)
    assert isinstance(answer, Obeyed)
    assert "save commit 1: w1, w2" in answer.detail
    assert [swarm.told(index, SaveNow) for index in (1, 2, 3)] == [[SaveNow(1)], [SaveNow(1)], []]


def test_where_nobody_has_a_state_none_is_saved() -> None:
    for swarm in (Swarm(), Swarm(gossips=True)):
        answer = swarm.core.save_now(0.0)
        assert isinstance(answer, Refused)
        assert answer.code == "none"


def test_members_are_asked_to_name_what_they_may_hold_and_nothing_older_however_often_one_says_it_saves() -> (
    None
):
    swarm = trained(5)
    heads = [swarm.chain.head]
    for _ in range(4):
        serial = opened(swarm, 1, 2, 3, 4, 5).serial
        for index in range(1, 6):
            swarm.hear(index, Done(serial, 0, RESULT))
        heads.append(swarm.chain.head)
        for index in range(1, 6):
            swarm.hear(index, Applied(0, swarm.chain.head, check_of(swarm.chain.head)))
            swarm.hear(index, CaughtUp(swarm.chain.head))
    for head in [*heads, *heads]:
        swarm.hear(5, Saving(head))
    assert [order.version for order in swarm.told(1, NameState)] == heads[-2:]
