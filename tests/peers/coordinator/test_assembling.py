"""A state that nobody has whole: those who are here have it together, or it is said who has the rest."""

from __future__ import annotations

import pytest

from peers.coordinator.assembling import states_here
from peers.coordinator.restoring import RESTORE_WAIT_TIMEOUTS
from peers.coordinator.waiting import waits_for
from peers.protocol.messages import CatchUp, CaughtUp, Committed, NeedState, Serve
from peers.protocol.record import GENESIS, record_in
from peers.protocol.shares import PartHeld
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key
from tests.peers.coordinator.test_sharing import (
    MEMBERS,
    NUM_FRAGMENTS,
    TIMEOUT_S,
    commit,
    digest,
    say_saved,
    started,
)


def all_died(*shares: dict[int, set[int]], num_commits: int = 3) -> tuple[Swarm, list[bytes]]:
    """A coordinator that starts again, and all heads. ``shares`` are those of commits 2, 4, and so on: by
    member, fragments; those that are whole together were found to be covered."""
    swarm, heads = started(copies=1), [ROOT]
    for _ in range(num_commits):
        heads.append(commit(swarm, *MEMBERS))
        index = len(heads) - 1
        if index % 2 == 0 and len(shares) >= index // 2:
            for member, fragments in shares[index // 2 - 1].items():
                say_saved(swarm, member, heads[index], fragments)
            swarm.now += RESTORE_WAIT_TIMEOUTS * TIMEOUT_S  # one copy of each is enough, in whose ever hands
    return Swarm(swarm.journal, copies=1, failure_timeout_s=TIMEOUT_S, min_peers=3), heads


def come(swarm: Swarm, member: int, *parts: tuple[bytes, set[int]], lie: bytes = b"") -> None:
    swarm.greet(member, elements=(100, 100), head=GENESIS, holds_state=False)
    for head, fragments in parts:
        index = max(0, swarm.chain.index_of(head))
        for f, version in enumerate([head, ROOT]):
            told = PartHeld(index, head, f, version, lie or digest(f, version), f in fragments)
            swarm.hear(member, told)


def line(swarm: Swarm) -> str:
    return waits_for(swarm.core.state, swarm.now)


def test_who_has_a_state_together_fetches_it_from_each_other_and_follows_the_records() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}})
    come(swarm, 1, (heads[2], {0}))
    assert "lack fragment 1 (start w2, whose disk has it)" in line(swarm)
    come(swarm, 2, (heads[2], {1}))
    assert line(swarm) == "the run's state is put together again from shares on several disks, by w1, w2"
    for member in (1, 2):
        orders = swarm.told(member, CatchUp)
        assert [(each.version, each.state) for each in orders] == [
            (heads[2], digest(0, heads[2])),
            (ROOT, digest(1, ROOT)),
        ]
        assert [each.donors for each in orders] == [(key(1),), (key(2),)]
        assert {(each.head, each.index) for each in orders} == {(heads[2], 2)}
        assert [record_in(each.record).index for each in swarm.told(member, Committed)] == [3]
    assert Serve(1, digest(1, ROOT)) in swarm.told(2, Serve)


def hold_all(swarm: Swarm, member: int, head: bytes) -> None:
    for f, version in enumerate([head, ROOT]):
        swarm.applied(member, version, digest(f, version), f)
    swarm.hear(member, CaughtUp(head))


def test_nothing_is_given_up_while_it_is_put_together_and_after_that_it_is_a_state_like_any() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}})
    come(swarm, 1, (heads[2], {0}))
    come(swarm, 2, (heads[2], {1}))
    for _ in range(3 * RESTORE_WAIT_TIMEOUTS):
        swarm.later(TIMEOUT_S)
    assert swarm.chain.index == 3
    hold_all(swarm, 1, heads[2])
    hold_all(swarm, 1, heads[3])
    assert swarm.core.roster.entries[key(1)].active
    assert swarm.chain.index == 3
    assert line(
        swarm
    ) == "too few workers: 2 of 3 (min_peers); w3 took part last: start it again, or others" + (
        " with diloco join"
    )


