"""What scripts/kill_all.py draws, and that it finds a round that is lost: planted ones in journals."""

from __future__ import annotations

from collections.abc import Sequence

import kill_all
import pytest
from chaos_processes import HOST

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.record import Record

GENESIS = bytes(32)


def chain(rounds: int, then: Sequence[Record] = ()) -> list[Record]:
    """Records after what is there already."""
    records = list(then)
    for _ in range(rounds):
        records.append(follow(records, 0))
    return records


def follow(records: Sequence[Record], fragment: int, result: bytes = bytes(32)) -> Record:
    parent, index = (records[-1].hash(), records[-1].index + 1) if records else (GENESIS, 1)
    members = () if fragment == ALL_FRAGMENTS else (b"a" * 32,)
    return Record(parent, index, fragment, 1, index, 1024, members, (1,) * len(members), result)


def restoring(records: Sequence[Record], result: bytes) -> list[Record]:
    return [*records, follow(records, ALL_FRAGMENTS, result)]


def test_a_chain_that_goes_on_has_lost_nothing() -> None:
    before = chain(5)
    assert kill_all.lost_rounds(before, before) == 0
    assert kill_all.lost_rounds(before, chain(4, then=before)) == 0


def test_a_commit_that_the_journal_has_no_more_is_lost() -> None:
    before = chain(5)
    assert kill_all.lost_rounds(before, before[:-1]) == 1
    elsewhere = [*before[:3], follow(before[:3], 0, result=bytes([7]) * 32)]
    assert kill_all.lost_rounds(before, chain(3, then=elsewhere)) == 2


@pytest.mark.parametrize(("back_to", "lost"), [(5, 0), (4, 1), (2, 3), (0, 5)])
def test_the_rounds_that_a_record_gives_up_are_lost(back_to: int, lost: int) -> None:
    before = chain(5)
    head = before[back_to - 1].hash() if back_to else GENESIS
    assert kill_all.lost_rounds(before, chain(2, then=restoring(before, head))) == lost


def test_what_was_given_up_before_the_kill_is_not_lost_by_it() -> None:
    first = chain(5)
    before = chain(3, then=restoring(first, first[2].hash()))
    assert kill_all.lost_rounds(before, chain(1, then=before)) == 0
    twice = restoring(before, first[2].hash())
    assert kill_all.lost_rounds(before, twice) == 3
    assert kill_all.lost_rounds(first, chain(1, then=twice)) == 5, (
        "a second one gives up what followed the first"
    )


def test_kills_are_drawn_from_the_seed_at_every_moment_with_everyone_coming_back_once() -> None:
    kills = list(kill_all.draw(1, 20, 7))
    assert kills == list(kill_all.draw(1, 20, 7)) != list(kill_all.draw(2, 20, 7))
    assert {kill.moment for kill in kills} == set(kill_all.MOMENTS)
    assert all(sorted(kill.order) == [HOST, *range(7)] for kill in kills)
    assert len({kill.order for kill in kills}) == 20
    assert {kill.order[0] == HOST for kill in kills} == {True, False}


def test_a_commit_that_was_there_at_the_kill_and_is_told_again_is_not_the_next_one() -> None:
    told = [(4, 0.5), (5, 3.0), (6, 4.5), (6, 4.0)]
    lines = [{"event": "committed", "index": index, "at": at} for index, at in told]
    assert kill_all.seconds_to_commit(lines, 1.0, above=5) == 3.0
    assert kill_all.seconds_to_commit(lines, 1.0, above=6) == float("inf")
