"""Kept results: the last few, and all that are needed."""

from __future__ import annotations

import numpy as np

from peers.member.results import EncodedResult, KeptResults
from tests.peers.member.fakes import BASE, SIZE, FakeApp, record_on, result_of
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of


def kept_of(*indexes: int, needed: frozenset[bytes] = frozenset(), max_results: int = 2) -> KeptResults:
    results = KeptResults(FakeApp(), max_results)
    for index in indexes:
        chunk = result_of(index)
        results.keep(record_on(BASE, index).result, EncodedResult([digest_of(chunk)], [chunk]), needed)
    return results


def held(results: KeptResults, *indexes: int) -> list[bool]:
    return [record_on(BASE, index).result in results for index in indexes]


def test_the_oldest_result_makes_room() -> None:
    assert held(kept_of(1, 2, 3), 1, 2, 3) == [False, True, True]


def test_a_result_that_a_record_to_come_needs_stays() -> None:
    needed = frozenset({record_on(BASE, 1).result})
    assert held(kept_of(1, 2, 3, needed=needed), 1, 2, 3) == [True, False, True]


def test_a_kept_result_is_decoded_for_its_record() -> None:
    decoded = kept_of(5).decode(record_on(BASE, 5))
    assert isinstance(decoded, NumpyReducer)
    assert np.array_equal(decoded.output, np.full(SIZE, 5.0))


def test_a_result_of_several_chunks_is_decoded_chunk_by_chunk() -> None:
    results, record = KeptResults(FakeApp(), 2), record_on(BASE, 1, chunk_elements=SIZE // 2)
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