def test_who_could_not_fetch_it_is_told_again_who_has_it() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}})
    come(swarm, 1, (heads[2], {0}))
    come(swarm, 2, (heads[2], {1}))
    swarm.hear(1, NeedState("no donor has the state any more"))
    swarm.hear(2, NeedState("no donor has the state any more"))
    assert len(swarm.told(1, CatchUp)) == NUM_FRAGMENTS
    for times in range(2, 20):
        swarm.later(TIMEOUT_S)
        assert len(swarm.told(1, CatchUp)) == min(times, 3) * NUM_FRAGMENTS, "not for ever"
        for member in (1, 2):
            if swarm.core.roster.entries[key(member)].assembles:
                swarm.hear(member, NeedState("no donor has the state any more"))
    come(swarm, 3, (heads[2], {0, 1}))
    swarm.later(TIMEOUT_S)
    assert len(swarm.told(1, CatchUp)) == 4 * NUM_FRAGMENTS


def test_one_that_is_away_with_the_rest_of_the_newest_is_waited_for_and_then_an_older_one_is_taken() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}}, {1: {0}, 3: {1}}, num_commits=5)
    for member, fragment in ((1, 0), (2, 1)):
        parts = [(heads[2], {fragment}), (heads[4], {0} if member == 1 else set[int]())]
        come(swarm, member, *parts)
    for _ in range(RESTORE_WAIT_TIMEOUTS - 2):
        swarm.later(TIMEOUT_S)
        assert "(commit 4), and lack fragment 1 (start w3, whose disk has it)" in line(swarm)
    assert swarm.told(1, CatchUp) == []
    for _ in range(4):
        swarm.later(TIMEOUT_S)
    assert {each.index for each in swarm.told(1, CatchUp)} == {2}


def test_it_comes_back_and_the_newest_is_taken_at_once() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}}, {1: {0}, 3: {1}}, num_commits=5)
    come(swarm, 1, (heads[2], {0}), (heads[4], {0}))
    come(swarm, 2, (heads[2], {1}))
    come(swarm, 3, (heads[4], {1}))
    assert {each.index for each in swarm.told(2, CatchUp)} == {4}


@pytest.mark.parametrize("num_liars", [1, 2])
def test_a_lie_about_digests_changes_nothing_where_the_state_was_noted(num_liars: int) -> None:
    swarm, heads = all_died({1: {0}, 2: {1}})
    for liar in range(num_liars):
        come(swarm, 3 - liar, (heads[2], {0, 1}), lie=b"x" * 32)
    come(swarm, 1, (heads[2], {0}))
    course = swarm.core.state.courses[0]
    found = states_here(course, swarm.core.roster.entered())
    assert [(each.digests, each.missing) for each in found] == [((digest(0, heads[2]), digest(1, ROOT)), [1])]


def test_a_state_that_the_run_does_not_have_is_none() -> None:
    swarm, _ = all_died({1: {0}, 2: {1}})
    come(swarm, 1, (b"u" * 32, {0, 1}))
    assert states_here(swarm.core.state.courses[0], swarm.core.roster.entered()) == []


def test_of_what_one_member_says_only_so_much_is_kept() -> None:
    swarm, _ = all_died({1: {0}, 2: {1}})
    come(swarm, 1, *((bytes([n]) * 32, {0}) for n in range(100)))
    assert len(swarm.core.roster.entries[key(1)].parts) == 16


def test_from_where_its_owner_says_it_goes_on_by_shares_too() -> None:
    swarm, heads = all_died({1: {0}, 2: {1}})
    swarm.core.resume_from(2)
    come(swarm, 1, (heads[2], {0}))
    come(swarm, 2, (heads[2], {1}))
    assert {each.index for each in swarm.told(1, CatchUp)} == {2}
    assert swarm.told(1, Committed) == []
    hold_all(swarm, 1, heads[2])
    record = record_in(swarm.told(1, Committed)[-1].record)
    assert (record.restores, record.result) == (True, heads[2])
