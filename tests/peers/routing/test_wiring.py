"""Paths from a roster alone."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import blake2b

import pytest

from peers.protocol.placing import Wiring
from peers.protocol.stream import ReplicaIs
from peers.routing import wiring
from peers.routing.replicas import Replicas
from peers.routing.wiring import MAX_OF_SHARE, Wires, quota_of


def roster(*entries: tuple[int, int, int], draining: tuple[int, ...] = ()) -> Replicas:
    """Replicas of (since, stage, line), of three stages."""
    found = Replicas(3)
    for since, stage, line in entries:
        drains = since in draining
        found.hear(ReplicaIs(since, bytes([since]) * 32, since, stage, line, (), 0.0, drains, True))
    return found


TWO_LINES = ((1, 0, 0), (2, 1, 0), (3, 2, 0), (4, 0, 1), (5, 1, 1), (6, 2, 1))


LINES = Wires(Wiring.LINES)


def test_a_line_is_used_again_and_again() -> None:
    replicas = roster(*TWO_LINES)
    assert [LINES.path(replicas, 1, number) for number in range(3)] == [(1, 2, 3)] * 3
    assert LINES.path(replicas, 4, 0) == (4, 5, 6)


def test_a_broken_line_takes_a_spare_replica_and_else_any() -> None:
    replicas = roster(*TWO_LINES[:4], (6, 2, 1), (7, 1, 2))
    assert LINES.path(replicas, 4, 0) == (4, 7, 6), "the line of 7 has no feeder"
    replicas = roster(*TWO_LINES[:4], (6, 2, 1))
    assert LINES.path(replicas, 4, 0) == (4, 2, 6)


def test_a_replica_whose_line_has_no_feeder_is_fed_where_a_line_is_broken() -> None:
    spare = (7, 1, 2)
    assert not LINES.is_fed(roster(*TWO_LINES, spare), 1, 7)
    assert LINES.is_fed(roster(*TWO_LINES, spare), 1, 5)
    assert LINES.is_fed(roster(*TWO_LINES[:4], (6, 2, 1), spare), 1, 7), "the second line is broken"
    assert LINES.is_fed(roster(*TWO_LINES, draining=(4,)), 1, 5), "what its feeder fed is under way"


def test_one_who_leaves_takes_no_new_path_but_what_is_under_way_where_there_is_nobody_else() -> None:
    replicas = roster(*TWO_LINES[:3], draining=(2,))
    assert LINES.path(replicas, 1, 0) is None
    found = LINES.replica(replicas, 1, 1, 0, drains_too=True)
    assert found is not None
    assert found.since == 2


def test_a_stage_without_anybody_has_no_path() -> None:
    assert LINES.path(roster((1, 0, 0), (3, 2, 0)), 1, 0) is None


def test_a_member_has_one_membership_and_a_number_one_member_whatever_a_host_says_again() -> None:
    """One that lost the end of its journal gives numbers again."""
    replicas = Replicas(3)
    one, other = b"1" * 32, b"2" * 32
    replicas.hear(ReplicaIs(9, one, 9, 0, 0, (), 0.0, False, True))
    ended = replicas.hear(ReplicaIs(0, one, 4, 0, 0, (), 0.0, False, True))
    assert [each.since for each in ended] == [9]
    assert [each.key for each in replicas.hear(ReplicaIs(0, other, 4, 1, 0, (), 0.0, False, True))] == [one]
    assert [(each.key, each.since) for each in replicas.everybody()] == [(other, 4)]
    replicas.begin_list()
    assert [each.since for each in replicas.end_list(10)] == [4]
    assert replicas.of(one) is replicas.of(other) is None


def at_speeds(*speeds: float, feeders: int = 1, seed: int = 0) -> Replicas:
    """Feeders from 1 on, and from 11 on replicas of a last stage with these speeds."""
    found = Replicas(2)
    for index in range(feeders):
        found.hear(ReplicaIs(1 + index, bytes([1 + index]) * 32, 1 + index, 0, index, (), 0.0, False, True))
    for index, speed in enumerate(speeds):
        since = 11 + index
        found.hear(ReplicaIs(since, bytes([since]) * 32, since, 1, index, (), speed, False, True))
    return found


def taken(wires: Wires, replicas: Replicas, numbers: range, feeder: int = 1) -> list[int]:
    """Who takes each of a feeder's microbatches, all of which end at once."""
    paths = [wires.path(replicas, feeder, number) for number in numbers]
    return [path[1] for path in paths if path is not None]


