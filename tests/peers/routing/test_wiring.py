"""Paths from a roster alone."""

from __future__ import annotations

from peers.protocol.stream import ReplicaIs
from peers.routing.replicas import Replicas
from peers.routing.wiring import choose_path, choose_replica, is_fed


def roster(*entries: tuple[int, int, int], draining: tuple[int, ...] = ()) -> Replicas:
    """Replicas of (since, stage, line), of three stages."""
    found = Replicas(3)
    for since, stage, line in entries:
        drains = since in draining
        found.hear(ReplicaIs(since, bytes([since]) * 32, since, stage, line, (), 0.0, drains))
    return found


TWO_LINES = ((1, 0, 0), (2, 1, 0), (3, 2, 0), (4, 0, 1), (5, 1, 1), (6, 2, 1))


def test_a_line_is_used_again_and_again() -> None:
    replicas = roster(*TWO_LINES)
    assert [choose_path(replicas, 1, number) for number in range(3)] == [(1, 2, 3)] * 3
    assert choose_path(replicas, 4, 0) == (4, 5, 6)


def test_a_broken_line_takes_a_spare_replica_and_else_any() -> None:
    replicas = roster(*TWO_LINES[:4], (6, 2, 1), (7, 1, 2))
    assert choose_path(replicas, 4, 0) == (4, 7, 6), "the line of 7 has no feeder"
    replicas = roster(*TWO_LINES[:4], (6, 2, 1))
    assert choose_path(replicas, 4, 0) == (4, 2, 6)


def test_a_replica_whose_line_has_no_feeder_is_fed_where_a_line_is_broken() -> None:
    spare = (7, 1, 2)
    assert not is_fed(roster(*TWO_LINES, spare), 1, 7)
    assert is_fed(roster(*TWO_LINES, spare), 1, 5)
    assert is_fed(roster(*TWO_LINES[:4], (6, 2, 1), spare), 1, 7), "the second line is broken"
    assert not is_fed(roster(*TWO_LINES, draining=(4,)), 1, 5), "its feeder leaves"


def test_one_who_leaves_takes_no_new_path_but_what_is_under_way_where_there_is_nobody_else() -> None:
    replicas = roster(*TWO_LINES[:3], draining=(2,))
    assert choose_path(replicas, 1, 0) is None
    found = choose_replica(replicas, 1, 1, 0, drains_too=True)
    assert found is not None
    assert found.since == 2


def test_a_stage_without_anybody_has_no_path() -> None:
    assert choose_path(roster((1, 0, 0), (3, 2, 0)), 1, 0) is None


def test_a_member_has_one_membership_and_a_number_one_member_whatever_a_host_says_again() -> None:
    """One that lost the end of its journal gives numbers again."""
    replicas = Replicas(3)
    one, other = b"1" * 32, b"2" * 32
    replicas.hear(ReplicaIs(9, one, 9, 0, 0, (), 0.0, False))
    ended = replicas.hear(ReplicaIs(0, one, 4, 0, 0, (), 0.0, False))
    assert [each.since for each in ended] == [9]
    assert [each.key for each in replicas.hear(ReplicaIs(0, other, 4, 1, 0, (), 0.0, False))] == [one]
    assert [(each.key, each.since) for each in replicas.everybody()] == [(other, 4)]
    replicas.begin_list()
    assert [each.since for each in replicas.end_list(10)] == [4]
    assert replicas.of(one) is replicas.of(other) is None
