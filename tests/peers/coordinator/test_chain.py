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