def test_by_throughput_replicas_take_turns_in_proportion_to_their_speeds() -> None:
    counts = Counter(taken(Wires(Wiring.THROUGHPUT), at_speeds(1.0, 3.0, 4.0), range(80)))
    assert counts == {11: 10, 12: 30, 13: 40}
    interleaved = taken(Wires(Wiring.THROUGHPUT), at_speeds(1.0, 1.0), range(6))
    assert interleaved == [11, 12] * 3


def test_a_new_replica_owes_nobody_the_turns_before_it_came() -> None:
    wires = Wires(Wiring.THROUGHPUT)
    taken(wires, at_speeds(1.0, 1.0), range(100))
    counts = Counter(taken(wires, at_speeds(1.0, 1.0, 1.0), range(100, 130)))
    assert counts == {11: 10, 12: 10, 13: 10}


def test_one_whose_speed_nobody_knows_takes_as_much_as_the_mean() -> None:
    counts = Counter(taken(Wires(Wiring.THROUGHPUT), at_speeds(2.0, 0.0, 4.0), range(90)))
    assert counts == {11: 20, 12: 30, 13: 40}


def test_whoever_is_slower_than_it_says_holds_no_more_than_half_again_its_share() -> None:
    """Of three that say the same, the first never ends a microbatch: it holds a part of the window, and the
    others take the rest."""
    wires, replicas = Wires(Wiring.THROUGHPUT), at_speeds(1.0, 1.0, 1.0)
    under_way: list[tuple[int, ...]] = []
    counts: Counter[int] = Counter()
    for number in range(300):
        path = wires.path(replicas, 1, number, under_way)
        assert path is not None
        counts[path[1]] += 1
        under_way.append(path)
        if len(under_way) == 12:
            under_way.remove(next(each for each in under_way if each[1] != 11))
    assert sum(path[1] == 11 for path in under_way) <= 12 / 3 * MAX_OF_SHARE + 1
    assert abs(counts[12] - counts[13]) < 20


def test_at_random_feeders_in_step_never_take_the_same_replica() -> None:
    wires, replicas = Wires(Wiring.RANDOM, seed=3), at_speeds(1.0, 1.1, 1.0, feeders=3)
    ways = [
        tuple(taken(wires, replicas, range(n, n + 1), feeder)[0] for feeder in (1, 2, 3)) for n in range(60)
    ]
    assert all(len(set(way)) == 3 for way in ways)
    assert len(set(ways)) == 6, "all permutations come"


def test_at_random_the_faster_take_more_where_pools_or_speeds_differ() -> None:
    counts = Counter(taken(Wires(Wiring.RANDOM, seed=3), at_speeds(1.0, 3.0, feeders=2), range(400)))
    assert 260 < counts[12] < 340


def same_choice(kind: Wiring) -> None:
    """Two members with the same roster choose the same replacement, and so does one that is asked twice."""
    replicas = at_speeds(1.0, 2.0, 1.5)
    ones, others = ([Wires(kind, 5).replica(replicas, 1, 1, number) for number in range(30)] for _ in "12")
    assert ones == others
    assert len({each.since for each in ones if each is not None}) == (1 if kind is Wiring.LINES else 3)


@pytest.mark.parametrize("kind", Wiring)
def test_a_replacement_follows_from_the_roster_and_the_microbatch(kind: Wiring) -> None:
    same_choice(kind)


def test_a_replacement_by_a_draw_of_its_own_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = random.Random(1)
    monkeypatch.setattr(
        wiring, "blake2b", lambda name, digest_size: blake2b(draws.randbytes(9), digest_size=6)
    )
    with pytest.raises(AssertionError):
        same_choice(Wiring.THROUGHPUT)


def test_quotas_follow_speeds_so_that_all_of_a_stage_take_equally_many_steps() -> None:
    replicas = at_speeds(1.0, 3.0, 0.0)
    quotas = [quota_of(Wiring.THROUGHPUT, replicas, 1, since, 16) for since in (11, 12, 13)]
    assert quotas == [8, 24, 16]
    assert quota_of(Wiring.LINES, replicas, 1, 12, 16) == 16, "all stages of a line take equal steps"
    assert quota_of(Wiring.THROUGHPUT, at_speeds(0.001, 50.0), 1, 11, 16) == 1
