"""The chain of records: one branch, a version per fragment, and the state that most agree on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.coordinator.chain import Chain
from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.messages import Counted
from peers.protocol.record import GENESIS, Record

ROOT, ME, OTHER = b"0" * 32, b"m" * 32, b"o" * 32


def follow(chain: Chain, fragment: int) -> bytes:
    return chain.append(Record(chain.head, chain.index + 1, fragment, 1, 1, 1, (), (), b"r" * 32))


def test_a_record_moves_its_fragment_and_no_other() -> None:
    chain = Chain(8)
    chain.begin(ROOT)
    head = follow(chain, 1)
    assert (chain.base(0), chain.base(1), chain.head, chain.num_rounds) == (ROOT, head, head, 1)


def test_a_restoring_record_moves_all_fragments_and_is_no_round() -> None:
    chain = Chain(8)
    chain.begin(ROOT)
    follow(chain, 1)
    head = follow(chain, ALL_FRAGMENTS)
    assert (chain.base(0), chain.base(1), chain.index, chain.num_rounds) == (head, head, 2, 1)


def test_a_parent_has_one_child() -> None:
    chain = Chain(8)
    chain.begin(ROOT)
    record = Record(ROOT, 1, 0, 1, 1, 1, (), (), b"r" * 32)
    chain.append(record)
    with pytest.raises(AssertionError, match="does not follow the head"):
        chain.append(replace(record, serial=2))
    with pytest.raises(AssertionError, match="has grown already"):
        chain.begin(ROOT)


def test_records_after_a_head_are_known_as_far_back_as_they_are_kept() -> None:
    chain = Chain(2)
    chain.begin(ROOT)
    heads = [follow(chain, 0) for _ in range(3)]
    following = chain.after(heads[0])
    assert following is not None
    assert [record.hash() for record in following] == heads[1:]
    assert (chain.after(heads[2]), chain.after(ROOT), chain.after(GENESIS)) == ([], None, None)
    assert [chain.index_of(head) for head in (ROOT, *heads)] == [-1, 1, 2, 3]


def test_whose_contribution_is_in_a_record_is_known_also_once_the_record_is_kept_no_longer() -> None:
    chain = Chain(1)
    chain.begin(ROOT)
    heads = []
    for serial, fragment, members in ((5, 0, (ME, OTHER)), (6, 1, (ME,)), (7, 0, (OTHER,)), (8, 0, (ME,))):
        weights = (1.0,) * len(members)
        record = Record(chain.head, chain.index + 1, fragment, 1, serial, 1, members, weights, b"r" * 32)
        heads.append(chain.append(record))
    follow(chain, ALL_FRAGMENTS)
    assert chain.counted(ME) == [Counted(0, 8, heads[3]), Counted(1, 6, heads[1])]
    assert chain.counted(OTHER) == [Counted(0, 7, heads[2])]
    assert chain.counted(ROOT) == []


def restore(chain: Chain, head: bytes) -> bytes:
    return chain.append(Record(chain.head, chain.index + 1, ALL_FRAGMENTS, 1, 1, 0, (), (), head))


def branched() -> tuple[Chain, list[bytes]]:
    """Records 1 to 4, 5 goes back to 2, 6 follows, 7 goes back to 1, 8 follows; and all heads by index."""
    chain, heads = Chain(64), [ROOT]
    chain.begin(ROOT)
    heads += [follow(chain, index % 2) for index in (1, 2, 3, 4)]
    heads += [restore(chain, heads[2]), follow(chain, 0)]
    heads += [restore(chain, heads[1]), follow(chain, 1)]
    return chain, heads


def test_after_the_swarm_went_back_only_what_it_builds_on_stands() -> None:
    chain, _ = branched()
    assert [index for index in range(9) if chain.stands(index)] == [0, 1, 7, 8]


def test_what_was_undone_stands_again_once_the_swarm_goes_back_to_it() -> None:
    chain, heads = branched()
    restore(chain, heads[4])
    assert [index for index in range(10) if chain.stands(index)] == [0, 1, 2, 3, 4, 9]


def test_who_comes_from_a_head_that_stands_is_told_no_record_that_does_not() -> None:
    chain, heads = branched()

    def told(index: int) -> list[int]:
        return [record.index for record in chain.after(heads[index]) or ()]

    assert (told(0), told(1), told(7), told(8)) == ([1, 7, 8], [7, 8], [8], [])
    assert told(3) == [4, 5, 6, 7, 8], "its holder learns at the restoring record that its branch is left"


def test_versions_are_known_of_every_head_that_is_kept() -> None:
    chain, heads = branched()
    by_head = {index: chain.versions_at(heads[index], 2) for index in range(9)}
    assert by_head[0] == (ROOT, ROOT)
    assert by_head[3] == (heads[2], heads[3])
    assert by_head[5] == (heads[5], heads[5])
    assert by_head[6] == (heads[6], heads[5])
    assert by_head[8] == (chain.base(0), chain.base(1)) == (heads[7], heads[8])


def test_versions_stay_known_when_the_records_that_made_them_are_not_kept() -> None:
    chain, heads = Chain(2), [ROOT]
    chain.begin(ROOT)
    heads += [follow(chain, fragment) for fragment in (0, 1, 1, 1)]
    assert chain.versions_at(heads[4], 2) == (heads[1], heads[4])
    assert chain.versions_at(heads[2], 2) == (heads[1], heads[2])
    assert chain.versions_at(heads[1], 2) is None
    heads += [restore(chain, heads[4]), follow(chain, 0), follow(chain, 0)]
    assert chain.versions_at(heads[6], 2) == (heads[6], heads[5])


def test_after_an_adoption_versions_are_known_from_the_restoring_record_on() -> None:
    chain = Chain(2)
    chain.begin(ROOT)
    adopted = Record(b"x" * 32, 9, 0, 1, 1, 1, (ME,), (1.0,), b"r" * 32)
    chain.adopt(adopted)
    assert chain.versions_at(chain.head, 2) is None
    restoring = restore(chain, adopted.hash())
    heads = [restoring, follow(chain, 1), follow(chain, 1)]
    assert chain.versions_at(heads[2], 2) == (restoring, heads[2])


def test_a_head_that_a_disk_has_is_known_for_ever_and_a_restart_may_go_back_to_it() -> None:
    chain = Chain(2)
    chain.begin(ROOT)
    first = follow(chain, 0)
    chain.note(first, 1)
    for _ in range(5):
        follow(chain, 0)
    assert (chain.index_of(first), chain.head_at(1), chain.after(first)) == (1, first, None)
    assert (chain.head_at(6), chain.head_at(2)) == (chain.head, None)
    restore(chain, first)
    assert [index for index in range(8) if chain.stands(index)] == [0, 1, 7]


def test_the_newest_record_of_a_member_is_one_that_stands() -> None:
    chain, heads = Chain(64), [ROOT]
    chain.begin(ROOT)
    for members in ((ME,), (OTHER,), (ME, OTHER)):
        weights = (1.0,) * len(members)
        record = Record(chain.head, chain.index + 1, 0, 1, 1, 1, members, weights, b"r" * 32)
        heads.append(chain.append(record))
    assert (chain.newest_of(ME), chain.newest_of(OTHER), chain.newest_of(ROOT)) == (3, 3, -1)
    restore(chain, heads[2])
    assert (chain.newest_of(ME), chain.newest_of(OTHER)) == (1, 2)
