"""Kept results: the last few, all that are needed, and what the disk has if it is what it is named for."""

from __future__ import annotations

import numpy as np
import pytest

from peers.member.results import FEW, KeptResults
from peers.protocol.events import KeptResultDamaged
from tests.peers.member.fakes import BASE, SIZE, FakeApp, FakeOutlet, record_on, result_of
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of
from transport.effects import EncodedResult

RESULT_BYTES = 4 * SIZE


def kept_of(
    *indexes: int, needed: frozenset[bytes] = frozenset(), num_fragments: int = 1, spare: int = RESULT_BYTES
) -> KeptResults:
    results = KeptResults(FakeApp(), num_fragments, spare, FakeOutlet())
    for index in indexes:
        chunk = result_of(index)
        results.keep(record_on(BASE, index).result, EncodedResult([digest_of(chunk)], [chunk]), needed)
    return results


def held(results: KeptResults, *indexes: int) -> list[bool]:
    return [record_on(BASE, index).result in results for index in indexes]


def test_the_oldest_result_makes_room() -> None:
    assert held(kept_of(1, 2, 3, 4), 1, 2, 3, 4) == [False, True, True, True]


def test_a_result_that_a_record_to_come_needs_stays_and_takes_nobodys_room() -> None:
    needed = frozenset({record_on(BASE, 1).result})
    assert held(kept_of(1, 2, 3, 4, 5, needed=needed), 1, 2, 3, 4, 5) == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("spare", "held_of_nine"),
    [(0, 2 + FEW), (RESULT_BYTES, 2 + FEW), (FEW * RESULT_BYTES, 2 + FEW), (5 * RESULT_BYTES, 7)],
)
def test_beyond_one_of_each_fragment_results_are_bounded_by_their_bytes(
    spare: int, held_of_nine: int
) -> None:
    results = kept_of(*range(9), num_fragments=2, spare=spare)
    assert held(results, *range(9)) == [False] * (9 - held_of_nine) + [True] * held_of_nine
    everything = [record_on(BASE, index).result for index in range(9)]
    assert results.size_bytes(everything) == held_of_nine * RESULT_BYTES


def test_a_kept_result_is_decoded_for_its_record() -> None:
    decoded = kept_of(5).decode(record_on(BASE, 5))
    assert isinstance(decoded, NumpyReducer)
    assert np.array_equal(decoded.output, np.full(SIZE, 5.0))


def test_a_result_of_several_chunks_is_decoded_chunk_by_chunk() -> None:
    results, record = KeptResults(FakeApp(), 2, 0, FakeOutlet()), record_on(BASE, 1, chunk_elements=SIZE // 2)
    chunks = [np.full(SIZE // 2, value, np.float32).tobytes() for value in (1, 2)]
    results.keep(record.result, EncodedResult([digest_of(chunk) for chunk in chunks], [*chunks]), ())
    decoded = results.decode(record)
    assert isinstance(decoded, NumpyReducer)
    assert decoded.output.tobytes() == b"".join(chunks)


def test_a_result_that_is_not_kept_is_not_found() -> None:
    results = kept_of(5)
    assert results.decode(record_on(BASE, 6)) is None
    assert results.find(record_on(BASE, 6).result) is None
    found = results.find(record_on(BASE, 5).result)
    assert found is not None
    assert found.chunks == [result_of(5)]


class WithDisk:
    """One result in memory, and some on the disk."""

    def __init__(self, *indexes: int) -> None:
        self.app, self.outlet = FakeApp(), FakeOutlet()
        for index in indexes:
            self.put(index, result_of(index))
        self.results = KeptResults(self.app, 1, 0, self.outlet)

    def put(self, index: int, chunk: bytes) -> None:
        self.app.disk[name(index)] = EncodedResult([digest_of(chunk)], [chunk])


def name(index: int) -> bytes:
    return record_on(BASE, index).result


def test_what_memory_lacks_the_disk_gives() -> None:
    disk = WithDisk(1)
    assert held(disk.results, 1, 2) == [True, False]
    decoded = disk.results.decode(record_on(BASE, 1))
    assert isinstance(decoded, NumpyReducer)
    assert decoded.output.tobytes() == result_of(1)
    found = disk.results.find(name(1))
    assert found is not None
    assert found.chunks == [result_of(1)]


def test_a_result_is_read_from_the_disk_once_while_it_is_handed_out_piece_by_piece() -> None:
    disk = WithDisk(1, 2, 3, 4, 5)
    assert all(disk.results.find(name(index)) for _ in range(9) for index in (1, 2, 3, 4))
    assert disk.app.asked == [name(1), name(2), name(3), name(4)]
    disk.results.find(name(5))  # there is room for what one member fetches at once
    disk.results.find(name(2))
    assert len(disk.app.asked) == 5
    disk.results.find(name(1))
    assert disk.app.asked[4:] == [name(5), name(1)]


def test_what_is_known_to_be_on_the_disk_is_not_read_to_be_looked_for() -> None:
    disk = WithDisk(1, 2, 3)
    assert all(held(disk.results, 1, 2, 3) == [True] * 3 for _ in range(9))
    assert len(disk.app.asked) == 3


def test_a_result_that_a_checkpoint_has_passed_is_on_the_disk_no_more() -> None:
    disk = WithDisk(1, 2, 3, 4, 5)
    assert held(disk.results, 1, 2, 3, 4, 5) == [True] * 5  # the last of them are at hand
    disk.app.disk.clear()
    assert disk.results.decode(record_on(BASE, 1)) is None
    assert held(disk.results, 1) == [False]


def test_a_result_on_the_disk_that_is_another_one_is_told_once_and_not_used() -> None:
    disk = WithDisk()
    disk.put(1, result_of(2))
    torn = EncodedResult([digest_of(result_of(3))], [result_of(3)[:-1]])  # under the true digest
    disk.app.disk[name(3)] = torn
    assert held(disk.results, 1, 3) == held(disk.results, 1, 3) == [False, False]
    assert disk.results.decode(record_on(BASE, 1)) is None
    assert disk.outlet.seen(KeptResultDamaged) == [KeptResultDamaged(name(1)), KeptResultDamaged(name(3))]


def test_what_was_damaged_on_the_disk_is_good_once_others_gave_it() -> None:
    disk = WithDisk()
    disk.put(1, result_of(2))
    assert held(disk.results, 1) == [False]
    disk.results.keep(name(1), EncodedResult([digest_of(result_of(1))], [result_of(1)]), ())
    assert disk.results.decode(record_on(BASE, 1)) is not None


def test_what_did_not_decode_is_not_read_from_the_disk_again() -> None:
    disk = WithDisk(1)
    assert held(disk.results, 1) == [True]
    disk.results.drop(name(1))
    assert held(disk.results, 1) == [False]
    assert disk.results.find(name(1)) is None
