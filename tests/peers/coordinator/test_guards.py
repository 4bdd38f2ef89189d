"""Guards of the coordinator: each of these tests fails if its guard is taken away.

They are about words that come too late, from an earlier attempt or membership, and about what must not be
decided: a round below the minimum, a state that differs, an earlier state than need be, a decision that is
not on disk.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from peers.coordinator.journal import TermBegan
from peers.coordinator.journal_file import Journal
from peers.protocol.messages import (
    Abort,
    CatchUp,
    Committed,
    Decline,
    Done,
    Leave,
    MemberGone,
    MemberIs,
    Open,
    Ready,
    Stuck,
    Withdraw,
)
from peers.protocol.traces import RemovedTrace, SetAsideTrace
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened, trained
from transport.frames import pack, unpack


def commit(swarm: Swarm, *indexes: int) -> bytes:
    """A round of these members from its opening to its record; returns the head after it."""
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    return swarm.chain.head


def set_aside(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)]


def test_an_entry_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "journal", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    with closing(Journal(path)) as journal:
        for term in (1, 2):
            synced.clear()
            journal.append(pack(TermBegan(term)))
            assert [(each.st_ino, each.st_size) for each in synced[-1:]] == [
                (path.stat().st_ino, path.stat().st_size)
            ]


def test_a_result_that_fewer_than_the_minimum_hold_is_not_committed() -> None:
    swarm = trained(2, min_peers=2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.hear(2, Leave("done"))
    assert not swarm.told(1, Committed)
    assert swarm.told(1, Abort)[0].again


# -- words that come too late ---------------------------------------------------------------------


def test_whoever_enters_again_begins_a_fresh_membership_and_its_round_goes_on_without_it() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    swarm.said.clear()
    swarm.greet(3)
    assert [type(said) for to, said in swarm.said if to == key(1)][:3] == [MemberGone, Open, MemberIs]
    again = swarm.told(1, Open)[-1]
    assert (again.serial, again.attempt, again.lost) == (serial, 1, (2,))
    assert not swarm.core.roster.entries[key(3)].active


@pytest.mark.parametrize("poison", ["", "not finite"])
def test_an_accusation_of_an_earlier_attempt_is_void(poison: str) -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    swarm.hear(4, Leave("done"))
    swarm.hear(2, Stuck(serial, 0, (key(1),), poison))
    swarm.later(1.0)
    assert (swarm.told(2, Open)[-1].attempt, set_aside(swarm)) == (1, [])


def test_an_offer_that_was_taken_back_before_does_not_take_back_the_next_one() -> None:
    swarm = trained(2)
    swarm.hear(1, Ready(0, ROOT, 8, 8, 2, 1.0))
    swarm.hear(1, Withdraw(0, 1))
    swarm.ready(2)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2))


def come_back(swarm: Swarm) -> int:
    """Member 3 leaves a round, is back at once and offers anew; the round goes on without it."""
    serial = opened(swarm, 1, 2, 3).serial
    swarm.hear(3, Leave("its link was down"))
    swarm.enter(3, head=ROOT, holds_state=True)
    swarm.hold(3)
    swarm.hear(3, Ready(0, ROOT, 8, 8, 2, 1.0))
    return serial


def test_what_one_who_came_back_says_of_the_round_that_it_was_in_changes_nothing() -> None:
    swarm = trained(3)
    serial = come_back(swarm)
    swarm.hear(3, Stuck(serial, 1, (key(1),), "not finite"))
    swarm.hear(3, Decline(serial, "it has forgotten"))
    swarm.hear(3, Done(serial, 1, RESULT))
    assert (swarm.told(1, Open)[-1].attempt, set_aside(swarm)) == (1, [])
    assert key(3) not in swarm.core.state.courses[0].rounds[0].done
    for index in (1, 2):
        assert not swarm.told(1, Committed)
        swarm.hear(index, Done(serial, 1, RESULT))
    assert unpack(swarm.told(3, Committed)[0].record).members == (key(1), key(2))


def test_what_one_who_came_back_says_of_the_round_that_it_was_in_does_not_touch_its_next_offer() -> None:
    swarm = trained(3)
    serial = come_back(swarm)
    swarm.hear(3, Decline(serial, "it has forgotten"))
    for index in (1, 2):
        swarm.hear(index, Leave("done"))
    swarm.enter(1, head=ROOT, holds_state=True)
    swarm.hold(1)
    swarm.ready(1)
    assert swarm.told(3, Open)[-1].founders == (key(1), key(3))


# -- strikes --------------------------------------------------------------------------------------


def test_who_is_set_aside_has_a_strike_and_is_not_waited_for() -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    swarm.hear(2, Stuck(serial, 0, (key(4),), ""))
    swarm.hear(4, Stuck(serial, 0, (key(1),), ""))
    swarm.later(1.0)
    assert set_aside(swarm) == [key(4)]
    assert swarm.core.roster.entries[key(4)].sits_out_until == swarm.chain.index + 4


def sits_out(swarm: Swarm) -> int:
    """For how many commits member 4 is not waited for, after another offer that is an outlier."""
    swarm.ready(4, norm=1e9)
    opened(swarm, 1, 2, 3)
    return swarm.core.roster.entries[key(4)].sits_out_until - swarm.chain.index


def finish(swarm: Swarm) -> None:
    (current,) = swarm.core.state.courses[0].rounds.values()
    for index in (1, 2, 3):
        swarm.hear(index, Done(current.serial, current.attempt, RESULT))


def test_strikes_in_a_row_cost_more_each_time_up_to_a_bound_and_a_commit_forgives_them() -> None:
    swarm = trained(4, grace_s=1e6)
    lengths = []
    for _ in range(6):
        lengths.append(sits_out(swarm))
        finish(swarm)
    assert lengths == [1, 3, 7, 15, 15, 15]
    while swarm.core.roster.entries[key(4)].sits_out_until > swarm.chain.index:
        opened(swarm, 1, 2, 3)
        finish(swarm)
    commit(swarm, 1, 2, 3, 4)
    assert sits_out(swarm) == 1


# -- states ---------------------------------------------------------------------------------------


def test_one_whose_state_differs_does_not_become_active_and_fetches_it_again() -> None:
    swarm = trained(3)
    swarm.enter(4)
    told = len(swarm.told(4, CatchUp))
    swarm.hold(4, digest=b"x" * 32)
    assert not swarm.core.roster.entries[key(4)].active
    assert len(swarm.told(4, CatchUp)) == told + 1
    swarm.hold(4)
    assert swarm.core.roster.entries[key(4)].active


def test_the_swarm_goes_back_no_further_than_the_furthest_state_that_is_left() -> None:
    swarm = trained(2, failure_timeout_s=2.0)
    heads = [ROOT]
    for _ in range(3):
        heads.append(commit(swarm, 1, 2))
        for index in (1, 2):
            swarm.hold(index, heads[-1])
    for index, head in ((3, heads[0]), (4, heads[2]), (5, heads[1])):
        swarm.enter(index, head=head, holds_state=True)
    for index in (1, 2):
        swarm.hear(index, Leave("done"))
    swarm.later(1.0)
    swarm.later(4.0)
    record = unpack(swarm.told(4, Committed)[-1].record)
    assert (record.restores, record.parent, record.result) == (True, heads[3], heads[2])


def test_a_link_that_begins_anew_ends_the_membership() -> None:
    swarm = trained(2)
    swarm.core.session_began(swarm.now, key(2))
    assert [(t.peer, t.reason) for t in swarm.traces if isinstance(t, RemovedTrace)] == [
        (key(2), "restarted")
    ]
    assert [gone.key for gone in swarm.told(1, MemberGone)] == [key(2)]
    swarm.ready(2)
    swarm.ready(1)
    assert not swarm.told(1, Open), "it has not entered again"


def test_reports_that_settle_nothing_do_not_spare_the_next_ones_their_wait() -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    swarm.hear(2, Stuck(serial, 0, (key(99),), ""))
    swarm.later(1.0)
    swarm.hear(3, Stuck(serial, 0, (key(4),), ""))
    swarm.hear(1, Withdraw(0, 99))
    assert swarm.told(1, Open)[-1].attempt == 0, "others may report too"
    swarm.later(1.0)
    assert swarm.told(1, Open)[-1].attempt == 1
