"""Buffers for payloads: used again when nobody holds any part of them, and never before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from transport.sockets.bulk_buffers import Buffers

MIB = 1 << 20


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data)


def test_a_buffer_is_given_out_again_once_it_was_let_go() -> None:
    buffers = Buffers(8 * MIB)
    first = buffers.take(MIB)
    where = address(first)
    del first
    assert address(buffers.take(MIB - 5)) == where
    assert buffers.kept_bytes == MIB


def test_of_those_that_are_free_the_one_that_was_given_out_last_comes_first() -> None:
    buffers = Buffers(64 * MIB)
    held = [buffers.take(MIB) for _ in range(40)]
    where = [address(view) for view in held]
    for index in (0, 37, 20):  # long ago, of late, and between
        held[index] = memoryview(b"")
    again = [buffers.take(MIB) for _ in range(4)]
    assert [address(view) for view in again[:3]] == [where[37], where[20], where[0]]
    assert address(again[3]) not in where
    assert len({address(view) for view in (*held, *again) if len(view)}) == 41
    assert buffers.kept_bytes == 41 * MIB


def test_whatever_is_held_of_a_buffer_keeps_it() -> None:
    buffers = Buffers(8 * MIB)
    whole = buffers.take(MIB)
    part = whole[10:20]
    del whole
    array = np.frombuffer(buffers.take(MIB), dtype=np.float32)
    other = array[5:7]
    del array
    third = buffers.take(MIB)
    taken = {address(part) - 10, int(other.ctypes.data) - 20}
    assert len(taken) == 2
    assert address(third) not in taken
    assert buffers.kept_bytes == 3 * MIB


@pytest.mark.parametrize("fewer", [0, 1, 2, 3])
def test_what_is_held_is_kept_however_an_interpreter_counts(
    fewer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda thing: honest(thing) - fewer)
    buffers = Buffers(8 * MIB)
    held = [buffers.take(MIB) for _ in range(3)]
    assert len({address(view) for view in held}) == 3
    del held[0]
    buffers.drop_free()
    assert buffers.kept_bytes == 2 * MIB
    held.append(buffers.take(MIB))
    assert len({address(view) for view in held}) == 3


def test_a_payload_has_exactly_its_size() -> None:
    buffers = Buffers(MIB)
    assert [len(buffers.take(size)) for size in (0, 1, 5000, 70_000, MIB)] == [0, 1, 5000, 70_000, MIB]


def test_only_so_much_is_kept() -> None:
    buffers = Buffers(2 * MIB)
    held = [buffers.take(MIB) for _ in range(5)]
    assert buffers.kept_bytes == 2 * MIB
    assert len({address(view) for view in held}) == 5


def test_what_is_free_can_be_given_back() -> None:
    buffers = Buffers(8 * MIB)
    held = [buffers.take(MIB) for _ in range(3)]
    where = address(held[2])
    del held[:2]
    buffers.drop_free()
    assert buffers.kept_bytes == MIB
    held.clear()
    assert address(buffers.take(MIB)) == where
