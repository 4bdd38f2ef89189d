"""Checkpoints that members share out: named before the commit, covered when all of it is on disks, once."""

from __future__ import annotations

from typing import Any

from peers.coordinator.journal import StateCovered
from peers.coordinator.shared_save import SharedSaves
from peers.coordinator.sharing import PATIENCE_TIMEOUTS
from peers.protocol.held import state_name
from peers.protocol.messages import Committed, Done, Saved
from peers.protocol.orders import Obeyed
from peers.protocol.shares import SaveShare, holders, pack_fragments
from tests.peers.coordinator.coordinator_kit import RESULT, ROOT, Swarm, key, opened
from transport.frames import unpack

NUM_FRAGMENTS = 2
TIMEOUT_S = 2.0
MEMBERS = (1, 2, 3)


def started(**rules: Any) -> Swarm:
    """Three members of two fragments, at the run's first state."""
    swarm = Swarm(failure_timeout_s=TIMEOUT_S, **{"copies": 1, "save_least_s": 0.0, "min_peers": 3, **rules})
    for index in MEMBERS:
        swarm.enter(index, elements=(100, 100))
        for fragment in range(NUM_FRAGMENTS):
            swarm.applied(index, ROOT, digest(fragment, ROOT), fragment)
        swarm.hold(index, ROOT, digest(0, ROOT))
    return swarm


def digest(fragment: int, version: bytes) -> bytes:
    return bytes([fragment + 1]) + version[:31]


def commit(swarm: Swarm, *members: int, fragment: int = 0) -> bytes:
    for index in members:
        swarm.ready(index)
    serial = opened(swarm, *members).serial
    for index in members:
        swarm.hear(index, Done(serial, 0, RESULT))
    head = swarm.chain.head
    for index in members:
        swarm.hold(index, head, digest(0, head))
    return head


def say_saved(swarm: Swarm, member: int, head: bytes, fragments: set[int]) -> None:
    index = swarm.chain.index_of(head)
    versions = [head, ROOT]
    name = state_name(index, head, versions, [digest(f, v) for f, v in enumerate(versions)])
    swarm.hear(member, Saved(index, head, name, True, pack_fragments(fragments, NUM_FRAGMENTS)))


def share(head: bytes, member: int, copies: int = 1) -> set[int]:
    keys = [key(each) for each in MEMBERS]
    return {f for f in range(NUM_FRAGMENTS) if key(member) in holders(head, f, keys, copies)}


def covered(swarm: Swarm) -> list[int]:
    return [e.index for packed in swarm.journal if isinstance(e := unpack(packed), StateCovered)]


def named(swarm: Swarm, member: int = 1) -> list[SaveShare]:
    found = swarm.told(member, SaveShare)
    assert all(isinstance(each, SaveShare) for each in found)
    return found


def test_a_commit_is_named_before_it_is_announced_to_everybody() -> None:
    swarm = started()
    commit(swarm, *MEMBERS)
    commit(swarm, *MEMBERS)
    for member in MEMBERS:
        assert named(swarm, member) == [SaveShare(2, 1, 0)], "of two fragments every second commit"
        told = [each for peer, each in swarm.said if peer == key(member)]
        kinds = [type(each) for each in told if isinstance(each, SaveShare | Committed)]
        assert kinds == [Committed, SaveShare, Committed]


def test_without_copies_nothing_is_named() -> None:
    swarm = started(copies=0)
    for _ in range(4):
        commit(swarm, *MEMBERS)
    assert named(swarm) == []


def test_it_is_covered_once_all_who_are_to_have_a_fragment_have_it_and_the_next_naming_tells() -> None:
    swarm = started(copies=2)
    commit(swarm, *MEMBERS)
    head = commit(swarm, *MEMBERS)
    for member in MEMBERS:
        assert covered(swarm) == []
        say_saved(swarm, member, head, share(head, member, 2))
    assert covered(swarm) == [2]
    commit(swarm, *MEMBERS)
    commit(swarm, *MEMBERS)
    assert named(swarm)[-1] == SaveShare(4, 2, 2)
    restarted = Swarm(swarm.journal, copies=2)
    course = restarted.core.state.courses[0]
    assert course.saves.covered_index(course.chain) == 2
    assert course.saves.shares(head, NUM_FRAGMENTS) == {
        key(each): frozenset(share(head, each, 2)) for each in MEMBERS
    }


def test_no_other_one_is_named_meanwhile_and_one_that_is_not_covered_in_time_is_given_up() -> None:
    swarm = started()
    head = b""
    for _ in range(2):
        head = commit(swarm, *MEMBERS)
    holder = next(each for each in MEMBERS if share(head, each))
    for _ in range(4):
        commit(swarm, *MEMBERS)
    assert len(named(swarm)) == 1
    swarm.now += PATIENCE_TIMEOUTS * TIMEOUT_S
    for _ in range(2):
        commit(swarm, *MEMBERS)
    assert [each.index for each in named(swarm)] == [2, 8]
    for member in MEMBERS:
        say_saved(swarm, member, head, {0, 1})
    assert covered(swarm) == [], f"what {holder} had comes too late"


def test_after_the_wait_one_copy_of_each_fragment_is_enough() -> None:
    swarm = started(copies=2)
    for _ in range(2):
        head = commit(swarm, *MEMBERS)
    say_saved(swarm, 1, head, {0, 1})
    assert covered(swarm) == []
    swarm.now += PATIENCE_TIMEOUTS * TIMEOUT_S
    commit(swarm, *MEMBERS)
    assert covered(swarm) == [2]


def test_a_share_of_another_state_than_was_agreed_on_counts_for_nothing() -> None:
    swarm = started()
    for _ in range(2):
        head = commit(swarm, *MEMBERS)
    for member in MEMBERS:
        swarm.hear(member, Saved(2, head, b"x" * 32, True, pack_fragments({0}, NUM_FRAGMENTS)))
    assert covered(swarm) == []


def test_the_last_commit_is_named_and_one_that_its_owner_wants() -> None:
    swarm = started(rounds=3)
    for _ in range(3):
        commit(swarm, *MEMBERS)
    assert [each.index for each in named(swarm)] == [2, 3]
    swarm = started()
    assert isinstance(swarm.core.save_now(swarm.now), Obeyed)
    commit(swarm, *MEMBERS)
    assert [each.index for each in named(swarm)] == [1]


def test_nothing_is_under_way_at_first() -> None:
    assert SharedSaves().pending is None
